"""nginx with one worker, in a scratch directory."""

import contextlib
import os
import socket

from common import PORT, REPOSITORY


def nginx_command(scratch, path, edit=lambda site: site):
    """nginx with the files of deploy/nginx in front of the socket `path`; `edit` changes the site's file."""
    return command_with(scratch, edit(deployed(scratch, path)))


def deployed(scratch, path):
    """The site of deploy/nginx, in front of the socket `path`."""
    (scratch / "nibiru_params").write_text((REPOSITORY / "deploy/nginx/nibiru_params").read_text())
    site = (REPOSITORY / "deploy/nginx/nibiru.conf").read_text()
    return site.replace("listen 80;", f"listen 127.0.0.1:{PORT} backlog=4096;").replace("/run/nibiru/app.sock", str(path))


def command_with(scratch, site, main="", http=""):
    """nginx with this site; `main` is for nginx.conf outside of every block, `http` for its `http` block."""
    # Another server's responses must not be taken for those of this one.
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), 1):
        raise SystemExit(f"something else listens on port {PORT}")
    (scratch / "site.conf").write_text(site)
    temporary = "".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "fastcgi", "proxy", "scgi", "uwsgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    # wrk would be cut off after 1000 requests on a connection.
    (scratch / "nginx.conf").write_text(
        f"{user} worker_processes 1; pid nginx.pid; error_log stderr; {main} events {{ worker_connections 4096; }}"
        f"http {{ access_log off; keepalive_requests 1000000; {temporary} {http} include site.conf; }}")
    return ["nginx", "-p", scratch, "-c", scratch / "nginx.conf", "-e", "stderr", "-g", "daemon off;"]
