"""`python -m tests.gate.load [--seconds 60]`: wrk floods `serve`, below what it can take and above.

Below, no answer is a 5xx. Above, those that find the queue full are told 503 and when to come back,
the others are answered, and the memory of all its processes stays below a bound.
"""

import json
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from tests import tiny
from tests.integration.test_serve import TOKEN, Server
from tests.unit.models.conftest import kept

BELOW, ABOVE = 16, 256
"""Clients at a time: fewer than wait without being sent away, and many more."""
MOST_GROWTH_MB = 500.0

SCRIPT = """
wrk.method = "POST"
wrk.headers["Authorization"] = "Bearer {token}"
wrk.headers["Content-Type"] = "multipart/form-data; boundary=x"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
local threads = {{}}
function setup(thread) table.insert(threads, thread) end
function init() answers, later = {{}}, 0 end
function response(status, headers)
  answers[status] = (answers[status] or 0) + 1
  if headers["retry-after"] then later = later + 1 end
end
function done(summary, latency)
  local all, wait = {{}}, 0
  for _, thread in ipairs(threads) do
    for status, n in pairs(thread:get("answers")) do all[status] = (all[status] or 0) + n end
    wait = wait + thread:get("later")
  end
  local parts = {{}}
  for status, n in pairs(all) do table.insert(parts, '"' .. status .. '":' .. n) end
  io.write('DONE {{"statuses":{{' .. table.concat(parts, ",") .. '}},"later":' .. wait ..
    ',"broken":' .. summary.errors.connect + summary.errors.read + summary.errors.timeout ..
    ',"p99_s":' .. latency:percentile(99) / 1e6 .. '}}\\n')
end
"""


def memory_mb(server: Server) -> float:
    """Adds up what all its processes hold for themselves."""
    top, total = psutil.Process(server.process.pid), 0
    for process in (top, *top.children(recursive=True)):
        with suppress(psutil.Error):
            told = process.memory_info()
            total += told.rss - told.shared
    return total / 2**20


def flood(address: str, script: Path, clients: int, seconds: int) -> dict[str, Any]:
    """Sends as many requests as `clients` can; returns how they were answered."""
    told = subprocess.run(
        [
            *("wrk", "-t", "2", "-c", str(clients), "-d", f"{seconds}s", "--timeout", "60s"),
            *("-s", str(script), f"{address}/predict"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = re.findall(r"^DONE (.*)$", told.stdout, re.M)
    return dict(json.loads(line))


def main(seconds: Annotated[int, typer.Option(min=1, help="Of each flood.")] = 60) -> None:
    """Floods a server of a small model; ends with 1 where a promise is broken."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        model = kept(home, "kmeans")
        image = tiny.png(tiny.picture(3, (256, 256))[0])
        head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        (home / "body").write_bytes(head + image + b"\r\n--x--\r\n")
        script = home / "post.lua"
        script.write_text(SCRIPT.format(token=TOKEN, body=home / "body"))
        server = Server(home, "", "serve", "--model", str(model), "--port", "0", "--device", "cpu")
        try:
            address = server.address()
            below = flood(address, script, BELOW, seconds)
            before = memory_mb(server)
            above = flood(address, script, ABOVE, seconds)
            grown = memory_mb(server) - before
        finally:
            server.process.terminate()
            server.process.wait(120)
    for clients, told in ((BELOW, below), (ABOVE, above)):
        statuses = ", ".join(f"{n} x {code}" for code, n in sorted(told["statuses"].items()))
        print(
            f"{clients} clients, answers {statuses}; {told['broken']} broken off, "
            f"p99 {told['p99_s']:.1f} s"
        )
    print(f"memory grew by {grown:.0f} MB")
    kept_promises = (
        set(below["statuses"]) == {"200"},
        set(above["statuses"]) <= {"200", "503"},
        above["later"] == above["statuses"].get("503", 0),
        grown < MOST_GROWTH_MB,
    )
    sys.exit(int(not all(kept_promises)))


if __name__ == "__main__":
    typer.run(main)
