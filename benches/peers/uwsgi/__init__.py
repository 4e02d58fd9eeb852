"""uWSGI with its Lua plugin, over FastCGI and over its own protocol.

`master`, `thunder-lock`, no request log, no full collection of garbage after each request (`lua-gc-freq`), a long enough
`listen` queue. uWSGI closes each connection after its response, with both protocols.
"""

from peers import FOLDER, Peer, write


def peer(name, protocol, option):
    """uWSGI over a protocol; `option` opens its socket."""
    def command(setting):
        return ["uwsgi", "--ini", write(setting, FOLDER / "uwsgi/uwsgi.ini", PROTOCOL=option, APP=FOLDER / "wsapi.lua")]

    return Peer(
        name=name,
        label=f"uWSGI, {protocol} (Lua 5.1)",
        programs=("uwsgi",),
        version=("dpkg-query", "--show", "--showformat", "uWSGI ${Version}", "uwsgi-plugin-lua5.1"),
        command=command,
        location=FOLDER / f"uwsgi/{protocol.lower()}.conf",
    )


PEERS = [peer("uwsgi_fastcgi", "FastCGI", "fastcgi-socket"), peer("uwsgi", "uwsgi", "uwsgi-socket")]
