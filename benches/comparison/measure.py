"""One peer with one workload: started, checked, and loaded with each number of connections."""

import contextlib
import os
import re
import socket

from common import PORT
from nginx import command_with, deployed
from peers import FOLDER, fill
from processes import cpu_seconds, process, proportional, wait_until_accepts
from wrk import wrk

from . import probe

# Each response of the warm-up is compared with the right one.
WARM_UP_SECONDS = 1
WARM_UP_CONNECTIONS = 8

# Characters of a log line that a void measurement quotes.
LOGGED = 300

# wrk connects once to see whether the address answers.
WRK_PROBES = 1


class Void(Exception):
    """Why there is no measurement."""


def measure(peer, workload, connections, seconds, setting):
    """For each number of connections: (connections, figures), or (connections, a `Void`)."""
    setting.response.write_bytes(workload.response())
    environment = {**os.environ, "BENCH_DATABASE": str(setting.database)}
    log = setting.scratch / "log"
    log.write_bytes(b"")
    with contextlib.ExitStack() as stack:
        try:
            server = start(stack, peer, setting, environment, log)
            nginx = stack.enter_context(process(nginx_for(peer, setting), log, env=environment))
            wait_until_accepts(socket.AF_INET, ("127.0.0.1", PORT))
            length = check(workload)
            warm_up(workload, setting)
        except (Void, OSError) as reason:
            yield from ((count, explained(reason, log)) for count in connections)
            return
        for count in connections:
            try:
                yield count, load(workload, count, seconds, length, server, nginx)
            except (Void, OSError) as reason:
                yield count, explained(reason, log)


def start(stack, peer, setting, environment, log):
    """The server's process; None where nginx is the server."""
    setting.socket.unlink(missing_ok=True)
    if not peer.command:
        return None
    server = stack.enter_context(process(peer.command(setting), log, env=environment))
    wait_until_accepts(socket.AF_UNIX, str(setting.socket))
    return server


def nginx_for(peer, setting):
    if peer.location:
        site = fill(FOLDER / "nginx.conf", setting, PORT=PORT, LOCATION=fill(peer.location, setting))
    else:
        site = deployed(setting.scratch, setting.socket)
    # nginx's counters. The requests that are measured do not pass this location.
    site = site.replace("location / {", f"location = {probe.STATUS} {{ stub_status; }}\n    location / {{", 1)
    return command_with(setting.scratch, site, peer.nginx_main, peer.nginx_http)


def check(workload):
    """The length of the right response on the wire."""
    paths = [workload.load.path] + ([workload.load.other_path] if workload.load.every else [])
    lengths = set()
    for path in paths:
        response = probe.ask(workload.load, path)
        if reason := probe.fault(response, workload):
            raise Void(f"{path} was answered with {reason}")
        lengths.add(response.length)
    if len(lengths) > 1:
        raise Void(f"its responses have different lengths: {lengths}")
    return lengths.pop()


def warm_up(workload, setting):
    expected = setting.scratch / "expected"
    expected.write_bytes(workload.body)
    result = wrk(workload.load, WARM_UP_CONNECTIONS, WARM_UP_SECONDS, expected)
    if result.errors or not result.requests:
        raise Void(f"of {result.requests} responses while it warmed up: {result.errors}")


def load(workload, connections, seconds, length, server, nginx):
    """The figures of one measurement."""
    accepted = probe.accepted()
    before = cpu(server), cpu(nginx)
    result = wrk(workload.load, connections, seconds)
    after = cpu(server), cpu(nginx)
    accepted = probe.accepted() - accepted - 1 - WRK_PROBES
    if result.errors or not result.requests:
        raise Void(f"of {result.requests} responses: {result.errors}")
    # wrk opens a connection anew where one has ended too early, and tells nobody.
    if accepted != connections:
        raise Void(f"nginx accepted {accepted} connections, not {connections}: some were cut")
    # When wrk stops, a part of the next response may have come on each connection.
    excess = result.bytes - result.requests * length
    if not 0 <= excess <= connections * length:
        raise Void(f"{result.requests} responses of {length} bytes were {result.bytes} bytes")
    figures = {"requests": result.requests, "seconds": result.seconds, "rate": result.rate, "p50_ms": result.p50_ms, "p99_ms": result.p99_ms}
    for name, begun, ended in zip(("server", "nginx"), before, after):
        figures[f"{name}_user_us"], figures[f"{name}_system_us"] = ((b - a) / result.requests * 1e6 for a, b in zip(begun, ended))
    figures["pss"] = proportional((server or nginx).pid)
    return figures


def cpu(started):
    return cpu_seconds(started.pid) if started else (0, 0)


def explained(reason, log):
    """The reason, with the last error that server or nginx logged."""
    errors = [line for line in log.read_text(errors="replace").splitlines() if re.search("error|warn|crit", line, re.IGNORECASE)]
    logged = f" (logged: {errors[-1].replace(str(log.parent), '…')[:LOGGED]})" if errors else ""
    return Void(f"{reason}{logged}")
