"""What the benchmarks share: nibiru and nginx as processes on a scratch directory, and what they cost."""

import contextlib
import datetime
import os
import pathlib
import platform
import re
import socket
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
PORT = 18081


def build():
    run("cargo", "build", "--release", "--locked", "--quiet", cwd=REPOSITORY)
    target = os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")
    return pathlib.Path(target) / "release/nibiru"


def nginx_command(scratch, path, edit=lambda site: site):
    """nginx with the files of deploy/nginx in front of the socket `path`; `edit` changes the site's file."""
    conf = edit((REPOSITORY / "deploy/nginx/nibiru.conf").read_text())
    conf = conf.replace("listen 80;", f"listen 127.0.0.1:{PORT};").replace("/run/nibiru/app.sock", str(path))
    (scratch / "nibiru.conf").write_text(conf)
    (scratch / "nibiru_params").write_text((REPOSITORY / "deploy/nginx/nibiru_params").read_text())
    temporary = "".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "fastcgi", "proxy", "scgi", "uwsgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    # wrk would be cut off after 1000 requests on a connection.
    (scratch / "nginx.conf").write_text(
        f"{user} worker_processes 1; pid nginx.pid; error_log stderr; events {{ worker_connections 4096; }}"
        f"http {{ access_log off; keepalive_requests 1000000; {temporary} include nibiru.conf; }}")
    return ["nginx", "-p", scratch, "-c", scratch / "nginx.conf", "-e", "stderr", "-g", "daemon off;"]


@contextlib.contextmanager
def process(command):
    started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield started
    finally:
        started.terminate()
        started.wait()


def wait_until_accepts(family, address):
    for _ in range(1000):
        with contextlib.suppress(OSError), socket.socket(family) as probe:
            probe.connect(address)
            return
        time.sleep(0.01)
    raise SystemExit(f"nothing listens on {address}")


def tree(root):
    """The fields of proc(5)'s stat from the third on, of a process and its descendants, by pid."""
    stats = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stats[int(entry.name)] = (entry / "stat").read_text().rsplit(") ", 1)[1].split()
    found = {root} & stats.keys()
    while more := {pid for pid, stat in stats.items() if int(stat[1]) in found} - found:
        found |= more
    return {pid: stats[pid] for pid in found}


def cpu_seconds(root):
    """User and system time of a process and its descendants, those already gone included."""
    return sum(sum(map(int, stat[11:15])) for stat in tree(root).values()) / TICKS


def resident(root):
    """Resident bytes of a process and its descendants, by pid."""
    page = os.sysconf("SC_PAGE_SIZE")
    return {pid: int(stat[21]) * page for pid, stat in tree(root).items()}


def print_circumstances(load, *versions):
    model = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    print(f"date      {datetime.date.today()}")
    print(f"machine   {os.cpu_count()} × {model.group(1) if model else platform.machine()}, Linux {platform.release()}")
    print(f"versions  {', '.join(output(*version).splitlines()[0].split(' Copyright')[0].strip() for version in versions)}")
    print(f"load      {load}")
    print()


def run(*command, **options):
    subprocess.run(command, check=True, **options)


def output(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout
