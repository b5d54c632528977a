"""Retained topics, the subscriber's side: first the log, page by page, then what is new.

Pages are read when they are asked for, so memory is bounded however long the log is.  Near its end a watch is
opened at the present; when it stands, the pages up to its created revision are read; then its events go on.
Whatever interrupts them (a slow subscriber, a compaction, an event that an old server has lost) sends the
reader back to the pages, for the log has everything that was not trimmed.

Invariant: each transaction's key names the revision of the one before it.  So the chain shows that nothing is
missing between two messages; when a link is missing from the log itself, that is told as a gap.
"""

from __future__ import annotations

import collections
import enum

from coordkit import errors, intake
from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.recipes.topic.live import gap
from coordkit.recipes.topic.message import LAST_INDEX, START, Found, Position, Start
from coordkit.recipes.topic.names import Names, Trimmed, parse_header, parse_trimmed
from coordkit.session import Link

FIRST_PAGE = 16  # keys; then as many as have about so many bytes
MOST_IN_PAGE = 1000
PAGE_BYTES = 2**20
LEAST_READ_S = 1.0  # a page is read even if the caller has less time: else who asks often gets nowhere


class Phase(enum.Enum):
    """Where messages come from."""

    # PAGING: from the log; there is no watch.
    PAGING = 1
    # JOINING: the watch is asked for or stands; the log is read up to the revision at which it stood.
    JOINING = 2
    # LIVE: everything up to `_last` was taken; all that follows comes from the watch.
    LIVE = 3


class _Broken(Exception):
    """A message is missing before this one."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after


class LogReader:
    """Reads one partition of a retained topic."""

    def __init__(self, link: Link, names: Names, tap: intake.Intake, drops: bool) -> None:
        self._link = link
        self._names = names
        self._tap = tap
        self._drops = drops
        self._phase = Phase.PAGING
        self._page: collections.deque[Found] = collections.deque()
        self._limit = FIRST_PAGE
        self._key: bytes | None = None  # where the next page begins; None: to be found
        self._last = START
        self._chain = 0  # the revision of the last transaction; 0: not known
        self._lenient = False  # the oldest may be trimmed: begin where the log does
        self._fresh = False  # it begins with what is new
        self._caught_up = False

    def begin(self, start: Start) -> None:
        """Begin.  No I/O but the watch's create."""
        if isinstance(start, Position):
            self._last = start
            self._chain = start.revision if start.after >= 0 else 0
            self._go_back()
        elif start == "new":
            self._begin_anew()
        elif start == "all":
            self._key, self._lenient = self._names.log, True
        else:
            assert isinstance(start, int)
            self._last = Position(start - 1, LAST_INDEX)

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
            Gap: Messages were trimmed before they were read, or the buffer was full and this was to be told.
        """
        while not self._page:
            if self._phase is Phase.PAGING:
                if not self._read_page(deadline):
                    self._phase, self._caught_up = Phase.JOINING, False
                    self._tap.open()
            elif self._phase is Phase.JOINING:
                if not self._join(deadline):
                    return None
            else:
                found = self._take_event()
                if found is not None or self._phase is Phase.LIVE:
                    return found
        return self._page.popleft()

    def close(self) -> None:
        """No more."""
        self._tap.shut()

    # The watch.

    def _begin_anew(self) -> None:
        self._phase, self._fresh, self._chain = Phase.JOINING, True, 0
        self._tap.open()

    def _join(self, deadline: Deadline) -> bool:
        """One step further; False while the watch does not stand."""
        created = self._tap.created_revision
        if self._tap.error is not None:
            raise self._tap.error
        if not created:
            return False
        if self._fresh:
            self._last, self._fresh, self._caught_up = Position(created, LAST_INDEX), False, True
        if self._caught_up:
            self._phase = Phase.LIVE
        else:
            self._caught_up = not self._read_page(deadline, until=created)
        return True

    def _take_event(self) -> Found | None:
        """The next message of the watch; None when none is there, or when the log must be read."""
        tap = self._tap
        while (event := tap.take()) is not None:
            try:
                found = self._accept(event.key, event.value, event.mod_revision)
            except _Broken as broken:
                if broken.after < self._last.revision:
                    self._begin_again(event.mod_revision)
                self._go_back()
                return None
            if found is not None:
                return found
        if tap.phase is intake.Phase.CUT and self._drops:
            missed = tap.next_revision
            self._begin_anew()
            raise gap(self._names, "the subscriber was too slow", missed)
        if tap.phase in (intake.Phase.CUT, intake.Phase.GAP):
            self._go_back()
        elif tap.error is not None:
            raise tap.error
        return None

    def _begin_again(self, revision: int) -> None:
        """Its predecessor is older than what was seen: this is another log, of a topic that was deleted."""
        self._chain, self._last = 0, Position(revision - 1, LAST_INDEX)
        self._go_back()
        raise gap(self._names, "the topic was deleted, and begun anew", revision)

    def _go_back(self) -> None:
        """To the log, behind the last message."""
        self._tap.close()
        self._phase = Phase.PAGING
        last = self._last
        self._key = self._names.message(last.after, last.index) + b"\0" if last.after >= 0 else None

    # The log.

    def _read_page(self, deadline: Deadline, until: int | None = None) -> bool:
        """Read on; returns whether there is more, up to a revision."""
        if deadline.remaining() < LEAST_READ_S:
            deadline = Deadline.after(LEAST_READ_S)
        if self._key is None:
            self._key = self._find(self._last.revision, deadline)
        client, end = self._link.client, self._names.log_end
        found, revision = intake.read_range(client, self._key, end, self._limit, deadline)
        if self._goes_on(found):
            self._lenient = False  # it has begun
        else:
            try:
                mark = intake.read_key(client, self._names.trimmed, deadline, revision)
            except errors.Gap:
                return True  # compacted meanwhile: read the page again
            self._heed(parse_trimmed(mark.value) if mark is not None else Trimmed())
        for each in found.kvs:
            if until is not None and each.mod_revision > until:
                return False
            try:
                accepted = self._accept(each.key, each.value, each.mod_revision)
            except _Broken:
                return self._tell_of_missing(each.mod_revision)
            if accepted is not None:
                self._page.append(accepted)
            self._key = each.key + b"\0"
        self._adapt(sum(len(each.value) for each in found.kvs))
        return found.more

    def _goes_on(self, page: kv.RangeResult) -> bool:
        """Whether the chain shows that a page follows on the last message: so nothing was trimmed between."""
        last = self._last
        for each in page.kvs:
            place = self._names.parse_message(each.key)
            if place is not None and (each.mod_revision, place.index) > last.order:
                if place.index:
                    return (place.after, place.index) == (last.after, last.index + 1)
                return place.after == self._chain and not last.rest
        return False

    def _heed(self, trimmed: Trimmed) -> None:
        """See whether anything was trimmed that was not read yet."""
        last, lenient = self._last, self._lenient
        self._lenient = False
        missed = trimmed.revision > last.revision or (trimmed.revision == last.revision and last.rest > 0)
        if not missed:
            return
        # What is left begins right behind that transaction.
        self._last, self._chain = Position(trimmed.revision, LAST_INDEX), trimmed.revision
        if not lenient:
            self._key = self._names.log
            raise gap(self._names, "messages were trimmed", trimmed.revision + 1)

    def _tell_of_missing(self, revision: int) -> bool:
        """The log itself has a hole before that revision: tell, once what comes before was taken."""
        if self._page:
            return True
        self._chain, self._last = 0, Position(revision - 1, LAST_INDEX)
        raise gap(self._names, "messages were deleted by another hand", revision)

    def _adapt(self, size_bytes: int) -> None:
        """So that the next page has about as many bytes as it should."""
        fitting = self._limit * PAGE_BYTES // max(size_bytes, 1)
        self._limit = max(1, min(fitting, self._limit * 4, MOST_IN_PAGE))

    def _accept(self, key: bytes, value: bytes, revision: int) -> Found | None:
        """A message that is new; None for others, and for what is no message.

        Raises:
            _Broken: The one before it is missing.
        """
        place, last = self._names.parse_message(key), self._last
        if place is None or place.after >= revision or (revision, place.index) <= last.order:
            return None
        if place.index > 0:
            goes_on = (place.after, revision, place.index) == (last.after, last.revision, last.index + 1)
            if not goes_on:
                return None  # without a beginning it is none of ours; if it was, the chain will tell
            self._last = Position(revision, place.index, place.after, last.rest - 1)
            return value, self._last
        parsed = parse_header(value)
        if parsed is None:
            return None
        header, value = parsed
        if (self._chain and place.after != self._chain) or last.rest > 0:
            raise _Broken(place.after)
        self._chain = revision
        self._last = Position(revision, 0, place.after, header.count - 1)
        return value, self._last

    def _find(self, revision: int, deadline: Deadline) -> bytes:
        """Where to begin for everything after a revision: at the last transaction that began by then.

        Its predecessor's revision, which its key names, is the largest up to that one.  Found by bisection,
        for etcd reads a whole range to give its last key.
        """
        low, high = 0, revision + 1  # to begin too early is safe: what was seen is not told again
        probe = revision  # as a rule it is that of a transaction
        while low + 1 < high:
            start, end = self._names.batch(probe), self._names.batch(high)
            first = intake.read_range(self._link.client, start, end, 1, deadline, keys_only=True)[0].first
            place = self._names.parse_message(first.key) if first is not None else None
            if place is None:
                high = probe
            else:
                low = place.after
            probe = (low + high) // 2
        return self._names.batch(low)
