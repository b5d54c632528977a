"""The thread that brings the heart's news to the sessions, and runs what is due.

It is of the process's own kind (a greenlet under gevent), so from here on ordinary locks are safe.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import typing

from coordkit.deadline import LONGEST_WAIT_S, boottime
from coordkit.etcd import heart as hearts

BREATH_S = 0.01  # between two looks at least, so that a deadline that is due now does not spin


class Watched(typing.Protocol):
    """A session, as the attendant sees it."""

    def look(self) -> None:
        """Follow the heart's news and the clock.  Quick."""


class Attendant:
    """One for all sessions of a coordinator; its thread lives while there are any."""

    def __init__(self) -> None:
        self.news = hearts.News()
        self._lock = threading.Lock()
        self._sessions: dict[hearts.Pulse, Watched] = {}
        self._due: list[tuple[float, int, typing.Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._running = False

    def add(self, session: Watched, pulse: hearts.Pulse) -> None:
        """Attend to a session from now on."""
        with self._lock:
            self._sessions[pulse] = session
            start, self._running = not self._running, True
        if start:
            threading.Thread(target=self._run, name="coordkit-attendant", daemon=True).start()
        self.news.bell.set()  # its deadline may be the earliest

    def remove(self, pulse: hearts.Pulse) -> None:
        """No more."""
        with self._lock:
            self._sessions.pop(pulse, None)
        self.news.bell.set()

    def after(self, delay_s: float, action: typing.Callable[[], None]) -> None:
        """Run a quick action in a while, if there are sessions then."""
        with self._lock:
            heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._numbers), action))
        self.news.bell.set()

    def _run(self) -> None:
        while True:
            self.news.bell.wait(self._nap_s())
            self.news.bell.clear()
            with self._lock:
                if not self._sessions:
                    self._running = False
                    self._due.clear()
                    return
                actions = self._take_due()
                changed = self._take_changed()
            for session in changed:
                session.look()
            for action in actions:
                action()

    def _nap_s(self) -> float:
        with self._lock:
            deadline = min((pulse.deadline_s for pulse in self._sessions), default=boottime())
            nap_s = deadline - boottime()
            if self._due:
                nap_s = min(nap_s, self._due[0][0] - time.monotonic())
        return min(max(nap_s, BREATH_S), LONGEST_WAIT_S)

    def _take_due(self) -> list[typing.Callable[[], None]]:
        actions = []
        while self._due and self._due[0][0] <= time.monotonic():
            actions.append(heapq.heappop(self._due)[2])
        return actions

    def _take_changed(self) -> list[Watched]:
        """The sessions that the heart told of, and those whose deadline has passed."""
        now = boottime()
        pulses = {pulse for pulse in self._sessions if pulse.deadline_s <= now}
        while self.news.changed:
            pulses.add(self.news.changed.popleft())
        return [self._sessions[pulse] for pulse in pulses if pulse in self._sessions]
