"""The application for Gunicorn: WSGI."""

import os
import sqlite3
import time

JSON = b'{"id":500,"name":"item 500","price":12.5,"tags":["a","b","c"],"in_stock":true}\n'
DOWN = b"x" * 65536
BLOCK = 8192

database = None


def hello(environ):
    return "text/plain", b"Hello, World!\n"


def json(environ):
    return "application/json", JSON


def up(environ):
    taken = 0
    while block := environ["wsgi.input"].read(BLOCK):
        taken += len(block)
    return "text/plain", b"%d\n" % taken


def down(environ):
    return "application/octet-stream", DOWN


def sqlite(environ):
    global database
    # A connection of this worker, opened at its first request.
    if database is None:
        database = sqlite3.connect(os.environ["BENCH_DATABASE"])
    number = int(environ["QUERY_STRING"].removeprefix("id="))
    (name,) = database.execute("SELECT name FROM item WHERE id = ?", (number,)).fetchone()
    return "text/plain", name.encode() + b"\n"


def slow(environ):
    if environ["QUERY_STRING"] == "wait":
        time.sleep(0.02)
    return "text/plain", b"Hello, World!\n"


ROUTES = {f"/{route.__name__}": route for route in (hello, json, up, down, sqlite, slow)}


def application(environ, start_response):
    path = environ["PATH_INFO"]
    kind, body = ROUTES[path](environ)
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    if path == "/json":
        headers.extend((f"X-Header-{i}", f"value {i}") for i in range(1, 21))
    start_response("200 OK", headers)
    return [body]
