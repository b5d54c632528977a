"""The fetcher: claims for all callers of a process as many items as they wait for, and not one more.

It is a thread that exists while somebody waits.  A round is: read the head of the queue (2 reads; 3 where
delayed items may matter: when little is left, and twice a second), share
it out among the callers (`window.plan`), claim (1 commit), hand out.  With nothing to be had it sleeps, and
reads nothing, until the watch tells of something; what that has told of is claimed without a look.
Where many are idle each leaves an item to some others for a moment (`crowd.py`).

Consumers that collide (somebody else claimed what we had seen) leave some places to the others the next time,
up to 64, at random.  Those who do not collide take from the head, and read further ahead: what they have seen
and not claimed serves the next rounds, for half a second at most, without a read.  Such a claim compares that
no item has come in front since; only what others gave back meanwhile waits for the next read.

Callers only wait for their event: an interruption of one (Ctrl-C, `gevent.Timeout`, `kill`) strikes no
transaction.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
import typing
import weakref

from coordkit import errors, forks
from coordkit.deadline import NEVER, Deadline
from coordkit.recipes.queue import claiming, upkeep, window
from coordkit.recipes.queue.arrivals import Arrivals
from coordkit.recipes.queue.delivery import Delivery, Desk
from coordkit.recipes.queue.window import Candidate, Want, Window

if typing.TYPE_CHECKING:
    from coordkit.recipes.queue.sites import Site

MOST = 100  # claims a transaction
FIRST_MOST = 16
SMALL_BYTES, LARGE_BYTES = 2**20, 2**22  # of a reply: below, more items may come; above, fewer
LINGER_S = 1.0  # how long the thread outlives its last caller
LONGEST_PAUSE_S = 1.0
DELAYED_S = 0.5  # how long a busy consumer may do without a look at the delayed items
ASIDE_S, MOST_ASIDE = 0.001, 8  # how long an item is left to each who comes first; to so many at most
DOUBT_S = 0.05  # how long an item that others must have may seem to be free
TRUST = 2  # rounds without a collision, after which what was seen serves for more than one


class Request:
    """What one caller waits for.  Changed under the fetcher's lock."""

    def __init__(self, count: int, most_deliveries: int, ack_wait_s: float, deadline: Deadline) -> None:
        self.count = count
        self.most_deliveries = most_deliveries
        self.ack_wait_s = ack_wait_s
        self.deadline = deadline
        self.once = deadline.expired  # a try: one look, and an answer
        self.event = forks.event()
        self.deliveries: list[Delivery] = []
        self.error: BaseException | None = None
        self.trouble: errors.CoordError | None = None  # why nothing could be read lately
        self.over = False  # answered, or given up

    @property
    def want(self) -> Want:
        """What is still missing."""
        return Want(self.count - len(self.deliveries), self.most_deliveries, not self.deliveries)

    def end(self, error: BaseException | None = None) -> None:
        """Answer."""
        self.error = error
        self.over = True
        self.event.set()


class Fetcher:
    """One for all consumers of a queue in this process."""

    def __init__(self, site: Site) -> None:
        self._site = weakref.proxy(site)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._entered = False  # a caller has come since the last look
        self._news = forks.event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._most = FIRST_MOST
        self._step = 0  # how many free places may be left to others
        self._ahead = 0  # how many more items are read than are wanted now
        self._peaceful = 0  # rounds without a collision, in a row
        self._stock: Window | None = None  # what was seen and is not claimed; good for this revision
        self._returned = 0  # how much had been given back here when it was read
        self._first = ""  # the id at which claims begin to matter, as far as is known
        self._claims_seen = 0
        self._dry = True  # the last round found nothing to claim
        self._due_ms: int | None = None  # when the first delayed item is due, as of the last look at them
        self._delayed_at_s = -math.inf  # when that was
        self._failures = 0  # rounds that failed, in a row
        self._stuck = upkeep.StuckClaims()
        _FETCHERS.add(self)

    # For callers.

    def fetch(self, request: Request) -> list[Delivery]:
        """Wait for deliveries.

        Returns:
            At least one, or none when the time is up.

        Raises:
            Unavailable, DeadlineExceeded: The time is up, and etcd could not be asked.
            SessionLost, Closed, Rejected: Waiting is of no use.
        """
        if self._pid != os.getpid():
            raise _foreign()
        site = self._site
        limit = Deadline.after(site.link.client.options.timeout_s) if request.once else request.deadline
        try:
            self._enter(request)
            while not request.over and not limit.expired:
                request.event.wait(limit.wait_s())
            answered = request.over
            self._leave(request)
        except BaseException:
            self._leave(request)
            _undo(request.deliveries)
            raise
        if request.error is not None:
            raise request.error
        if not request.deliveries and request.trouble is not None:
            raise request.trouble
        if not request.deliveries and not answered and not site.link.client.connected:
            raise errors.Unavailable(f"{site.title}: there is no connection to etcd", errors.Outcome.NONE)
        return request.deliveries

    def ring(self) -> None:
        """Something may have changed: look.  Quick; it may run on a reader."""
        self._news.set()

    def _enter(self, request: Request) -> None:
        site = self._site.itself()  # the thread keeps it alive
        with self._lock:
            self._requests.append(request)
            self._entered = True
            thread = self._thread
            if thread is None:
                name = f"coordkit-{site.title}"
                thread = self._thread = threading.Thread(
                    target=self._run, args=(site,), name=name, daemon=True
                )
        with self._starting:
            # Not only by who made it: an interruption may have come in between.
            if thread.ident is None:
                thread.start()
        self._news.set()

    def _leave(self, request: Request) -> None:
        """It wants nothing more."""
        with self._lock:
            request.over = True
            if request in self._requests:
                self._requests.remove(request)
        self._news.set()

    # The thread.

    def _run(self, site: Site) -> None:
        while self._pid == os.getpid():
            if not self._requests:
                self._news.wait(LINGER_S)
                self._news.clear()
                with self._lock:
                    if not self._requests:
                        self._thread = None
                        return
            try:
                self._round(site)
                self._failures = 0
            except errors.OUTAGE as error:
                self._stumble(error)
            except errors.SessionLost as error:
                if not site.renews:
                    self._fail(error)
            except Exception as error:  # told to those who wait
                self._fail(error)

    def _stumble(self, error: errors.Unavailable | errors.DeadlineExceeded) -> None:
        """etcd could not be asked: those who have time wait on."""
        error.outcome = errors.Outcome.NONE  # nothing was claimed for anybody; what may have been, comes back
        with self._lock:
            for request in self._requests:
                request.trouble = error
                if request.once:
                    request.end(error)
            self._requests = [each for each in self._requests if not each.over]
        self._failures += 1
        pause_s = min(0.02 * 2**self._failures, LONGEST_PAUSE_S)
        self._news.wait(pause_s * random.uniform(0.5, 1.0))
        self._news.clear()

    def _fail(self, error: BaseException) -> None:
        """Waiting is of no use."""
        with self._lock:
            requests, self._requests = self._requests, []
        for request in requests:
            request.end(error)

    def _round(self, site: Site) -> None:
        desk = site.desk(NEVER)
        self._news.clear()
        desk.collect_dropped()
        with self._lock:
            requests = list(self._requests)
            self._entered = False
        wanted = min(sum(each.want.count for each in requests), self._most)
        delayed = self._wants_delayed()
        stock = self._usable_stock(desk, wanted, delayed)
        if stock is not None:
            shares = self._shares(desk, stock.candidates, requests)
            if any(shares):
                self._claim(desk, list(zip(requests, shares, strict=True)), stock, exhausted=False)
                return
        known = upkeep.Known(desk)
        returned = desk.returned
        found = self._look(desk, wanted, delayed)
        for request in requests:
            request.trouble = None
        upkeep.return_orphans(desk, found.claims, known)
        ack_wait_s = min((each.ack_wait_s for each in requests), default=math.inf)
        self._stuck.look(desk, found.claims, ack_wait_s)
        if (
            found.due_ms is not None
            and upkeep.is_due(found.due_ms)
            and upkeep.promote(site.link, desk.layout)
        ):
            return
        places = random.randint(0, self._step)
        free = window.skip(found.candidates, wanted, places)
        shares = self._shares(desk, free, requests)
        self._dry = not any(shares)
        if not self._dry:
            exhausted = not found.more and sum(map(len, shares)) >= len(free)
            self._returned = returned
            self._claim(desk, list(zip(requests, shares, strict=True)), found, exhausted)
        elif delayed:  # else they come first, with the next round
            self._answer_what_there_is()
            self._sleep(site, desk, found)

    def _wants_delayed(self) -> bool:
        """Whether delayed items may matter now: else a look at them is saved."""
        return (
            self._dry
            or time.monotonic() - self._delayed_at_s > DELAYED_S
            or (self._due_ms is not None and upkeep.is_due(self._due_ms))
        )

    def _look(self, desk: Desk, wanted: int, delayed: bool) -> Window:
        """Read the head of the queue, as far as is needed.  Cost: as `window.read`, for each page."""
        layout, client = desk.layout, desk.session.client
        limit = min(wanted + window.STEP + self._ahead + self._claims_seen, window.LARGEST)
        found: Window | None = None
        while True:
            start = b"" if found is None else found.last_key + b"\0"
            first = self._first if found is None else found.last_id
            page = window.read(
                lambda ops: client.look(ops, client.deadline(None)),
                layout,
                limit,
                first,
                start,
                delayed and found is None,
            )
            found = page if found is None else found.with_next(page)
            if not found.more or len(found.candidates) >= wanted + self._step:
                break
        if delayed:
            self._due_ms, self._delayed_at_s = found.due_ms, time.monotonic()
        self._first = found.first
        self._claims_seen = len(found.claims)
        return found

    def _usable_stock(self, desk: Desk, wanted: int, delayed: bool) -> Window | None:
        """What was seen before, if it is enough, and nothing speaks against it."""
        stock = self._stock
        if delayed or stock is None or len(stock.candidates) < wanted or self._returned != desk.returned:
            return None
        return stock

    def _shares(
        self, desk: Desk, free: typing.Sequence[Candidate], requests: list[Request]
    ) -> list[list[Candidate]]:
        wants = [each.want for each in requests]
        return window.plan(free, wants, self._most, self._has_last_chance(desk))

    def _has_last_chance(self, desk: Desk) -> bool:
        return any(delivery.has_last_chance for delivery in list(desk.out.values()))

    def _claim(
        self, desk: Desk, shares: list[tuple[Request, list[Candidate]]], seen: Window, exhausted: bool
    ) -> set[Candidate] | None:
        """Claim, and hand out.

        Args:
            desk: Ours.
            shares: Who is to get what.
            seen: Where that was seen: this round, or before, if it is the stock.
            exhausted: There is no more than that.

        Returns:
            What could not be claimed; None when something has come in front.
        """
        chosen = [each for _, share in shares for each in share]
        seen_at = seen.revision if seen is self._stock else None
        self._stock = None
        try:
            claimed = claiming.claim(desk, chosen, NEVER, seen_at)
        except BaseException:
            self._most = max(1, self._most // 2)  # should its reply have been too large
            raise
        if claimed is None:
            self._peaceful = 0
            return None
        deliveries = {each.id: each for each in claimed}
        self._learn(len(chosen), claimed)
        if self._peaceful >= TRUST:
            self._stock = seen.without(chosen)
        left: list[Delivery] = []
        with self._lock:
            for request, share in shares:
                got = [deliveries[each.id] for each in share if each.id in deliveries]
                if request.over:
                    left.extend(got)
                    continue
                self._hand(request, got)
                suspect = any(each.deliveries for each in share)
                enough = suspect or exhausted or not share or request.want.count == 0
                if request.deliveries and enough:
                    request.end()
            for delivery in list(left):
                # Its caller has gone: to another one, as long as it may be delivered beside others.
                heir = next((each for each in self._requests if not each.over and not each.deliveries), None)
                if heir is not None and delivery.attempt == 1:
                    left.remove(delivery)
                    self._hand(heir, [delivery])
                    heir.end()
            self._requests = [each for each in self._requests if not each.over]
        _undo(left)
        return {each for each in chosen if each.id not in deliveries}

    def _hand(self, request: Request, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            delivery.has_last_chance = 1 < request.most_deliveries <= delivery.attempt
            delivery.desk.limit_time(delivery, request.ack_wait_s)
        request.deliveries.extend(deliveries)

    def _learn(self, tried: int, deliveries: list[Delivery]) -> None:
        """From how a claim went: how far to step aside, and how much to claim at once."""
        lost = tried - len(deliveries)
        if 2 * lost > tried:
            self._step = min(max(2 * self._step, 4), window.STEP)
        elif not lost:
            self._step //= 2
        self._peaceful = 0 if lost else self._peaceful + 1
        self._ahead = min(2 * (self._ahead + tried), window.LARGEST) if self._peaceful else 0
        size_bytes = sum(len(delivery.value) for delivery in deliveries)
        if size_bytes > LARGE_BYTES:
            self._most = max(1, self._most // 2)
        elif size_bytes < SMALL_BYTES and tried == self._most:
            self._most = min(2 * self._most, MOST)

    def _answer_what_there_is(self) -> None:
        """Nothing is free: those who have something go with that, those who only try go with nothing."""
        with self._lock:
            for request in self._requests:
                if request.once or request.deliveries:
                    request.end()
            self._requests = [each for each in self._requests if not each.over]

    def _sleep(self, site: Site, desk: Desk, found: Window) -> None:
        if not self._requests:
            return
        arrivals = site.arrivals
        arrivals.seen(found.revision)
        with arrivals.listening():
            # What comes between the look and the watch is told by nobody; so the watch rings when it stands.
            nap_s = float(desk.session.ttl_s)  # old servers lose events
            if found.due_ms is not None:
                # What is due and could not be moved is tried again, not at once.
                nap_s = min(nap_s, upkeep.seconds_until(found.due_ms) or 1.0)
            if found.claims:
                nap_s = min(nap_s, self._stuck.look_again_s)
            self._follow(desk, arrivals, Deadline.after(nap_s))

    def _follow(self, desk: Desk, arrivals: Arrivals, limit: Deadline) -> None:
        """Claim what the watch tells of, until only a look can tell more."""
        tried: set[Candidate] = set()
        lost: set[Candidate] = set()  # to others, as the watch is about to tell
        doubt = NEVER  # until when it has to
        while True:
            self._news.wait(min(limit.wait_s(), doubt.wait_s()))
            self._news.clear()
            desk.collect_dropped()
            fresh = self._fresh(desk, arrivals)
            first = None if fresh is None else next(iter(fresh.without(tried).candidates), None)
            rank = 0 if first is None else arrivals.rank(first.id, desk.session.lease_id)
            if rank:
                time.sleep(min(rank, MOST_ASIDE) * ASIDE_S)
                fresh = self._fresh(desk, arrivals)  # it may be taken by now
            if fresh is None or limit.expired:
                return
            lost.intersection_update(fresh.candidates)
            if lost and doubt.expired:
                return
            fresh = fresh.without(tried)
            if fresh.candidates:
                beaten = self._claim_fresh(desk, fresh, tried)
                if beaten is None:
                    return
                lost |= beaten
            doubt = (doubt if doubt is not NEVER else NEVER.sooner(DOUBT_S)) if lost else NEVER

    def _fresh(self, desk: Desk, arrivals: Arrivals) -> Window | None:
        """What the watch has told of since the look that found nothing; None: look again."""
        with self._lock:
            if self._entered or not self._requests:
                return None
        told = None if desk.session.is_over else arrivals.fresh()
        if told is None:
            return None
        ids, revision = told
        free = sorted(ids, key=desk.layout.item)
        candidates = tuple(Candidate(id_, ids[id_], 0) for id_ in free)
        return Window(revision, candidates, (), False, None, "", b"", "")

    def _claim_fresh(self, desk: Desk, fresh: Window, tried: set[Candidate]) -> set[Candidate] | None:
        """Claim of that for those who wait; which of it others have, or None: look again."""
        with self._lock:
            requests = list(self._requests)
        wanted = min(sum(each.want.count for each in requests), self._most)
        free = window.skip(fresh.candidates, wanted, random.randint(0, self._step))
        shares = self._shares(desk, free, requests)
        if not any(shares):
            return None
        exhausted = sum(map(len, shares)) >= len(free)
        self._stock = fresh  # something may have come in front by now
        lost = self._claim(desk, list(zip(requests, shares, strict=True)), fresh, exhausted)
        if lost is None:
            return None
        chosen = {each for share in shares for each in share}
        tried |= chosen
        self._dry = exhausted
        self._news.set()  # there may be more of it
        return lost


def _undo(deliveries: list[Delivery]) -> None:
    """Those of one desk together: else a crowd that left would be waited for, commit by commit."""
    desks = {delivery.desk for delivery in deliveries}
    for desk in desks:
        desk.defer(desk.undo, *(each for each in deliveries if each.desk is desk))


_FETCHERS: weakref.WeakSet[Fetcher] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for fetcher in list(_FETCHERS):
        fetcher._lock = threading.Lock()
        fetcher._fail(_foreign())


def _foreign() -> errors.Closed:
    return errors.Closed("this queue belongs to another process, which forked: connect anew")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
