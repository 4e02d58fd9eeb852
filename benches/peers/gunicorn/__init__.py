"""Gunicorn with sync workers.

`sync` workers, its default, made for a proxy that buffers; HTTP over a Unix socket, heartbeat in memory, no access
log. Sync workers keep no connection open.
"""

from peers import FOLDER, Peer, write


def command(setting):
    configuration = write(setting, FOLDER / "gunicorn/gunicorn.conf.py")
    return ["gunicorn", "--config", configuration, "app:application"]


PEERS = [Peer(
    name="gunicorn",
    label="Gunicorn, sync (Python)",
    programs=("gunicorn",),
    version=("gunicorn", "--version"),
    command=command,
    location=FOLDER / "gunicorn/location.conf",
)]
