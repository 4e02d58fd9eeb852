"""nibiru itself.

Its defaults, and the files of `deploy/nginx` as they are: 32 kept connections, since a connection holds no
worker.
"""

from peers import FOLDER, Peer


def command(setting):
    return [setting.nibiru, "serve", "--root", FOLDER / "nibiru", "--listen", f"unix:{setting.socket}",
            "--workers", str(setting.workers), "app"]


PEERS = [Peer(
    name="nibiru",
    label="nibiru (Lua 5.4)",
    programs=(),
    version=None,
    command=command,
)]
