"""What is asked of each server, and the response that is right."""

import dataclasses
import sqlite3

from wrk import Load

ROWS = 1000


@dataclasses.dataclass(frozen=True)
class Workload:
    name: str
    description: str
    load: Load
    # The body of every response, and headers that it has.
    body: bytes
    content_type: str = "text/plain"
    headers: tuple = ()

    def response(self):
        """The response as a CGI program gives it."""
        head = (("Status", "200 OK"), ("Content-Type", self.content_type), ("Content-Length", str(len(self.body))), *self.headers)
        return "".join(f"{name}: {value}\r\n" for name, value in head).encode() + b"\r\n" + self.body


HELLO = b"Hello, World!\n"

WORKLOADS = {workload.name: workload for workload in (
    Workload("hello", "“Hello, World!”, 14 bytes", Load("/hello"), HELLO),
    Workload("json", "79 bytes of JSON, a constant, with 20 more headers", Load("/json"),
             b'{"id":500,"name":"item 500","price":12.5,"tags":["a","b","c"],"in_stock":true}\n', "application/json",
             tuple((f"X-Header-{i}", f"value {i}") for i in range(1, 21))),
    Workload("up", "a request body of 64 KiB, read in blocks of 8 KiB; its length is the response",
             Load("/up", method="POST", body_bytes=65536), b"65536\n"),
    Workload("down", "a response body of 64 KiB", Load("/down"), b"x" * 65536, "application/octet-stream"),
    Workload("sqlite", "one query of SQLite by primary key, on a connection that each process keeps", Load("/sqlite?id=500"), b"item 500\n"),
    Workload("slow", "“Hello, World!”, but one request in fifty sleeps for 20 ms", Load("/slow", other_path="/slow?wait", every=50), HELLO),
)}


def make_database(path):
    """The database of `sqlite`: a table of numbered items."""
    database = sqlite3.connect(path)
    with database:
        database.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        database.executemany("INSERT INTO item VALUES (?, ?)", ((number, f"item {number}") for number in range(1, ROWS + 1)))
    database.close()
    path.chmod(0o666)
