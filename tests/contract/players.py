"""Who plays in the tests of the lock: acquires on threads of their own, and what happens to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import coordkit
from coordkit import errors
from coordkit.deadline import Deadline
from coordkit.etcd import lease as leases

PATIENCE_S = 15.0  # how long a state may take to come true on a busy machine


def wait_until(state: Callable[[], Any], within_s: float = PATIENCE_S, what: str = "this") -> Any:
    """The first true result of `state`."""
    deadline_s = time.monotonic() + within_s
    pause = threading.Event()
    while not (result := state()):
        assert time.monotonic() < deadline_s, f"{what} did not come true within {within_s:g} s"
        pause.wait(0.005)
    return result


class Attempt:
    """One `acquire` on a thread of its own, which ends with it; any thread may release."""

    def __init__(self, lock: coordkit.Lock, **arguments: Any) -> None:
        self.lock = lock
        self.result: bool | None = None
        self.error: BaseException | None = None
        self.over = threading.Event()
        self._arguments = arguments
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self.lock.acquire(**self._arguments)
        except BaseException as error:
            self.error = error
        self.over.set()

    @property
    def waiting(self) -> bool:
        return not self.over.is_set()

    def end(self, within_s: float = PATIENCE_S) -> Attempt:
        """Wait for the acquire to end, either way."""
        assert self.over.wait(within_s), f"the acquire of {self.lock!r} did not end within {within_s:g} s"
        self._thread.join()
        return self

    def wait_until_held(self, within_s: float = PATIENCE_S) -> Attempt:
        self.end(within_s)
        assert self.error is None, repr(self.error)
        assert self.result is True
        return self


def queue_up(lock: coordkit.Lock, *others: coordkit.Lock, **arguments: Any) -> list[Attempt]:
    """Let locks join one after the other behind whoever stands in line; returns when the last one does."""
    attempts = []
    for joining in (lock, *others):
        before = {place.fence for place in lock.contenders()}
        attempts.append(Attempt(joining, **arguments))
        wait_until(
            lambda before=before: {place.fence for place in lock.contenders()} - before,
            what="joining the line",
        )
    return attempts


def expire(session: coordkit.Session, witness: coordkit.Coordinator) -> None:
    """End a session as etcd does when its lease runs out."""
    leases.revoke(witness.client, session.lease_id, Deadline.after(5))


def lose_replies(
    monkeypatch: pytest.MonkeyPatch, coord: coordkit.Coordinator, apply: bool, times: int = 1000
) -> list[Any]:
    """The next transactions are applied, or not, but never answered; returns those that were sent."""
    assert coord.session.alive
    answer, sent = coord.client.txn, []

    def txn(request: Any, deadline: Deadline) -> Any:
        if len(sent) >= times:
            return answer(request, deadline)
        sent.append(request)
        if apply:
            answer(request, deadline)
        raise errors.Unavailable("the reply was lost", errors.Outcome.UNKNOWN)

    monkeypatch.setattr(coord.client, "txn", txn)
    return sent
