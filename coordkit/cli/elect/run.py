"""`coordkit elect run`: lead while a command runs, and not a moment less."""

from __future__ import annotations

import argparse
import threading
from typing import Any

import coordkit
from coordkit import ticket as tickets
from coordkit.cli import options
from coordkit.cli.lock import run as lock_run

_SUMMARY = "lead while a command runs"
_EXAMPLES = """\
examples:
  coordkit elect run scheduler -- ./scheduler.py                  start it here when this machine is elected
  coordkit elect run scheduler --value "$HOSTNAME" -- celery -A app beat

What stands behind -- is started without a shell, with COORDKIT_ELECTION_NAME, _KEY, _FENCE and _LEASE set.
When the leadership is lost the command is ended: TERM a grace before the lease runs out, KILL when it does;
KILL at once when somebody deposed us.  To stand again after a loss, let a service manager restart this.

exit status: the command's, or 128 + the signal that ended it; 75 not elected (-E); 76 lost; 69 no etcd;
2 usage; 126 no program; 127 not found"""


def register(group: Any) -> None:
    """Add `elect run`."""
    parser = options.command(group, "run", _SUMMARY, _EXAMPLES, run)
    parser.usage = "coordkit elect run NAME [options] -- COMMAND..."
    parser.add_argument("name", metavar="NAME", help="of the election")
    parser.add_argument("--value", metavar="TEXT", help="what to proclaim; host:pid")
    lock_run.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Campaign, run, resign."""
    return lock_run.supervise(arguments, _Run)


class _Run(lock_run.Run):
    """One run."""

    kind = "election"
    variables = "COORDKIT_ELECTION_"

    def open(self, coord: coordkit.Coordinator) -> lock_run.LockLike:
        return _Office(coord.election(self._arguments.name), self._arguments.value)


class _Office:
    """An election as a lock: whoever leads holds it."""

    def __init__(self, election: coordkit.Election, value: str | None) -> None:
        self._election = election
        self._value = value
        self._leadership: coordkit.Leadership | None = None

    @property
    def _held(self) -> coordkit.Leadership:
        assert self._leadership is not None, "not elected"
        return self._leadership

    @property
    def fence(self) -> int:
        return self._held.fence

    @property
    def key(self) -> bytes:
        return self._held.key

    @property
    def lost(self) -> threading.Event:
        return self._held.lost

    def remaining(self) -> float:
        return self._held.remaining()

    def check(self) -> None:
        self._held.check()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        try:
            self._leadership = self._election.campaign(self._value, timeout if blocking else 0)
        except coordkit.AcquireTimeout:
            return False
        return True

    def release(self) -> None:
        self._held.resign()

    def contenders(self) -> list[tickets.Contender]:
        return [
            tickets.Contender(
                each.key, each.lease, each.fence, each.value.decode(errors="backslashreplace"), "", False
            )
            for each in self._election.contenders()
        ]
