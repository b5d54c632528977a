"""Live topics: a publish overwrites the slots, and whoever watches them has seen it.

Status: stable.
Source: etcd's watches, which tell every version of a key; the slots bound the number of keys.
Keys: `slots/<k:03d>`, message k of a transaction.
Cost: 1 commit for up to 100 messages; each subscriber gets 1 event for each message.
Invariant: a subscriber sees every version of every slot from where it began, in the order of revisions, then
of slots, or is told from where on it can.
"""

from __future__ import annotations

from coordkit import errors, intake
from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.recipes.topic.message import LAST_INDEX, START, Found, Position, Start
from coordkit.recipes.topic.names import MOST_IN_TXN, Names
from coordkit.session import Link

_FIRST = {"new": 0, "all": 1}


def broadcast(link: Link, names: Names, values: list[bytes], deadline: Deadline) -> int:
    """Publish up to 100 messages; returns their revision.

    Raises:
        Unavailable, DeadlineExceeded: Sent once, and nobody knows what became of it; or not sent at all.
        Rejected: It was refused, all of it.
    """
    request = kv.txn_request([], map(kv.put, names.slot_keys, values))
    request.key = names.prefix
    return link.client.txn(request, deadline).revision


class LiveReader:
    """Reads one partition of a live topic from its watch."""

    def __init__(self, link: Link, names: Names, tap: intake.Intake, drops: bool) -> None:
        self._link = link
        self._names = names
        self._tap = tap
        self._drops = drops
        self._last = START
        self._base: int | None = 0  # up to here nothing was to be told; None: up to where the watch stood
        self._patient = False  # the very beginning may be compacted: begin where history does

    def begin(self, start: Start) -> None:
        """Begin.  No I/O but the watch's create."""
        if isinstance(start, Position):
            self._last = start
            # What else was published then may be still to come.
            self._tap.open(start.revision + (start.index >= LAST_INDEX))
        else:
            first = start if isinstance(start, int) else _FIRST[start]
            self._patient, self._base = start == "all", first - 1 if first else None
            self._tap.open(first)

    @property
    def began_at(self) -> Position | None:
        """Where "new" was; None while that is open.  Raises what etcd refused the watch with."""
        if self._tap.error is not None:
            raise self._tap.error
        revision = self._tap.created_revision
        return Position(revision, LAST_INDEX) if revision else None

    def take(self, deadline: Deadline) -> Found | None:
        """The next message, if it is there.

        Raises:
            Gap: History was compacted, or the buffer was full and this was to be told.
        """
        while (event := self._tap.take()) is not None:
            self._reopen_early()
            index = self._names.parse_slot(event.key)
            position = Position(event.mod_revision, -1 if index is None else index)
            if index is not None and position.order > self._last.order:
                self._last = position
                return event.value, position
        self._go_on(deadline)
        return None

    def _reopen_early(self) -> None:
        """There is room again, and etcd takes a while to catch up."""
        if self._tap.phase is intake.Phase.CUT and not self._drops and self._tap.roomy:
            if self._base is None:
                # The next watch stands later than it tells from: what lies in between is to be told.
                self._base = self._tap.created_revision
            self._tap.open(self._tap.next_revision)

    def _go_on(self, deadline: Deadline) -> None:
        """Nothing is buffered: look why."""
        tap = self._tap
        if tap.phase is intake.Phase.CUT:  # to be told: else it was opened again when half was taken
            missed, self._base = tap.next_revision, None
            tap.open()
            raise gap(self._names, "the subscriber was too slow", missed)
        elif tap.phase is intake.Phase.GAP:
            resume = tap.compacted + 1
            quiet_until = self._quiet_until(deadline)
            # Asked for everything, nothing came yet, and what is gone was older than the watch.
            patient = self._patient and self._last is START and tap.compacted <= tap.created_revision
            self._patient, self._base = False, max(tap.compacted, quiet_until)
            tap.open(self._base + 1)
            if not patient and not quiet_until:
                raise gap(self._names, "history was compacted", resume)
        elif tap.phase is intake.Phase.REFUSED:
            assert tap.error is not None
            raise tap.error

    def _quiet_until(self, deadline: Deadline) -> int:
        """The revision up to which certainly nothing was published since the last message; 0: who knows.

        A topic where nothing happens for long would be compacted away under those who listen.
        """
        names = self._names
        base = self._tap.created_revision if self._base is None else self._base
        found, revision = intake.read_range(
            self._link.client, names.slots, names.slots_end, MOST_IN_TXN + 1, deadline, keys_only=True
        )
        # Every publish puts the first slot, which no one deletes.
        newest = max((slot.mod_revision for slot in found.kvs), default=0)
        return revision if newest <= max(base, self._last.revision) else 0

    def close(self) -> None:
        """No more."""
        self._tap.shut()


def gap(names: Names, why: str, revision: int) -> errors.Gap:
    """What a subscriber is told that has missed something."""
    return errors.Gap(
        f"{names.prefix.decode()}: {why}; messages from revision {revision} on can still be read", revision
    )
