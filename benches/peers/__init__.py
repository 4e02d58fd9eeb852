"""The servers that `benches/compare` measures, one folder each: configuration, application, and a `Peer` that says how the
server is started."""

import dataclasses
import importlib
import os
import pathlib
import typing

FOLDER = pathlib.Path(__file__).resolve().parent

# In the order of the tables.
MODULES = ("floor", "nibiru", "nginx_lua", "libfcgi", "uwsgi", "wsapi_fcgi", "php_fpm", "gunicorn")

# Connections that may wait in the kernel for each server: more than the clients ever have.
BACKLOG = 4096


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a peer is started with."""

    scratch: pathlib.Path
    socket: pathlib.Path
    workers: int
    # Of the workload `sqlite`. A path in any case: php-fpm refuses an empty value, and takes "None" for one.
    database: pathlib.Path = pathlib.Path("/nonexistent")
    # The binary of nibiru.
    nibiru: pathlib.Path | None = None
    # What an unchanging peer answers, as a CGI response in a file.
    response: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Peer:
    """A server, how it is started, and how nginx reaches it."""

    name: str
    label: str
    # The programs that it needs.
    programs: tuple
    # A command that prints its version.
    version: tuple | None
    # The command that starts it; None where nginx itself is the server.
    command: typing.Callable[[Setting], list] | None
    # The file for nginx's location; None where the files of deploy/nginx are in front.
    location: pathlib.Path | None = None
    # Lines for nginx's own configuration: outside of any block, and in `http`.
    nginx_main: str = ""
    nginx_http: str = ""
    # What is compiled once, before the first round.
    prepare: typing.Callable[[pathlib.Path], None] = lambda scratch: None
    # The workloads that it has not, and the reason.
    without: dict = dataclasses.field(default_factory=dict)


def load():
    """Every peer, by name."""
    peers = [peer for module in MODULES for peer in importlib.import_module(f"peers.{module}").PEERS]
    return {peer.name: peer for peer in peers}


def backlog():
    """The longest queue of connections that the kernel allows a socket, up to BACKLOG."""
    return min(BACKLOG, int(pathlib.Path("/proc/sys/net/core/somaxconn").read_text()))


def fill(path, setting, **values):
    """The file with its @NAMES@ filled in."""
    text = path.read_text()
    values = {"SOCKET": setting.socket, "SCRATCH": setting.scratch, "DATABASE": setting.database, "WORKERS": setting.workers,
              "BACKLOG": backlog(), "FOLDER": path.parent, **values}
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def write(setting, path, **values):
    """Fills the file in, and writes it into the scratch directory."""
    written = setting.scratch / path.name
    written.write_text(fill(path, setting, **values))
    return written


def spawned(setting, *program):
    """A FastCGI program on its listening socket, in as many processes as there are workers, under a process that watches them.

    This is how lighttpd's authors start programs that have no manager of their own.
    """
    return ["spawn-fcgi", "-n", "-s", setting.socket, "-b", str(backlog()), "--",
            "/usr/bin/multiwatch", "-f", str(setting.workers), "-s", "TERM", "--", *program]


def is_root():
    return os.geteuid() == 0
