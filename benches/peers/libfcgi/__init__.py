"""libfcgi: a C program on the library of FastCGI's authors.

`FCGX_Accept_r` in each process, started by `spawn-fcgi` and `multiwatch` on one socket. A new connection for
each request, because a process waits for the next request of a connection that it has, and others would
starve.
"""

from common import run

from peers import FOLDER, Peer, spawned


def prepare(scratch):
    run("cc", "-O2", "-o", scratch / "libfcgi-app", FOLDER / "libfcgi/app.c", "-lfcgi", "-lsqlite3")


PEERS = [Peer(
    name="libfcgi",
    label="libfcgi (C)",
    programs=("cc", "spawn-fcgi", "multiwatch"),
    version=("dpkg-query", "--show", "--showformat", "libfcgi ${Version}", "libfcgi-dev"),
    command=lambda setting: spawned(setting, setting.scratch / "libfcgi-app"),
    location=FOLDER / "libfcgi/location.conf",
    prepare=prepare,
)]
