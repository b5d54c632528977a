"""The thread that brings the heart's news to the sessions, and runs what is due.

It is of the process's own kind (a greenlet under gevent), so from here on ordinary locks are safe.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import typing
import weakref

from coordkit.deadline import LONGEST_WAIT_S, boottime
from coordkit.etcd import pulse as pulses

BREATH_S = 0.01  # between two looks at least, so that a deadline that is due now does not spin

_log = logging.getLogger("coordkit")


class Watched(typing.Protocol):
    """A session, as the attendant sees it."""

    def look(self) -> None:
        """Follow the heart's news and the clock.  Quick."""


Action = typing.Callable[[], None]
Due = tuple[float, int, pulses.Pulse | None, Action]


class Attendant:
    """One for all sessions of a coordinator; its thread lives while there is something to attend to."""

    def __init__(self) -> None:
        self.news = pulses.News()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._sessions: dict[pulses.Pulse, Watched] = {}
        # What to do when, by boottime: a heap.  With a pulse: the look at its deadline, if that did not move.
        self._due: list[Due] = []
        self._numbers = itertools.count()
        self._running = False

    def add(self, session: Watched, pulse: pulses.Pulse) -> None:
        """Attend to a session from now on."""
        with self._lock:
            self._sessions[pulse] = session
            self._plan(pulse.deadline_s, session.look, pulse)
        self.news.tell(pulse)  # what the heart told before is looked at now

    def remove(self, pulse: pulses.Pulse) -> None:
        """No more."""
        with self._lock:
            self._sessions.pop(pulse, None)
        self.news.bell.set()

    def after(self, delay_s: float, action: Action) -> None:
        """Run a quick action in a while, unless `close` comes first."""
        with self._lock:
            self._plan(boottime() + delay_s, action)
        self.news.bell.set()

    def close(self) -> None:
        """Forget everything, and let the thread end."""
        with self._lock:
            self._sessions.clear()
            self._due.clear()
        self.news.bell.set()

    def _plan(self, at_s: float, action: Action, pulse: pulses.Pulse | None = None) -> None:
        """Under the lock."""
        heapq.heappush(self._due, (at_s, next(self._numbers), pulse, action))
        if not self._running:
            self._running = True
            try:
                threading.Thread(target=self._run, name="coordkit-attendant", daemon=True).start()
            except RuntimeError:
                self._running = False  # the interpreter is ending

    def _run(self) -> None:
        while self._pid == os.getpid():  # under gevent it would go on in a forked child
            self.news.bell.wait(self._nap_s())
            self.news.bell.clear()
            with self._lock:
                actions = [*self._take_changed(), *self._take_due()]
                if not actions and not self._sessions and not self._due_actions():
                    self._due.clear()
                    self._running = False
                    return
            while self.news.stumbles:
                _log.error("renewing leases failed; it is tried again", exc_info=self.news.stumbles.popleft())
            for action in actions:
                _perform(action)

    def _nap_s(self) -> float:
        with self._lock:
            nap_s = self._due[0][0] - boottime() if self._due else LONGEST_WAIT_S
        return min(max(nap_s, BREATH_S), LONGEST_WAIT_S)

    def _due_actions(self) -> bool:
        return any(pulse is None for _, _, pulse, _ in self._due)

    def _take_due(self) -> list[Action]:
        actions = []
        now = boottime()
        while self._due and self._due[0][0] <= now:
            _, _, pulse, action = heapq.heappop(self._due)
            if pulse is None:
                actions.append(action)
            elif pulse in self._sessions:
                if pulse.deadline_s > now:
                    self._plan(pulse.deadline_s, action, pulse)
                else:
                    actions.append(action)  # it ends there: no other look is planned
        return actions

    def _take_changed(self) -> list[Action]:
        """A look for each session that the heart told of."""
        changed = set()
        while self.news.changed:
            changed.add(self.news.changed.popleft())
        return [self._sessions[pulse].look for pulse in changed if pulse in self._sessions]


def _perform(action: Action) -> None:
    try:
        action()
    except Exception:  # the other sessions must still be told of their losses
        _log.exception("an action of coordkit's own failed")


def weakly(method: typing.Callable[[], None]) -> typing.Callable[[], None]:
    """The method, as long as its object lives."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        target = reference()
        if target is not None:
            target()

    return call
