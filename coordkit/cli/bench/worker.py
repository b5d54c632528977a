"""A worker process: `python -m coordkit.cli.bench.worker ROLE SETTINGS`, or the same under `gevent.monkey`.

ROLE is one of `ROLES`, or another "module:class". The worker builds its role, says that it is ready, and
answers orders, JSON line by line, until its pipe is closed. A role has `round(**order)`, whose result is the
answer, and `close()`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import select
import sys
import traceback
from collections.abc import Iterator
from typing import Any

ROLES = {
    "contenders": "coordkit.cli.bench.contenders:Contenders",
    "pair-floor": "coordkit.cli.bench.floor:PairFloor",
    "delete-floor": "coordkit.cli.bench.floor:DeleteFloor",
    "watch-floor": "coordkit.cli.bench.floor:WatchFloor",
    "coordkit-puts": "coordkit.cli.bench.puts:CoordkitPuts",
    "grpcio-puts": "coordkit.cli.bench.puts:GrpcioPuts",
}
_START_S = 60.0
_END_S = 10.0


def main(arguments: list[str]) -> int:
    """Serve one parent."""
    name, settings = arguments[0], json.loads(arguments[1])
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anybody prints is no answer
    try:
        faulthandler.dump_traceback_later(_START_S, exit=True)
        if patched() is not settings.pop("patched"):
            raise RuntimeError(f"sockets are patched: {patched()}; that is not what was asked for")
        module, _, role_name = ROLES.get(name, name).partition(":")
        with contextlib.closing(getattr(importlib.import_module(module), role_name)(**settings)) as role:
            _say(answers, {"ready": True})
            for order in _orders(sys.stdin.fileno()):
                _say(answers, role.round(**order))
    except BrokenPipeError:
        return 1  # nobody listens any more
    except Exception as error:
        traceback.print_exc()
        _say(answers, {"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _orders(source: int) -> Iterator[dict[str, Any]]:
    """Orders as they come. Waiting is a select, so that under gevent everything else goes on."""
    received = b""
    while True:
        faulthandler.cancel_dump_traceback_later()
        select.select([source], [], [])
        piece = os.read(source, 65_536)
        if not piece:
            faulthandler.dump_traceback_later(_END_S, exit=True)
            return
        received += piece
        while b"\n" in received:
            line, _, received = received.partition(b"\n")
            order = json.loads(line)
            # A thread of the interpreter's own: it fires even when the hub is blocked or all threads hang.
            faulthandler.dump_traceback_later(order["limit_s"], exit=True)
            yield order["order"]


def _say(answers: int, answer: dict[str, Any]) -> None:
    line = json.dumps(answer).encode() + b"\n"
    while line:
        line = line[os.write(answers, line) :]


def patched() -> bool:
    """Whether this process is gevent's."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
