"""Who plays in the tests: calls and acquires on threads of their own, and what happens to them."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

import coordkit
from coordkit import errors
from coordkit.deadline import Deadline
from coordkit.etcd import lease as leases

C = TypeVar("C", bound="Call")

PATIENCE_S = 15.0  # how long a state may take to come true on a busy machine


def wait_until(state: Callable[[], Any], within_s: float = PATIENCE_S, what: str = "this") -> Any:
    """The first true result of `state`."""
    deadline_s = time.monotonic() + within_s
    pause = threading.Event()
    while not (result := state()):
        assert time.monotonic() < deadline_s, f"{what} did not come true within {within_s:g} s"
        pause.wait(0.005)
    return result


def twenty(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder for each of twenty runs, made when its run begins."""
    for number in range(20):
        each = folder / str(number)
        each.mkdir()
        yield each


class Call:
    """A call on a thread of its own."""

    def __init__(self, action: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.over = threading.Event()
        self._action, self._arguments, self._options = action, arguments, options
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._action(*self._arguments, **self._options)
        except BaseException as error:
            self.error = error
        self.over.set()

    @property
    def waiting(self) -> bool:
        return not self.over.is_set()

    def ended(self: C, within_s: float = PATIENCE_S) -> C:
        """Wait for it to end, either way."""
        assert self.over.wait(within_s), f"{self._action!r} did not end within {within_s:g} s"
        self._thread.join()
        return self

    def outcome(self, within_s: float = PATIENCE_S) -> Any:
        """Its result, or its error."""
        self.ended(within_s)
        return self.result if self.error is None else self.error

    def end(self, within_s: float = PATIENCE_S) -> Any:
        """Its result; its error is raised."""
        if self.ended(within_s).error is not None:
            raise self.error
        return self.result


class Attempt(Call):
    """One `acquire` on a thread of its own, which ends with it; any thread may release."""

    def __init__(self, lock: coordkit.Lock, **arguments: Any) -> None:
        self.lock = lock
        super().__init__(lock.acquire, **arguments)

    def end(self, within_s: float = PATIENCE_S) -> Attempt:
        """Wait for the acquire to end, either way."""
        return self.ended(within_s)

    def wait_until_held(self, within_s: float = PATIENCE_S) -> Attempt:
        self.ended(within_s)
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
