"""Recorded histories: what every contender called, when, what it was told, and the revisions that etcd gave.

`checkers` judges them. A history is kept as JSON lines, so that what broke a rule can be judged again.

Source: Herlihy and Wing, "Linearizability" (TOPLAS 1990); Jepsen's histories of invoke, ok, fail and info.
Cost: values only; no I/O but in `save` and `load`.
"""

from __future__ import annotations

import enum
import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock_ns() -> int:
    """Nanoseconds of a clock that all processes of this machine share and that nobody sets."""
    return time.clock_gettime_ns(_CLOCK)


class Kind(enum.Enum):
    """What was called."""

    ACQUIRE = "acquire"
    RELEASE = "release"
    WRITE = "write"  # guarded by the fence

    # Of a line.
    STRIKE = "strike"  # somebody's place, with `fence`, is deleted by hand
    EVICTED = "evicted"  # one that waits was told that its place, with `fence`, is gone

    # Of a barrier.
    WAIT = "wait"  # `subject` is the generation, `number` the place in the order of arrival; FAIL: broken

    # Of a counter; of a latch `number` is counted down, and `subject` is what remains.
    ADD = "add"  # `number` to it; `revision` is not told, `subject` is the value after it

    # Of a double barrier; `subject` is the generation.
    ENTER = "enter"  # FAIL: not within its time
    LEAVE = "leave"  # FAIL: left, and not all others within its time

    # Of a gate, as is WAIT: FAIL is a wait whose time ran out.
    CLOSE = "close"
    OPEN = "open"

    # Of an election; `subject` is the value that is proclaimed.
    CAMPAIGN = "campaign"  # an acquire
    RESIGN = "resign"  # a release
    PROCLAIM = "proclaim"  # a write
    OBSERVE = "observe"  # `fence` and `revision` are the leader's; no fence: nobody leads

    # Of a semaphore.
    RESIZE = "resize"  # `number` is the new limit

    # Of a slot that runs once; `subject` is the slot, `number` the attempt.
    TAKE = "take"
    FINISH = "finish"

    # Of a queue; `subject` is `value@id`: of a put all of them, with spaces between, and values alone where
    # nobody told their ids.
    PUT = "put"
    CLAIM = "claim"  # `fence` is the claim's revision, `number` which delivery it is
    ACK = "ack"  # `fence` as of the claim

    # Of a topic.
    PUBLISH = "publish"  # `number` messages, `subject` and a number counted from 0, all at `revision`
    DELIVER = "deliver"  # `subject` at `revision`, `number` being its place in the transaction
    GAP = "gap"  # a subscriber was told that it missed what is before `revision`, or before what came next


class Result(enum.Enum):
    """What the caller was told."""

    INVOKED = "invoke"  # nothing: its process died or the run ended
    OK = "ok"
    FAIL = "fail"  # an acquire: not held; a release: it had been lost, nobody knows when
    UNKNOWN = "unknown"  # it may have been applied, or may yet be


class Rule(enum.Enum):
    """What must never be seen."""

    OVERLAP = "overlap"  # two holders at one revision
    ORDER = "order"  # a younger key was granted before an older one
    IDLE = "idle"  # it was somebody's turn for long, the cluster answered, and nobody held
    FENCE = "fence"  # a grant whose fence is not above that of the grant before it
    WRITE = "write"  # a guarded write was accepted after one with a larger fence
    CLOCK = "clock"  # two holders at one moment, or fences that fall, by this machine's clock

    EVICTED = "evicted"  # one was told that its place is gone, and nobody had deleted it

    # Of a barrier.
    PLACE = "place"  # two were told the same place in one generation, or one that does not exist
    EARLY = "early"  # somebody passed before all had called
    SPLIT = "split"  # one generation was passed by some, and broken for others
    BLEED = "bleed"  # a generation was passed before the one before it had been called for

    # Of a double barrier, as is EARLY.
    LEFT = "left"  # somebody was told that all had left while one was inside

    # Of a gate.
    SHUT = "shut"  # somebody passed although it was closed for all of its wait

    # Of a counter.
    SUM = "sum"  # what was added for certain is missing, or more is there than may have been added
    TOTAL = "total"  # two additions were told values that cannot both be
    STALE = "stale"  # an addition that began after another had ended was told a value before it

    # Of an election.
    LEADER = "leader"  # an observer was told of a wrong leader, of a wrong value, or out of order

    # Of a semaphore.
    LIMIT = "limit"  # one was granted with as many keys before its own as the limit allows, or more

    # Of a slot that runs once.
    TWICE = "twice"  # two took one attempt of it, more attempts than allowed, or one after it was done
    MISSED = "missed"  # one was told that it is another's, and it was nobody's

    # Of a queue.
    LOST = "lost"  # an item that was put for certain is gone, and nobody acked it
    UNEXPECTED = "unexpected"  # an item was delivered that nobody put
    AGAIN = "again"  # two first deliveries of an item, or one after it was acked
    OVERTAKEN = "overtaken"  # an item was claimed before too many that had been put before it

    # Of a topic.
    REPEATED = "repeated"  # a subscriber was given a message that is not behind the one before
    SKIPPED = "skipped"  # a subscriber was not given a message between two that it was given
    DOUBLED = "doubled"  # one message was published at two places
    MIXED = "mixed"  # two tell different things of one place, or of one message
    INVENTED = "invented"  # a message that nobody published, or that certainly was refused


@attrs.frozen
class Operation:
    """One call of one contender; times are `clock_ns`, revisions are None where nobody told them.

    `fence` is the create revision of the key that was acquired, was released or guarded a write. `revision`
    is the one at which an acquire was granted, a release removed the key, or a write was applied. What else a
    checker must know: `subject` is the item, message or value, and `number` an amount or an attempt.
    """

    kind: Kind
    result: Result
    process: int
    contender: str
    index: int  # a contender's calls, counted from 0
    invoked_ns: int
    completed_ns: int | None = None
    name: str = ""
    fence: int | None = None
    revision: int | None = None
    error: str | None = None
    subject: str = ""
    number: int | None = None

    @property
    def identity(self) -> tuple[int, str, int]:
        return self.process, self.contender, self.index

    def as_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in _FIELDS}  # `attrs.asdict` takes four times as long
        fields |= {"kind": self.kind.value, "result": self.result.value}
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Operation:
        return cls(**{**fields, "kind": Kind(fields["kind"]), "result": Result(fields["result"])})


_FIELDS = tuple(field.name for field in attrs.fields(Operation))


@attrs.frozen
class Hold:
    """One stay in the critical section, no longer than the history proves."""

    acquire: Operation
    release: Operation | None  # only one that was told "ours to the end"

    @property
    def fence(self) -> int:
        assert self.acquire.fence is not None, "a grant without its fence proves nothing"
        return self.acquire.fence

    @property
    def revisions(self) -> tuple[int, int] | None:
        """The revisions at which it certainly held, the last one excluded."""
        start = self.acquire.revision
        end = self.release.revision if self.release else None
        if end is not None:  # the key was there, and ours, until the very revision that removed it
            return (end - 1 if start is None else start), end
        return None if start is None else (start, start + 1)

    @property
    def clock(self) -> tuple[int, int]:
        """The time in which it certainly held; a single moment when no release proves more."""
        start = self.acquire.completed_ns
        assert start is not None, "what was granted has been completed"
        return start, (self.release.invoked_ns if self.release else start)

    @property
    def operations(self) -> tuple[Operation, ...]:
        return (self.acquire, self.release) if self.release else (self.acquire,)


@attrs.frozen
class Violation:
    """A broken rule, and the operations that show it."""

    rule: Rule
    why: str
    operations: tuple[Operation, ...]

    def as_json(self) -> dict[str, Any]:
        operations = [operation.as_json() for operation in self.operations]
        return {"rule": self.rule.value, "why": self.why, "operations": operations}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Violation:
        operations = tuple(Operation.from_json(each) for each in fields["operations"])
        return cls(Rule(fields["rule"]), fields["why"], operations)


@attrs.frozen
class Verdict:
    """What a checker found."""

    holds: int
    violations: tuple[Violation, ...]

    def count(self, rule: Rule) -> int:
        return sum(violation.rule is rule for violation in self.violations)

    @property
    def sound(self) -> bool:
        """No rule was broken by etcd's own order; under faults that pause processes, only this counts."""
        return all(violation.rule is Rule.CLOCK for violation in self.violations)

    @property
    def clean(self) -> bool:
        """No rule was broken, by revision or by clock."""
        return not self.violations


def save(path: str | os.PathLike[str], records: Iterable[Operation | Violation]) -> None:
    """Write one JSON object a line."""
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record.as_json(), separators=(",", ":")) + "\n")


def load(path: str | os.PathLike[str]) -> list[Operation]:
    """Read a history back; a later line about the same call replaces the earlier one (invoke, then its end).

    A last line that was cut short, as by a process that was killed while it wrote, is left out.
    """
    operations: dict[tuple[int, str, int], Operation] = {}
    for fields in _json_lines(path):
        if "kind" in fields:
            operation = Operation.from_json(fields)
            operations[operation.identity] = operation
    return list(operations.values())


def load_violations(path: str | os.PathLike[str]) -> list[Violation]:
    """Read back the violations of a file; its operations are left out."""
    return [Violation.from_json(fields) for fields in _json_lines(path) if "rule" in fields]


def _json_lines(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return  # it may be written right now: what is read next would be the rest of it
            yield json.loads(line)
