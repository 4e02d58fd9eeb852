"""One request over a plain socket: the response to the byte, as wrk gets it."""

import dataclasses
import re
import socket

from common import PORT
from wrk import Load

SECONDS = 10

# nginx's counters; the site has a location for them.
STATUS = "/-/nginx"


@dataclasses.dataclass(frozen=True)
class Response:
    status: int
    headers: dict
    body: bytes
    # Of the whole response on the wire, head and chunks included.
    length: int


def ask(load, path=None):
    """The response to the load's usual request, or to the same for another path."""
    body = b"x" * load.body_bytes
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    request = f"{load.method} {path or load.path} HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\n{length}\r\n".encode() + body
    with socket.create_connection(("127.0.0.1", PORT), SECONDS) as client, client.makefile("rb") as stream:
        client.sendall(request)
        return read(stream)


def read(stream):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            raise OSError("the connection ended within the head")
        head += line
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body, on_wire = read_chunks(stream)
    else:
        body = stream.read(int(headers["content-length"]))
        on_wire = len(body)
    return Response(int(first.split(" ")[1]), headers, body, len(head) + on_wire)


def read_chunks(stream):
    body, on_wire = b"", 0
    while True:
        line = stream.readline()
        chunk = stream.read(int(line, 16) + 2)
        on_wire += len(line) + len(chunk)
        if chunk == b"\r\n":
            return body, on_wire
        body += chunk[:-2]


def fault(response, workload):
    """What is wrong with the response; None when it is right."""
    if response.status != 200:
        return f"status {response.status}"
    if response.body != workload.body:
        return f"a body of {len(response.body)} bytes that begins {response.body[:60]!r}"
    for name, value in (("Content-Type", workload.content_type), *workload.headers):
        if not response.headers.get(name.lower(), "").startswith(value):
            return f"{name} is {response.headers.get(name.lower())!r}"
    return None


def accepted():
    """How many connections nginx has accepted so far, this one included."""
    return int(re.search(rb"requests\s+(\d+)", ask(Load(STATUS)).body).group(1))

