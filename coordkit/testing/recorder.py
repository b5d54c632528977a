"""Writes a history while it happens: each call before it is made, and what it was told, a JSON line each.

A line is written whole or not at all, and before the call it speaks of: a process may be killed anywhere, and
what it had asked for is in the file.

Cost: two short writes a call, and some 20 us of Python.
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from coordkit import errors
from coordkit.testing.history import Kind, Operation, Result, clock_ns

#: These say for certain that what was asked for did not happen, or was over; but out of space etcd may have
#: done what it refuses.
CERTAIN = (errors.LockLost, errors.ClaimLost, errors.BrokenBarrier, errors.Rejected, errors.UsageError)


@attrs.frozen
class Told:
    """What a call was told; the fields are those of an `Operation`."""

    fence: int | None = None
    revision: int | None = None
    subject: str = ""
    number: int | None = None
    #: False for a call that ended well and did nothing: a guarded write that was refused, an empty queue.
    done: bool = True
    #: False for one of several of which nothing better is known than that it may have been done.
    certain: bool = True

    @property
    def result(self) -> Result:
        """What that is, in a history."""
        if not self.certain:
            return Result.UNKNOWN
        return Result.OK if self.done else Result.FAIL


class Recorder:
    """One file, for all threads of a process."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open for as long as the process lives
        self._lock = threading.Lock()
        #: How much of each kind has ended well so far: calls, or the messages that were published.
        self.done: collections.Counter[Kind] = collections.Counter()

    def witness(self, label: str, name: str = "") -> Witness:
        """Who takes part, and on which of several locks, queues or topics."""
        return Witness(self, label, name)

    def note(self, *operations: Operation) -> None:
        """Write down a line for each, all at once."""
        lines = [json.dumps(each.as_json(), separators=(",", ":")) + "\n" for each in operations]
        with self._lock:
            self._file.write("".join(lines).encode())
            for each in operations:
                if each.result is Result.OK:
                    messages = each.number if each.kind is Kind.PUBLISH else None
                    self.done[each.kind] += messages or 1


class Witness:
    """The calls of one thread, in order."""

    def __init__(self, recorder: Recorder, label: str, name: str) -> None:
        self._recorder = recorder
        #: Who it is.
        self.label = label
        self._name = name
        self._indexes = itertools.count()

    def call(self, kind: Kind, action: Callable[[], Told], **known: Any) -> Told | None:
        """Make a call and write it down.

        Args:
            kind: What it is.
            action: Does it, and says what it was told.
            known: Fields of the operation that are known before.

        Returns:
            What it was told; None when one of coordkit's errors came instead, which is written down, too.
        """
        told = self.calls(kind, lambda: [action()], [known])
        return told[0] if told else None

    def calls(
        self, kind: Kind, action: Callable[[], Sequence[Told]], known: Sequence[dict[str, Any]]
    ) -> Sequence[Told]:
        """Make one call that does several things, and write each of them down as a call of its own.

        Args:
            kind: What they are.
            action: Does them, and says of each what it was told.
            known: Of each the fields that are known before.

        Returns:
            What was told; nothing when one of coordkit's errors came instead.
        """
        calls = [self._begun(fields) for fields in known]
        self._recorder.note(*(Operation(kind, Result.INVOKED, **call) for call in calls))
        try:
            told = action()
        except errors.CoordError as error:
            ended = {"completed_ns": clock_ns(), "error": f"{type(error).__name__}: {error}"}
            self._recorder.note(*(Operation(kind, _result(error), **{**call, **ended}) for call in calls))
            return []
        self._end(kind, calls, told)
        return told

    def saw(self, kind: Kind, *told: Told, **known: Any) -> None:
        """Write down what came without being asked for, each a call that begins and ends now."""
        self._end(kind, [self._begun(known) for _ in told], told)

    def _begun(self, known: dict[str, Any]) -> dict[str, Any]:
        return {
            "process": os.getpid(),
            "contender": self.label,
            "index": next(self._indexes),
            "name": self._name,
            "invoked_ns": clock_ns(),
            **known,
        }

    def _end(self, kind: Kind, calls: list[dict[str, Any]], told: Sequence[Told]) -> None:
        ended_ns = clock_ns()
        for call, each in zip(calls, told, strict=True):
            call["completed_ns"] = ended_ns
            for field in ("fence", "revision", "subject", "number"):
                if getattr(each, field) not in (None, ""):
                    call[field] = getattr(each, field)
        ends = [Operation(kind, each.result, **call) for call, each in zip(calls, told, strict=True)]
        self._recorder.note(*ends)


def _result(error: errors.CoordError) -> Result:
    outcome = getattr(error, "outcome", None)
    certain = outcome is errors.Outcome.NONE or (outcome is None and isinstance(error, CERTAIN))
    certain = certain and not isinstance(error, errors.QuotaExceeded)
    return Result.FAIL if certain else Result.UNKNOWN
