"""Durable cursors: how far a subscriber has come, kept in etcd, moved by compare.

Invariant: a cursor never moves back, nor for two subscribers at once: each move compares the last one.
"""

from __future__ import annotations

import json
import secrets
import time
import typing

import attrs

from coordkit import errors, intake, keys
from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.recipes.topic.message import Position, Start
from coordkit.session import Link

SETTLE_COUNT = 100  # messages, after which an automatic cursor is stored even if more wait
SETTLE_S = 1.0


def _checked_name(instance: object, attribute: object, name: str) -> None:
    keys.segment(name, "cursor")


def checked_start(start: typing.Any) -> int | typing.Literal["new", "all"]:
    """Where to begin, as a user wrote it; raises InvalidValue."""
    is_revision = isinstance(start, int) and not isinstance(start, bool) and 0 < start < 2**63
    if not is_revision and start not in ("new", "all"):
        raise errors.InvalidValue(f"start must be 'new', 'all', a revision or a Cursor, not {start!r}")
    return typing.cast("int | typing.Literal['new', 'all']", start)


@attrs.frozen
class Cursor:
    """A place in a topic that outlives its subscriber.

    Attributes:
        name: Whose place; one subscriber at a time.
        start: Where a cursor begins that was never stored: "all", "new" or a revision.
        auto: Whether a message counts as done when the next one is asked for, or the `with` block ends in
            order.  Otherwise `commit` says so.
    """

    name: str = attrs.field(validator=_checked_name)
    start: int | typing.Literal["new", "all"] = attrs.field(default="all", converter=checked_start)
    auto: bool = True


class Bookmark:
    """A cursor in use by one subscription."""

    def __init__(self, link: Link, key: bytes, cursor: Cursor, partitions: int) -> None:
        self._link = link
        self._key = key
        self._cursor = cursor
        self._owner = secrets.token_hex(8)  # tells our own earlier attempt from another's move
        self._mod = 0
        self._positions: list[Position | None] = [None] * partitions
        self._stored: list[Position | None] = [None] * partitions
        self._given: tuple[int, Position] | None = None  # handed out, and not known to be done
        self._moves = 0  # that are not stored
        self._stored_at_s = time.monotonic()

    def load(self, deadline: Deadline) -> list[Start]:
        """Where each partition goes on.  Cost: 1 round trip."""
        found = intake.read_key(self._link.client, self._key, deadline)
        if found is not None:
            self._mod = found.mod_revision
            self._stored = _parse(found.value, len(self._positions))
        self._positions = list(self._stored)
        return [self._cursor.start if position is None else position for position in self._positions]

    def anchor(self, began: list[Position | None], deadline: Deadline) -> None:
        """Store where "new" was, so that the next subscriber misses nothing.  Cost: 1 commit."""
        for number, position in enumerate(began):
            if self._positions[number] is None:
                self._positions[number] = position
        if self._positions != self._stored:
            self._store(deadline)

    def move(self, partition: int, position: Position) -> None:
        """This message and those before it are done; stored before it returns."""
        self._note(partition, position)
        self._given = None
        self._store(self._link.client.deadline(None))

    def handed_out(self, partition: int, position: Position) -> None:
        """The caller has it now."""
        if self._cursor.auto:
            self._given = partition, position

    def settle(self) -> None:
        """What was handed out is done; stored now and then."""
        given, self._given = self._given, None
        if given is not None:
            self._note(*given)
            self._moves += 1
        if self._moves >= SETTLE_COUNT or time.monotonic() - self._stored_at_s > SETTLE_S:
            self.flush()

    def flush(self) -> None:
        """What was handed out is done; stored before it returns.

        An outage only means that it comes again.
        """
        given, self._given = self._given, None
        if given is not None:
            self._note(*given)
            self._moves += 1
        if self._moves:
            try:
                self._store(self._link.client.deadline(None))
            except errors.OUTAGE:
                self._stored_at_s = time.monotonic()  # next time

    def _note(self, partition: int, position: Position) -> None:
        last = self._positions[partition]
        if last is None or position.order > last.order:
            self._positions[partition] = position

    def _store(self, deadline: Deadline) -> None:
        positions = list(self._positions)
        if positions == self._stored:
            self._moves = 0
            return
        value = _format(positions, self._owner)
        request = kv.txn_request(
            [kv.mod(self._key) == self._mod], [kv.put(self._key, value)], [kv.get(self._key)]
        )
        result = self._link.client.txn(request, deadline)
        if not result.succeeded:
            found = result.found(0).first
            if found is None or not _is_by(found.value, self._owner):
                raise errors.ClaimLost(
                    f"cursor {self._key.decode()}: another subscriber has moved it; this one's place is lost"
                )
            # An earlier attempt of ours, whose reply was lost: go on from there.
            self._mod = found.mod_revision
            self._store(deadline)
            return
        self._mod, self._stored, self._moves = result.revision, positions, 0
        self._stored_at_s = time.monotonic()


def _format(positions: list[Position | None], owner: str) -> bytes:
    rows = [[p.revision, p.index, p.after, p.rest] if p is not None else None for p in positions]
    return json.dumps({"owner": owner, "positions": rows}, separators=(",", ":")).encode()


def _parse(stored: bytes, partitions: int) -> list[Position | None]:
    """What a cursor says; nothing, for what is not understood."""
    try:
        rows = json.loads(stored)["positions"]
        positions = [_position(row) if row is not None else None for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise errors.InvalidValue("a cursor's key holds something else: delete it to begin anew") from None
    if len(positions) != partitions:
        raise errors.LimitMismatch(f"a cursor of {len(positions)} partitions was stored, not {partitions}")
    return positions


def _position(row: typing.Any) -> Position:
    revision, index, after, rest = row
    if not all(type(n) is int and -1 <= n < 2**63 for n in (revision, index, after, rest)):
        raise ValueError("no position")
    return Position(revision, index, after, rest)


def _is_by(stored: bytes, owner: str) -> bool:
    try:
        return bool(json.loads(stored)["owner"] == owner)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
