"""Who reads the socket: the waiting caller itself where threads are native, one greenlet where they are not.

Source: "leader and followers", Schmidt et al., PLoP 1995.  The first who waits leads: it reads, and delivers
to all.  Once its own reply is there it makes the oldest of the others its heir.  So a lone caller gets its
reply without a thread switch.  The standby, a thread, leads when nobody waits and yet something may come.

Under gevent a switch costs next to nothing, and only a greenlet of the hub's own thread can wait for a
descriptor: there the standby leads for good, and the others sleep until it posts them.

Every change is made so that one Ctrl-C anywhere in it loses neither the role nor a wake-up, if `leave`
follows: an heir is posted before it is named.
"""

from __future__ import annotations

import collections
import threading
import typing

LINGER_S = 0.02  # how long the standby leaves the socket to the next caller


class Waiter:
    """What one thread or greenlet waits for.  `wake` may come from any other one."""

    done = False
    leads: Rota | None = None  # what its thread reads, or is about to
    is_link = True  # whoever is behind it may wait for it to wake up
    _token: threading.Lock | None = None  # made by who parks, before it looks at `done` once more

    def wake(self) -> None:
        """End the wait, now or when it begins."""
        self.done = True
        # `done` comes first: a thread that starts to lead looks at it again before it blocks.
        leads = self.leads
        if leads is not None:
            leads.interrupt()
        self.post()

    def post(self) -> None:
        """Let the waiting thread look again."""
        token = self._token
        if token is None:
            return  # it has not begun to park, and looks at everything before it sleeps
        try:
            token.release()
        except RuntimeError:
            pass  # posted already: one token is enough, for it looks at everything

    def arm(self) -> None:
        """Make ready to park: from here on no post is missed."""
        if self._token is None:
            token = threading.Lock()
            token.acquire()
            self._token = token

    def park(self, timeout_s: float) -> None:
        """Sleep until posted, or for so many seconds, -1 for ever; not at all when the wait is over."""
        self.arm()
        if not self.done:
            assert self._token is not None
            self._token.acquire(timeout=timeout_s)


class Rota:
    """The reader's role and those who wait for it."""

    def __init__(
        self, interrupt: typing.Callable[[], None], expects: typing.Callable[[], bool], callers_read: bool
    ) -> None:
        self.interrupt = interrupt  # makes the leader look up
        self.callers_read = callers_read
        self.standby = Waiter()
        self.standby.arm()
        self._expects = expects  # whether the peer may say something that concerns us
        self.served: collections.deque[Waiter] = collections.deque()  # whose calls have ended, to be woken
        self._lock = threading.Lock()
        self._leader: Waiter | None = None if callers_read else self.standby
        self._parked: dict[Waiter, None] = {}  # in the order of their arrival
        self._main = threading.main_thread().ident  # there a signal's handler may run on and on
        self._turns = 0  # how often the role became free
        self._turns_seen = 0  # by the standby
        self._standby_sleeps = False

    @property
    def vacant(self) -> bool:
        """Whether nobody reads."""
        return self._leader is None

    def seize(self, waiter: Waiter) -> bool:
        """Become the leader if nobody is."""
        with self._lock:
            if self._leader is None and self.callers_read:
                waiter.leads = self
                self._leader = waiter
            return self._leader is waiter

    def line_up(self, waiter: Waiter) -> bool:
        """Become the leader, or wait to be its heir; look again whenever posted."""
        with self._lock:
            if self._leader is None and self.callers_read:
                waiter.leads = self
                self._leader = waiter
            if self._leader is waiter:
                return True
            waiter.arm()  # before anybody can make it the heir
            waiter.is_link = threading.get_ident() != self._main
            self._parked[waiter] = None
            return False

    def leave(self, waiter: Waiter) -> None:
        """Wait no more; a leader makes the oldest waiter its heir.  Idempotent."""
        with self._lock:
            if self._leader is waiter:
                self._pass_on()
            self._parked.pop(waiter, None)
            waiter.leads = None
            if self.served:
                self._wake_next()

    def post_all(self) -> None:
        """Let everybody look again."""
        with self._lock:
            for waiter in (*self._parked, self.standby):
                waiter.post()

    def restart(self) -> None:
        """In a forked child: who held the lock may be gone; who waits shall look again."""
        self._lock = threading.Lock()
        self.post_all()

    def wake_served(self) -> None:
        """Wake those whose calls have ended: greenlets all, threads one by one."""
        with self._lock:
            self._wake_next()

    def _wake_next(self) -> None:
        """Wake the next who was served; it wakes the one behind it when it leaves.  Under the lock.

        Threads that all wake at once have to wait for the interpreter, and for each other's sends.
        """
        served = self.served
        while served:
            waiter = served[0]
            if waiter in self._parked:
                waiter.post()
                if self.callers_read and waiter.is_link:
                    served.popleft()
                    return
            served.popleft()

    def _pass_on(self) -> None:
        """Give the role away.  Under the lock."""
        for heir in self._parked:
            if not heir.done:
                heir.post()
                heir.leads = self
                self._leader = heir
                del self._parked[heir]
                return
        if self._standby_sleeps and self._expects():
            self.standby.post()
            self._standby_sleeps = False
        self._turns += 1
        self._leader = None

    # The standby's side.

    def wake_standby(self) -> None:
        """There may be something to read although nobody waits."""
        with self._lock:
            if self._standby_sleeps:
                self.standby.post()
                self._standby_sleeps = False

    def offer(self) -> None:
        """The standby after a batch: the next waiter leads; or nobody, if those served may come again."""
        with self._lock:
            if self.callers_read and self._leader is self.standby and self._parked:
                self._pass_on()

    def take_over(self) -> bool:
        """The standby leads once the socket has been left alone for a while; until then it sleeps.

        Returns:
            Whether it leads; if not, something may have changed: ask again.
        """
        with self._lock:
            if self._leader is self.standby:
                return True
            alone = self._turns == self._turns_seen
            self._turns_seen = self._turns
            expects = self._expects()
            if self._leader is None and alone and expects:
                self._leader = self.standby
                return True
            # Who frees the role posts us: a long reader, or an idle channel, costs no wake-ups.
            self._standby_sleeps = not expects or (self._leader is not None and alone)
            nap_s = -1.0 if self._standby_sleeps else LINGER_S
        self.standby.park(nap_s)
        return False
