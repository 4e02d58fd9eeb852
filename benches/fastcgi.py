"""The records of a FastCGI client, and a client."""

import socket
import struct

# A response that takes longer is lost.
TIMEOUT_SECONDS = 10

BEGIN, END, PARAMS, STDIN, STDOUT = 1, 3, 4, 5, 6


def record(kind, content=b""):
    return struct.pack(">BBHHBx", 1, kind, 1, len(content), 0) + content


def begin(keep):
    """The first record of a request, after whose response the connection stays open where `keep` is true."""
    return record(BEGIN, struct.pack(">HB5x", 1, keep))


def params(method, url, length=None):
    """The parameters of a request, as the content of a record."""
    path, _, query = url.partition("?")
    pairs = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_URI": url,
             "SERVER_NAME": "localhost", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1"}
    if length is not None:
        pairs["CONTENT_LENGTH"] = str(length)
    return b"".join(bytes([len(name), len(value)]) + name.encode() + value.encode() for name, value in pairs.items())


class Client:
    """One kept FastCGI connection."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_SECONDS)
        self.socket.connect(str(path))

    def get(self, url):
        self.socket.sendall(begin(True) + record(PARAMS, params("GET", url)) + record(PARAMS) + record(STDIN))
        body = b""
        while True:
            _, kind, _, length, padding, _ = struct.unpack(">BBHHBB", self.read(8))
            content = self.read(length)
            self.read(padding)
            if kind == STDOUT:
                body += content
            if kind == END:
                return body

    def read(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        return data
