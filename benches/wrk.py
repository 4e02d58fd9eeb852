"""Load with wrk, one thread."""

import dataclasses
import re

from common import PORT, REPOSITORY, output

# Longer than any response takes that is not lost.
TIMEOUT_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Load:
    """What wrk asks for."""

    path: str = "/"
    method: str = "GET"
    body_bytes: int = 0
    other_path: str = "/"
    # Each request of this number asks for `other_path`; 0: none does.
    every: int = 0


@dataclasses.dataclass(frozen=True)
class Result:
    requests: int
    bytes: int
    seconds: float
    p50_ms: float
    p99_ms: float
    # What went wrong, by kind, where anything did.
    errors: dict

    @property
    def rate(self):
        return self.requests / self.seconds


def wrk(load, connections, seconds, expected=None):
    """Loads nginx. With `expected`, a file, each response is compared with it."""
    text = output("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_SECONDS}s", "-s", REPOSITORY / "benches/wrk.lua",
                  f"http://127.0.0.1:{PORT}", "--", load.method, load.path, str(load.body_bytes), load.other_path, str(load.every),
                  *([expected] if expected else []))
    line = re.search(r"^result (.+)$", text, re.MULTILINE)
    if not line:
        raise SystemExit(f"wrk failed:\n{text}")
    numbers = {name: int(number) for name, number in (pair.split("=") for pair in line.group(1).split())}
    errors = {name: numbers[name] for name in ("connect", "read", "write", "status", "timeout", "wrong") if numbers[name]}
    return Result(numbers["requests"], numbers["bytes"], numbers["us"] / 1e6, numbers["p50"] / 1000, numbers["p99"] / 1000, errors)
