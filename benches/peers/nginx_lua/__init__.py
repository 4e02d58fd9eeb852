"""nginx's Lua module: the application in nginx's own worker.

`content_by_lua`, the code loaded once, in the one worker of nginx: no second process and no socket. The bound
for every design with a hop. Whatever blocks there, such as a query, blocks every client.
"""

from peers import FOLDER, Peer

PEERS = [Peer(
    name="nginx_lua",
    label="nginx's Lua module (LuaJIT)",
    programs=("nginx",),
    version=("dpkg-query", "--show", "--showformat", "lua-nginx-module ${Version}", "libnginx-mod-http-lua"),
    command=None,
    location=FOLDER / "nginx_lua/location.conf",
    # As Debian's own file loads them.
    nginx_main="load_module /usr/lib/nginx/modules/ndk_http_module.so;"
               "load_module /usr/lib/nginx/modules/ngx_http_lua_module.so; env BENCH_DATABASE;",
    nginx_http=f'lua_package_path "{FOLDER}/nginx_lua/?.lua;;";',
)]
