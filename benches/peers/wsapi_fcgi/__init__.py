"""WSAPI's own FastCGI connector.

The launcher for one application of its manual, which is faster than the generic `wsapi.fcgi`; started by
`spawn-fcgi` and `multiwatch`. A new connection for each request, as libfcgi, on which it is built.
"""

from peers import FOLDER, Peer, spawned

PEERS = [Peer(
    name="wsapi_fcgi",
    label="WSAPI, FastCGI (Lua 5.1)",
    programs=("lua5.1", "spawn-fcgi", "multiwatch"),
    version=("dpkg-query", "--show", "--showformat", "WSAPI ${Version}", "lua-wsapi-fcgi"),
    command=lambda setting: spawned(setting, "/usr/bin/lua5.1", FOLDER / "wsapi_fcgi/launcher.lua", FOLDER / "wsapi.lua"),
    location=FOLDER / "wsapi_fcgi/location.conf",
)]
