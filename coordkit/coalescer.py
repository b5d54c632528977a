"""Callers that come at the same time share what they send; a lone caller is never delayed.

Whoever finds nobody at work leads: it sends its own, at once, in its own thread.  What comes while that is on
its way waits, and goes with the next: a courier sends it, a thread of its own, so that an interruption of one
caller (Ctrl-C, `gevent.Timeout`, `kill`) leaves no other one in doubt.  At most one batch is on its way, so
batches are sent in the order in which their callers came.

Those who were just served often come again at once, and the courier would be off with the first of them: two
halves of a crowd would take turns.  So it waits until as many are there, for a quarter of a batch's time at
most.

Those whom a batch has answered wake one after the other: each wakes the next before it goes on.  Threads that
all wake at once have to wait for the interpreter, and for each other.

One bad member spoils its batch for all: when etcd refuses a batch, each member is sent again on its own, and
fails alone.

Source: group commit, DeWitt et al., "Implementation techniques for main memory database systems" (1984).
Invariant: every entry that is done is woken, or woke by itself: who leaves wakes who is behind it, however it
leaves, and who has left already is passed over.
Cost: nothing but the sending; for those who wait, a thread switch each way.
"""

from __future__ import annotations

import collections
import copy
import itertools
import os
import threading
import time
import typing

from coordkit import errors, worker
from coordkit.deadline import Deadline
from coordkit.wire import channel as channels

MOST_WEIGHT = 100
MOST_BYTES = 2**20
LINGER_S = 0.02  # how long the courier stays for those who will come again at once
GATHER = 1 / 4  # of the time that the last batch took: so long it waits for those whom it has just served

T = typing.TypeVar("T")
R = typing.TypeVar("R")


class Entry(channels.Waiter, typing.Generic[T, R]):
    """What one caller wants to have sent, and the caller that waits for it."""

    _result: R | None = None
    _error: BaseException | None = None
    #: Who is to be woken after us.
    behind: Entry[T, R] | None = None
    #: Who is behind is not left to us: we have gone, or a signal's handler may run here first.
    _is_passed_over = False

    def __init__(self, payload: T, weight: int, size_bytes: int, deadline: Deadline) -> None:
        self.payload = payload
        self.weight = weight
        self.size_bytes = size_bytes
        self.deadline = deadline

    def succeed(self, result: R) -> None:
        """This is what came of it."""
        self._result = result
        self.done = True

    def fail(self, error: BaseException) -> None:
        """It did not work, and this is why; the first reason counts."""
        if not self.done:
            self._error = error
            self.done = True

    def wait(self) -> bool:
        """Until it is done, or its time is up; returns whether it is done."""
        while not self.done and (left_s := self.deadline.wait_s()) > 0:
            self.park(left_s)
        self.leave()
        return self.done

    def rouse(self) -> None:
        """It is done, and so is everybody behind it: wake them, one after the other."""
        each: Entry[T, R] | None = self
        while each is not None:
            each.post()
            each = each.behind if each._is_passed_over else None

    def leave(self) -> None:
        """Nobody waits here any more: who is behind wakes.  Idempotent."""
        # In this order: whoever wakes us sees that we have gone, or we see who is behind.
        self._is_passed_over = True
        if self.behind is not None:
            self.behind.rouse()

    def outcome(self) -> R:
        """The result, or the error raised."""
        assert self.done
        if self._error is not None:
            raise self._error
        return typing.cast(R, self._result)


Send = typing.Callable[[typing.Sequence[Entry[T, R]], Deadline], None]


class Coalescer(typing.Generic[T, R]):
    """Sends entries, one batch at a time."""

    def __init__(
        self, name: str, send: Send[T, R], most_weight: int = MOST_WEIGHT, most_bytes: int = MOST_BYTES
    ) -> None:
        """Args:
        name: For errors and the courier's thread.
        send: Sends a batch, and lets each of its entries succeed or fail; what it raises, all that are not
            done yet fail with.
        most_weight: Of a batch; a single entry may have more.
        most_bytes: The same.
        """
        self._name = name
        self._send = send
        self._most_weight = most_weight
        self._most_bytes = most_bytes
        self._pid = os.getpid()
        self._main = threading.main_thread().ident
        self._lock = threading.Lock()
        self._courier = worker.Worker(f"coordkit-{name}")
        self._bell = channels.Waiter()  # posted when so many wait as the courier waits for
        self._awaited = 0  # the courier sleeps until so many wait; 0: it does not sleep
        # Who sends: None (nobody), the entry of a caller that leads, or the courier itself.
        self._leader: object = None
        self._waiting: collections.deque[Entry[T, R]] = collections.deque()

    def submit(self, payload: T, deadline: Deadline, weight: int = 1, size_bytes: int = 0) -> R:
        """Send this, and what others want to have sent meanwhile.

        Args:
            payload: For `send`.
            deadline: Of this caller; a batch goes on for those of its members who have more time.
            weight: How much of a batch it takes.
            size_bytes: The same in bytes.

        Raises:
            DeadlineExceeded: `outcome` says whether it may have been applied.
            CoordError: Whatever `send` met with.
        """
        entry: Entry[T, R] = Entry(payload, weight, size_bytes, deadline)
        try:
            if self._step_up(entry):
                # LEADING: nobody else sends until we step down.
                self._deliver([entry])
                self._step_down(entry)
            elif not entry.wait():
                self._give_up(entry)
        except BaseException:
            # Also when the interruption came on the way out: stepping down twice does no harm.
            self._step_down(entry)
            self._drop(entry)
            entry.leave()
            raise
        return entry.outcome()

    def _step_up(self, entry: Entry[T, R]) -> bool:
        with self._lock:
            if self._leader is None:
                self._leader = entry
                return True
            entry.arm()  # from here on no end is missed
            entry._is_passed_over = threading.get_ident() == self._main
            self._waiting.append(entry)
            if 0 < self._awaited <= len(self._waiting):
                self._awaited = 0
                self._bell.post()
            return False

    def _step_down(self, entry: object) -> None:
        """Let the courier go on with those who wait; nothing, if this one does not lead."""
        with self._lock:
            if self._leader is not entry:
                return
            self._leader = self._courier if self._waiting else None
            goes_on = self._leader is self._courier
        if goes_on:
            self._courier.submit(self._run)

    def _give_up(self, entry: Entry[T, R]) -> None:
        """The caller's time is up."""
        on_its_way = not self._drop(entry)
        if not entry.done:
            outcome = errors.Outcome.UNKNOWN if on_its_way else errors.Outcome.NONE
            entry.fail(errors.DeadlineExceeded(f"{self._name}: not answered in time", outcome))

    def _drop(self, entry: Entry[T, R]) -> bool:
        """Take it out of those who wait; False if it is not, or no more, among them."""
        with self._lock:
            try:
                self._waiting.remove(entry)
            except ValueError:
                return False
            return True

    # The courier.

    def _run(self) -> None:
        served, spent_s = 0, 0.0
        while self._pid == os.getpid():
            if served > 1:
                self._sleep(served, spent_s * GATHER)
            batch = self._take()
            if batch:
                began_s = time.monotonic()
                self._deliver(batch)
                served, spent_s = len(batch), time.monotonic() - began_s
                continue
            served = 0
            self._sleep(1, LINGER_S)
            with self._lock:
                if not self._waiting:
                    self._leader = None
                    return

    def _sleep(self, count: int, longest_s: float) -> None:
        """Until so many wait; shorter, and no harm, if the bell rang as the last sleep was over anyway."""
        with self._lock:
            if len(self._waiting) >= count:
                return
            self._bell.arm()
            self._awaited = count
        self._bell.park(longest_s)
        with self._lock:
            self._awaited = 0

    def _take(self) -> list[Entry[T, R]]:
        """The next batch: as many of the oldest as fit."""
        batch: list[Entry[T, R]] = []
        weight = size_bytes = 0
        with self._lock:
            while self._waiting:
                entry = self._waiting[0]
                weight += entry.weight
                size_bytes += entry.size_bytes
                if batch and (weight > self._most_weight or size_bytes > self._most_bytes):
                    break
                batch.append(self._waiting.popleft())
        return batch

    def _deliver(self, batch: list[Entry[T, R]]) -> None:
        """Send a batch; afterwards each of its entries is done."""
        deadline = batch[0].deadline
        for entry in batch:
            if entry.deadline.at_s > deadline.at_s:
                deadline = entry.deadline
        try:
            self._send(batch, deadline)
        except errors.Rejected as error:
            undone = [entry for entry in batch if not entry.done]
            if len(batch) == 1:
                batch[0].fail(error)
            else:
                for entry in undone:
                    self._deliver([entry])
        except Exception as error:  # told to whom it concerns
            for entry in batch:
                entry.fail(_of_its_own(error))
        for entry in batch:
            if not entry.done:
                entry.fail(AssertionError(f"{self._name}: an entry was not answered"))
        for entry, behind in itertools.pairwise(batch):
            entry.behind = behind
        batch[0].rouse()


def _of_its_own(error: Exception) -> Exception:
    """An exception that is raised in one thread; in several its traceback would grow and grow."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own


def pause(pause_s: float, deadline: Deadline, longest_s: float = 1.0) -> float:
    """Sleep before the next attempt, no longer than there is time; returns the next pause."""
    time.sleep(min(pause_s, deadline.wait_s()))
    return min(pause_s * 2, longest_s)


__all__ = ["LINGER_S", "MOST_BYTES", "MOST_WEIGHT", "Coalescer", "Entry", "pause"]
