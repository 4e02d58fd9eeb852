"""Servers as processes: how they start and end, and what a tree of processes costs."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
# A process that has not ended so long after SIGTERM is killed, with its descendants.
END_SECONDS = 10


@contextlib.contextmanager
def process(command, log=None, **options):
    """A process that ends with the block. `log` is a file for its output."""
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(open(log, "ab")) if log else subprocess.DEVNULL
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **options)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in tree(started.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            started.wait()


def wait_until_accepts(family, address):
    for _ in range(1000):
        with contextlib.suppress(OSError), socket.socket(family) as probe:
            probe.connect(address)
            return
        time.sleep(0.01)
    raise TimeoutError(f"nothing listens on {address}")


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
    """(user, system) time of a process and its descendants, those already gone included."""
    stats = [list(map(int, stat[11:15])) for stat in tree(root).values()]
    return (sum(user + gone for user, _, gone, _ in stats) / TICKS,
            sum(system + gone for _, system, _, gone in stats) / TICKS)


def resident(root):
    """Resident bytes of a process and its descendants, by pid."""
    page = os.sysconf("SC_PAGE_SIZE")
    return {pid: int(stat[21]) * page for pid, stat in tree(root).items()}


def proportional(root):
    """Proportional set size (PSS) of a process and its descendants together, in bytes; None without permission to look."""
    total = 0
    for pid in tree(root):
        try:
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        except ProcessLookupError:
            continue
        except OSError:
            return None
        total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE).group(1)) * 1024
    return total
