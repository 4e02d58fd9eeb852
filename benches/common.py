"""What every benchmark needs: the repository, a build, commands, and the circumstances of a run."""

import datetime
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PORT = 18081


def build():
    run("cargo", "build", "--release", "--locked", "--quiet", cwd=REPOSITORY)
    target = os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")
    return pathlib.Path(target) / "release/nibiru"


def machine():
    model = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{os.cpu_count()} × {model.group(1) if model else platform.machine()}, Linux {kernel}"


def version(*command):
    return output(*command).splitlines()[0].split(" Copyright")[0].removeprefix("nginx version: ").strip()


def circumstances(*versions):
    """Date, machine and versions, as a report of figures has them."""
    programs = ", ".join(dict.fromkeys(version(*command) for command in versions))
    return "; ".join(part for part in (str(datetime.date.today()), machine(), programs) if part) + "."


def command_line():
    """This command, as it is typed in the repository."""
    return shlex.join([f"benches/{pathlib.Path(sys.argv[0]).name}", *sys.argv[1:]])


def print_circumstances(load, *versions):
    print(f"date      {datetime.date.today()}")
    print(f"machine   {machine()}")
    print(f"versions  {', '.join(version(*command) for command in versions)}")
    print(f"load      {load}")
    print()


def run(*command, **options):
    subprocess.run(command, check=True, **options)


def output(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout
