"""The floor: a C loop that answers a constant.

`peers/floor/floor.c`: one process, one thread, a constant answer, keep-alive connections from nginx with the
files of `deploy/nginx`. No FastCGI server behind this nginx can do less work.
"""

from common import run

from peers import FOLDER, Peer


def command(setting):
    return [setting.scratch / "floor", setting.socket, setting.response]


PEERS = [Peer(
    name="floor",
    label="floor (C loop)",
    programs=("cc",),
    version=("cc", "--version"),
    command=command,
    prepare=lambda scratch: run("cc", "-O2", "-o", scratch / "floor", FOLDER / "floor/floor.c"),
    without={"sqlite": "it has no application", "slow": "it has one thread, which would make everybody wait"},
)]
