"""Vigils: what is under a prefix, kept up to date by one watch, for all who wait for something to be so.

A process has one vigil a prefix.  It reads the prefix once the watch stands, and from then on follows it: the
`View` is exact at its revision, and those who wait see every revision that changed something, each once, in
order.  So nothing that was true for a moment only is missed, and waiting costs no read.

What may be believed (the same rule as in `waitlist.py`): a snapshot at a revision no older than the watch's
`created` one, and from then on only what the watch tells.  A watch that was compacted is opened anew, and
everything is read again; what happened meanwhile is then not seen.  Old servers can lose events, so while
anybody waits one of them reads every SAFETY_S.

Source: etcd's "list and watch"; the start at revision 0 avoids etcd's catch-up tick of 100 ms.
Cost: the first wait 1 message and 1 read; then nothing but events.
"""

from __future__ import annotations

import contextlib
import threading
import time
import typing
import weakref

from coordkit import attendant as attendants
from coordkit import errors, keys
from coordkit.attention import Attention, View, by_revision
from coordkit.calls import Call
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import kv, watch
from coordkit.session import Link, Session
from coordkit.wire import messages

LINGER_S = 3.0  # how long the watch outlives the last wait
SAFETY_S = 10.0
RETRY_S = 0.2

T = typing.TypeVar("T")


class Vigil:
    """A prefix, or one key, as one process follows it.  Made by `vigil_at`."""

    def __init__(self, link: Link, key: bytes, range_end: bytes) -> None:
        self.link = link
        self._key = key
        self._range_end = range_end
        self.lock = threading.Lock()
        self._attending: set[Attention] = set()
        self._feed: _Feed | None = None
        #: The revision from which on the watch has told everything; None: it does not stand.
        self._stands_from: int | None = None
        #: Exact, and followed by the watch; None until the read that confirms it.
        self._view: View | None = None
        self._early: list[list[watch.Event]] = []  # told before that read came
        self._reading = False
        self._refusal: errors.CoordError | None = None
        self._used_at_s = self._read_at_s = time.monotonic()  # the last departure; the last safety read
        self._drop_pending = False

    def look(self, deadline: Deadline) -> View:
        """What is there now.

        Raises:
            Unavailable, DeadlineExceeded: Not known.

        Cost: 1 round trip.
        """
        client = self.link.client
        pause_s = clients.FIRST_PAUSE_S
        while True:
            floor = client.seen_revision
            request = messages.RangeRequest(key=self._key, range_end=self._range_end)
            reply = client.read(request, deadline)
            if reply.header.revision >= floor:
                found = map(kv.KeyValue.of, reply.kvs)
                view = View(reply.header.revision, {each.key: each for each in found})
                self.learn(view)
                return view
            client.drop_channel(f"a member at revision {reply.header.revision} is behind {floor}")
            behind = errors.Unavailable(f"every member that answers is behind revision {floor}")
            pause_s = clients.pause(pause_s, deadline, behind)

    @contextlib.contextmanager
    def attend(self, call: Call) -> typing.Iterator[Attention]:
        """Follow it, for as long as this lasts; begun before what is to be seen is asked for.

        Cost: 1 message, while the watch does not stand.
        """
        attention = Attention(self, call)
        with self.lock:
            self._attending.add(attention)
            self._refusal = None
            if self._view is not None:
                attention.offer(self._view)
        try:
            self._open()
            yield attention
        finally:
            with self.lock:
                self._attending.discard(attention)
                self._used_at_s = time.monotonic()

    def wait(
        self,
        call: Call,
        test: typing.Callable[[View], T | None],
        deadline: Deadline,
        *,
        at_least: int = 0,
        session: Session | None = None,
    ) -> T | None:
        """Attend, and wait; see `Attention.wait`."""
        with self.attend(call) as attention:
            return attention.wait(test, deadline, at_least=at_least, session=session)

    def learn(self, view: View) -> None:
        """Begin with this view, if the watch tells all that follows it, and none is followed yet."""
        with self.lock:
            if self._view is not None or self._stands_from is None or view.revision < self._stands_from:
                return
            early, self._early = self._early, []
            self._show(view)
            for events in early:
                self._follow(events)

    # How.

    def sleep(self, call: Call, deadline: Deadline) -> None:
        """Until something may have changed; open what must be watched, read what must be read."""
        with self.lock:
            if self._refusal is not None:
                raise self._refusal
            watched, stands = self._feed is not None, self._stands_from is not None
            read = stands and self._view is None and not self._reading
            self._reading = self._reading or read
        if read:
            self._confirm(call, deadline)
        elif not watched:
            self._open()
        elif not self.link.client.wait(call.waiter, deadline.sooner(SAFETY_S)) and self._is_read_due():
            self._confirm(call, deadline, lost=True)

    def _is_read_due(self) -> bool:
        """Whether it is for this wait to make the safety read."""
        with self.lock:
            now_s = time.monotonic()
            due = now_s - self._read_at_s >= SAFETY_S
            if due:
                self._read_at_s = now_s
            return due

    def _confirm(self, call: Call, deadline: Deadline, lost: bool = False) -> None:
        """Read; if events may have been lost, go on from there, else only if we begin."""
        client = self.link.client
        try:
            view = self.look(deadline.sooner(client.options.timeout_s))
            if lost:
                with self.lock:
                    if self._view is not None and view.revision > self._view.revision:
                        self._show(view)
        except errors.OUTAGE:
            client.wait(call.waiter, deadline.sooner(RETRY_S))
        finally:
            with self.lock:
                self._reading = False
                self._wake_all()  # if it failed, somebody else may have more luck

    def _show(self, view: View) -> None:
        self._view = view
        for attention in list(self._attending):
            attention.offer(view)

    def _follow(self, events: list[watch.Event]) -> None:
        """Show each revision by itself: what is true for a moment only must be seen, too."""
        assert self._view is not None
        for revision, changes in by_revision(events):
            if revision > self._view.revision:
                self._show(self._view.after(changes, revision))

    # The watch.

    def _open(self) -> None:
        feed = _Feed(self)
        with self.lock:
            self._used_at_s = time.monotonic()
            if self._feed is not None:
                return
            self._feed = feed
            if not self._drop_pending:
                self._drop_pending = True
                self.link.attendant.after(LINGER_S, attendants.weakly(self._drop))
        feed.watch = self.link.watcher.watch(self._key, feed, range_end=self._range_end)

    def _drop(self) -> None:
        """End the watch when nobody needed it for a while."""
        with self.lock:
            unused_s = time.monotonic() - self._used_at_s
            if self._attending or unused_s < LINGER_S:
                self.link.attendant.after(max(LINGER_S - unused_s, 1.0), attendants.weakly(self._drop))
                return
            self._drop_pending = False
            dropped = self._forget()
        if dropped is not None and dropped.watch is not None:
            dropped.watch.cancel()

    def _forget(self) -> _Feed | None:
        """Nothing is followed any more.  Under the lock."""
        dropped, self._feed = self._feed, None
        self._stands_from = None
        self._view = None
        self._early = []
        return dropped

    def _wake_all(self) -> None:
        for attention in self._attending:
            attention.call.waiter.wake()

    def stands(self, feed: _Feed, revision: int) -> None:
        """The watch tells what comes after `revision`."""
        with self.lock:
            if feed is self._feed and self._stands_from is None:
                self._stands_from = revision
                self._wake_all()

    def changed(self, feed: _Feed, events: list[watch.Event]) -> None:
        """The watch told this."""
        with self.lock:
            if feed is not self._feed:
                return
            if self._view is None:
                self._early.append(events)
            else:
                self._follow(events)

    def missed(self, feed: _Feed, refusal: errors.CoordError | None = None) -> None:
        """The watch is over: a new one, or none."""
        with self.lock:
            if feed is self._feed:
                self._forget()
                self._refusal = refusal
            self._wake_all()


class _Feed:
    """One watch of a vigil's."""

    def __init__(self, vigil: Vigil) -> None:
        self._vigil = vigil
        self.watch: watch.Watch | None = None

    def on_created(self, revision: int) -> None:
        self._vigil.stands(self, revision)

    def on_events(self, events: list[watch.Event]) -> None:
        self._vigil.changed(self, events)

    def on_gap(self, compacted: int) -> None:
        self._vigil.missed(self)

    def on_refused(self, error: errors.CoordError) -> None:
        self._vigil.missed(self, error)


_VIGILS: weakref.WeakKeyDictionary[Link, weakref.WeakValueDictionary[tuple[bytes, bytes], Vigil]] = (
    weakref.WeakKeyDictionary()
)


def vigil_at(link: Link, key: bytes) -> Vigil:
    """The vigil of one key; the handles of one coordinator share it."""
    return _vigil(link, key, b"")


def vigil_under(link: Link, prefix: bytes) -> Vigil:
    """The vigil of a prefix, which ends with a slash."""
    return _vigil(link, prefix, keys.range_end(prefix))


def _vigil(link: Link, key: bytes, range_end: bytes) -> Vigil:
    vigils = _VIGILS.get(link)
    if vigils is None:
        vigils = _VIGILS.setdefault(link, weakref.WeakValueDictionary())
    vigil = vigils.get((key, range_end))
    return vigil if vigil is not None else vigils.setdefault((key, range_end), Vigil(link, key, range_end))


def await_view(
    vigil: Vigil, call: Call, test: typing.Callable[[View], T | None], deadline: Deadline
) -> T | None:
    """What `test` makes of what is there now, or later; None when the time ran out.

    Outages are waited out.  Without any time it is one look, bounded by the client's own timeout.

    Cost: 1 round trip; and those of `Vigil.wait` when it is not so yet.
    """
    if deadline.expired:
        return test(vigil.look(vigil.link.client.deadline(None)))
    try:
        now = vigil.look(deadline)
    except errors.OUTAGE:
        if deadline.expired:
            return None
        raise
    made = test(now)
    return made if made is not None else vigil.wait(call, test, deadline, at_least=now.revision)


def settle(link: Link, request: kv.TxnRequest, deadline: Deadline) -> kv.TxnResult:
    """Send a transaction until it is answered.  Only for one that may be applied late, and again.

    Raises:
        Unavailable, DeadlineExceeded: Not in time; it may have been applied.
        Rejected: etcd refused it.

    Cost: 1 commit.
    """
    pause_s = clients.FIRST_PAUSE_S
    doubtful = False
    while True:
        try:
            return link.client.txn(request, deadline)
        except errors.OUTAGE as error:
            doubtful = doubtful or error.outcome is errors.Outcome.UNKNOWN
            if doubtful:
                error.outcome = errors.Outcome.UNKNOWN
            pause_s = clients.pause(pause_s, deadline, error)


__all__ = ["Attention", "Call", "View", "Vigil", "await_view", "settle", "vigil_at", "vigil_under"]
