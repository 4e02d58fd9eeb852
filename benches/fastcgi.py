"""The records of a FastCGI client."""

import struct

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
