"""What a test left behind: sessions, keys, threads.

Cost: a dial and two reads; while something is there it is looked at again, for what was just
closed may take a moment to be gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator

import attrs

from coordkit import coordinator, deadline, keys

SETTLE_S = 5.0  # what is still there then was left behind
SESSIONS = "sessions"
KEYS = "keys"
THREADS = "threads"
KINDS = frozenset({SESSIONS, KEYS, THREADS})

_OURS = "coordkit-"  # coordkit's own business: they end by themselves, or with the process


@attrs.frozen
class Leak:
    """One thing that should not be there any more."""

    kind: str  # "sessions", "keys" or "threads"
    what: str  # a key or a thread's name; never a value

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


class Inspection:
    """Compares what is there after a test with what was there when this was made."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())

    def find(self, witness: coordinator.Coordinator, forbidden: Collection[str]) -> list[Leak]:
        """What is still there after all of the test's coordinators were closed.

        Keys that were found are deleted, so that nobody else need care.

        Args:
            witness: A coordinator in the test's namespace, for this alone; it is closed.
            forbidden: The kinds that count, and that are waited for to go.
        """
        with witness:
            found = _settled(lambda: _of_kinds(forbidden, _keys(witness)))
            if witness.kv.range(_prefix(witness)):
                witness.kv.delete_prefix(_prefix(witness))
        return found + _settled(lambda: _of_kinds(forbidden, self._new_threads()))

    def _new_threads(self) -> Iterator[Leak]:
        for thread in threading.enumerate():
            # A dummy stands for what others started: a greenlet, or a thread of C code.
            dummy = isinstance(thread, threading._DummyThread)
            if thread in self._threads or dummy or thread.name.startswith(_OURS):
                continue
            yield Leak(THREADS, f"{thread.name!r}, {'daemonic' if thread.daemon else 'not daemonic'}")


def _prefix(witness: coordinator.Coordinator) -> bytes:
    return f"/{witness.settings.namespace}/".encode()


def _of_kinds(kinds: Collection[str], leaks: Iterable[Leak]) -> list[Leak]:
    return [leak for leak in leaks if leak.kind in kinds]


def _keys(witness: coordinator.Coordinator) -> list[Leak]:
    sessions = keys.prefix(witness.settings.namespace, "session")
    semaphores = keys.prefix(witness.settings.namespace, "semaphore")
    found = [
        each
        for each in witness.kv.range(_prefix(witness))
        # A semaphore's limit is agreed on for good.
        if not (each.key.startswith(semaphores) and b"/limit/" in each.key)
    ]
    return [Leak(SESSIONS if each.key.startswith(sessions) else KEYS, repr(each.key)) for each in found]


def _settled(look: Callable[[], list[Leak]]) -> list[Leak]:
    limit = deadline.Deadline.after(SETTLE_S)
    while (found := look()) and not limit.expired:
        time.sleep(0.01)
    return found
