"""The small world with several contenders of ours in it: they share a process, its watch, mostly a session.

Each is a greenlet of its own.  One runs until it sends, reads or waits; there the dice may say that another
one goes on first, or that something happens around them.  So a seed decides all of it, as in `world.py`,
whose etcd and whose weather these are.

Nobody reads for safety here, for no session's TTL ever goes by: a wake-up that is lost is lost for good, and
whoever missed it waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import greenlet
from interleavings.world import Client, Interrupt, Violation, Weather, World

from coordkit import errors, waitlist
from coordkit import session as sessions
from coordkit.deadline import NEVER, Deadline
from coordkit.recipes import lock as locks
from coordkit.wire import channel as channels


class Contender:
    """One of ours, again and again."""

    def __init__(self, crowd: Crowd, turns: int) -> None:
        self._crowd = crowd
        self._turns = turns
        self._thread = greenlet.greenlet(self._run)
        self.lock = locks.Lock(crowd.current, "it")
        self.joined: list[bytes] = []
        #: What it waits for, and until when; None: it can go on.
        self.waiter: Any = None
        self.limit = NEVER
        #: The key that it holds, and its fence.
        self.held: tuple[bytes, int] | None = None
        self.endings: list[str] = []

    @property
    def is_over(self) -> bool:
        return self._thread.dead

    @property
    def can_run(self) -> bool:
        return self.waiter is None or self.waiter.done or self.limit.expired

    def go_on(self) -> None:
        """Until it comes to the next point."""
        self._thread.switch()

    def interrupt(self) -> None:
        """Ctrl-C, or a greenlet that is killed, where it waits."""
        self._thread.throw(Interrupt)

    def let_time_run_out(self) -> None:
        """Whatever it waits for, its caller's time is up."""
        for limit in (*self.lock._limits, self.limit):
            if limit is not NEVER:
                limit.expire()

    def let_go(self) -> None:
        """It has held long enough."""
        self.waiter.wake()

    def cancel(self) -> None:
        """From another thread."""
        self.lock.cancel()
        if not self.can_run:
            raise Violation("it was cancelled, and waits on")

    def pause(self) -> None:
        """Let others go on."""
        self._crowd.hub.switch()

    def _run(self) -> None:
        for _ in range(self._turns):
            self.joined.clear()
            start = self._crowd.store.revision
            try:
                self.endings.append(self._take_a_turn())
            except (Interrupt, errors.Cancelled, errors.SessionLost) as end:
                self._crowd.unwanted.update(dict.fromkeys(self.joined, start))
                self.endings.append(type(end).__name__)

    def _take_a_turn(self) -> str:
        lock, crowd = self.lock, self._crowd
        if not lock.acquire(timeout=10**6):
            raise errors.Cancelled("its time was up")
        key, fence = lock.key, lock.fence
        crowd.judge_grant(key, fence)
        self.held = key, fence
        try:
            crowd.park(channels.Waiter(), NEVER)  # until it is told to let go
        finally:
            self.held = None
        try:
            lock.release()
        except errors.LockLost:
            return "lost"
        if any(each.create_revision == fence for each in crowd.line()):
            raise Violation(f"the release of {key!r} is done, and its key is there")
        return "released"


class CrowdedClient(Client):
    """As its base; whoever waits lets others go on."""

    def wait(self, waiter: Any, deadline: Deadline) -> bool:
        crowd = self._world
        assert isinstance(crowd, Crowd)
        crowd.park(waiter, deadline)
        return bool(waiter.done)


class Crowd(World):
    """One play: a seed, a weather, and how many take part."""

    def __init__(self, seed: int, weather: Weather, contenders: int) -> None:
        super().__init__(seed, weather)
        self.hub = greenlet.getcurrent()
        turns = self.random.randint(1, 3)
        self.contenders = [Contender(self, turns) for _ in range(contenders)]
        self._running: Contender | None = None

    def _make_client(self) -> Client:
        return CrowdedClient(self)

    def current(self, deadline: Deadline) -> sessions.Session:
        """The session to use, as a coordinator gives it."""
        if self.session.is_over:
            self.session = self.open_session()
        return self.session

    def act(self) -> None:
        """Perhaps something; and perhaps another contender goes on first."""
        super().act()
        if self._depth == 0 and self._running is not None and self.random.random() < 0.3:
            self._running.pause()

    def park(self, waiter: Any, limit: Deadline) -> None:
        """Until the waiter is done, or the limit reached."""
        running = self._running
        assert running is not None and self._depth == 0
        if limit.remaining() <= waitlist.RETRY_S:  # a pause before another attempt: it is over soon
            running.pause()
            return
        running.waiter, running.limit = waiter, limit
        try:
            while not running.can_run:
                running.pause()
        finally:
            running.waiter, running.limit = None, NEVER

    def run(self) -> None:
        """Let all of them take their turns."""
        self.stir()
        while alive := [each for each in self.contenders if not each.is_over]:
            ready = [each for each in alive if each.can_run]
            if self._left > 0 and (not ready or self.random.random() < 0.4):
                self._left -= 1
                self._disturb(alive)
            elif ready:
                self._let(self.random.choice(ready), Contender.go_on)
            else:
                self.store.commit([], self.others())
                self.calm()
                if not any(each.can_run for each in alive):
                    self._judge_the_calm(alive)
        self.calm()
        self.judge_the_end()

    def _judge_the_calm(self, alive: list[Contender]) -> None:
        """All has been told, and all of ours wait: then the first of them holds, and is let go."""
        first = self.line()[:1]
        at_the_head = (first[0].key, first[0].create_revision) if first else None
        holder = next((each for each in alive if each.held and each.held == at_the_head), None)
        if holder is None and (first or not any(each.held for each in alive)):
            raise Violation(f"{at_the_head} is the first in line and {len(alive)} wait")
        for each in alive:
            if each.held and (holder is None or each is holder):
                each.let_go()

    def _disturb(self, alive: list[Contender]) -> None:
        """Something happens: to those who wait, or to a holder, or around them."""
        waiting = [each for each in alive if not each.can_run and not each.held]
        holders = [each for each in alive if not each.can_run and each.held]
        if waiting and self.random.random() < self.weather.interrupt:
            fate = self.random.choice([Contender.interrupt, Contender.cancel, Contender.let_time_run_out])
            self._let(self.random.choice(waiting), fate)
        elif holders and self.random.random() < self.weather.brief:
            self.random.choice(holders).let_go()
        else:
            self._depth += 1
            self._something()
            self._depth -= 1

    def _let(self, contender: Contender, action: Callable[[Contender], None]) -> None:
        self._running, self.joined = contender, contender.joined
        action(contender)
        self._running = None


def play(seed: int, weather: Weather, contenders: int) -> list[str]:
    """Several of ours and several others in one line; returns how the turns of ours ended.

    Raises:
        Violation: A grant that was none, a wait without end, or a key that was left behind.
    """
    crowd = Crowd(seed, weather, contenders)
    for _ in range(crowd.random.randint(0, weather.others)):
        crowd.join()
    crowd.run()
    return [ending for each in crowd.contenders for ending in each.endings]
