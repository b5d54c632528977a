"""`coordkit lock run`: hold a lock while a command runs, and not a moment less."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import typing

import coordkit
from coordkit import errors, keys
from coordkit import ticket as tickets
from coordkit.cli import failure, keeper, launch, options, signals, supervisor, terminal
from coordkit.cli.voice import Voice
from coordkit.deadline import Deadline, boottime

_SUMMARY = "hold a lock while a command runs"
_EXAMPLES = """\
examples:
  coordkit lock run nightly -n -- ./report.sh --all     do nothing if it runs elsewhere
  coordkit lock run deploy -w 60 -- make deploy         wait a minute at most
  coordkit lock run shell -- bash                       what you type there is protected

-s and -x are the two sides of a read-write lock, --permits is a semaphore; without them it is the plain lock.
Locks of different kinds do not exclude each other, whatever their names.

What stands behind -- is started without a shell, with COORDKIT_LOCK_NAME, _KEY, _FENCE and _LEASE set.
When the lock is lost the command is ended: TERM a grace before the lease runs out, KILL when it does.

exit status: the command's, or 128 + the signal that ended it; 75 not acquired (-E); 76 lost; 69 no etcd;
77 etcd denies it; 2 usage; 126 no program; 127 not found"""

_GRACE_PART = 5  # of the TTL, by default
_CHAIN = "COORDKIT_LOCK_CHAIN"  # the keys of all runs around a command; keys have no spaces


class LockLike(supervisor.Hold, typing.Protocol):
    """What `run` needs of a lock."""

    @property
    def fence(self) -> int: ...

    @property
    def key(self) -> bytes: ...

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...

    def release(self) -> None: ...

    def contenders(self) -> list[tickets.Contender]: ...


def register(group: typing.Any) -> None:
    """Add `lock run`."""
    parser = options.command(group, "run", _SUMMARY, _EXAMPLES, run)
    parser.usage = "coordkit lock run NAME [options] -- COMMAND..."
    parser.add_argument("name", metavar="NAME", help="of the lock")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("-s", "--shared", action="store_true", help="beside others with --shared; a read lock")
    exclusive = "beside nobody, nor those with --shared; a write lock"
    kind.add_argument("-x", "--exclusive", action="store_true", help=exclusive)
    permits = "beside N - 1 others with --permits N; a semaphore"
    kind.add_argument("--permits", type=options.count, metavar="N", help=permits)
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what all have that run a command under a hold."""
    wait = parser.add_mutually_exclusive_group()
    wait.add_argument("-n", "--no-wait", action="store_true", help="do not wait for it")
    options.wait(wait, "wait so long at most")
    ttl = "of the lease: free so long after a crash; 10"
    parser.add_argument("--ttl", type=options.positive, metavar="SEC", help=ttl)
    grace = "from TERM to KILL when it is being lost; a fifth of the TTL"
    parser.add_argument("--grace", type=options.duration, metavar="SEC", help=grace)
    conflict = "the exit status when it was not acquired; 75"
    parser.add_argument("-E", "--conflict-exit-code", type=_status, metavar="CODE", help=conflict)
    parser.set_defaults(conflict_exit_code=failure.NOT_ACQUIRED)
    on_lost = "also run when it is lost; split into words as a shell does"
    parser.add_argument("--on-lost", metavar="CMD", help=on_lost)
    parser.add_argument("--json", action="store_true", help="say what happens as JSON, one object a line")
    options.connection(parser)
    options.speech(parser)


def run(arguments: argparse.Namespace) -> int:
    """Acquire, run, release."""
    if arguments.permits:
        return supervise(arguments, _Permitted)
    if arguments.shared:
        return supervise(arguments, _Shared)
    return supervise(arguments, _Exclusive if arguments.exclusive else Run)


def supervise(arguments: argparse.Namespace, kind: type[Run]) -> int:
    """Do as the arguments say, under a hold of this kind; the exit status."""
    if not arguments.child:
        raise failure.CommandFailed("there is no command: put it behind --", failure.USAGE)
    on_lost = _words(arguments.on_lost)
    options.listen(arguments, logging.ERROR)  # a loss is told by the supervisor
    try:
        launch.check_command(arguments.child[0])
        with signals.Inbox() as inbox:
            status, end = kind(arguments, inbox, on_lost).run()
    except launch.CannotRun as error:
        raise failure.CommandFailed(str(error), error.status) from error
    except signals.Signalled as ended:
        return ended.status
    if end is not None and end.interrupted:
        # As without us: a script around us ends, too, for its shell sees that Ctrl-C ended what it ran.
        signals.die_of(status - supervisor.BY_SIGNAL, end.was_lent)
    return status


class Run:
    """One run, under a lock; others say in a subclass under what."""

    kind = "lock"
    variables = "COORDKIT_LOCK_"

    def __init__(self, arguments: argparse.Namespace, inbox: signals.Inbox, on_lost: list[str]) -> None:
        self._arguments = arguments
        self._inbox = inbox
        self._on_lost = on_lost
        self._voice = Voice(arguments)
        self._what = f"{self.kind} {arguments.name!r}"

    def open(self, coord: coordkit.Coordinator) -> LockLike:
        """What is to be held."""
        return coord.lock(self._arguments.name)

    def run(self) -> tuple[int, supervisor.End | None]:
        """The exit status, and how the command ended if there was one."""
        deadline = Deadline.after(0.0 if self._arguments.no_wait else self._arguments.wait)
        guard = keeper.Keeper()
        try:
            with options.connect(self._arguments) as coord:
                grace_s = self._grace_s(coord)
                lock = self.open(coord)
                if not self._arguments.no_wait:
                    self._check_chain(lock, coord.settings.namespace)
                if not self._acquire(lock, deadline):
                    return self._arguments.conflict_exit_code, None
                command, words = self._arguments.child, self._environment(lock)
                plan = supervisor.Plan(command, words, grace_s, self._on_lost, self._what)
                end = supervisor.Supervisor(self._inbox, guard, self._voice, lock, plan).run()
                return self._release(lock, end), end
        finally:
            guard.end()

    def _grace_s(self, coord: coordkit.Coordinator) -> float:
        ttl_s = coord.settings.terms.ttl_s
        given: float | None = self._arguments.grace
        # Renewals come each third of the TTL, so that much less is left at times although all is well.
        most_s = 0.6 * ttl_s - 0.7
        if given is not None and given > most_s:
            text = f"--grace must be at most {most_s:.1f} s with a TTL of {ttl_s} s"
            raise failure.CommandFailed(text, failure.USAGE)
        return ttl_s / _GRACE_PART if given is None else given

    def _acquire(self, lock: LockLike, deadline: Deadline) -> bool:
        self._voice.tell("waiting", f"{self._what}: acquiring it")
        since_s = boottime()
        while True:
            try:
                acquired = lock.acquire(timeout=deadline.remaining() if deadline.at_s < float("inf") else -1)
                break
            except errors.SessionLost as error:
                self._voice.tell("again", f"{self._what}: {error}; standing in line anew")
        waited_s = round(boottime() - since_s, 3)
        if acquired:
            text = f"{self._what}: acquired with fence {lock.fence}"
            self._voice.tell("acquired", text, fence=lock.fence, waited_s=waited_s)
        else:
            holder = next((f" by {terminal.plain(place.identity)}" for place in lock.contenders()), "")
            text = f"{self._what} was not acquired: it is held{holder}"
            self._voice.warn("not acquired", text, waited_s=waited_s)
        return acquired

    def _check_chain(self, lock: LockLike, namespace: str) -> None:
        """Refuse to wait for a run that waits for us."""
        prefix = keys.prefix(namespace, self.kind, self._arguments.name)
        chain = os.environb.get(_CHAIN.encode(), b"").split()
        around = {key for key in chain if key.startswith(prefix) and self._blocks(key)}
        if around and any(place.key in around for place in lock.contenders()):
            text = f"{self._what} is held by a run around this one, which would wait for itself"
            raise failure.CommandFailed(text, failure.USAGE)

    def _blocks(self, key: bytes) -> bool:
        """Whether whoever holds this key, of the same name, is in our way."""
        return True

    def _environment(self, lock: LockLike) -> dict[str, str]:
        lease, _, _ = lock.key.rpartition(b"/")[2].partition(b"-")
        key = os.fsdecode(lock.key)
        return {
            **os.environ,
            f"{self.variables}NAME": self._arguments.name,
            f"{self.variables}KEY": key,
            f"{self.variables}FENCE": str(lock.fence),
            f"{self.variables}LEASE": os.fsdecode(lease),
            _CHAIN: f"{os.environ.get(_CHAIN, '')} {key}".strip(),
        }

    def _release(self, lock: LockLike, end: supervisor.End) -> int:
        """The exit status."""
        if end.lost:
            return failure.LOST
        certain_until_s = boottime() + lock.remaining()
        self._inbox.raise_again()
        try:
            lock.release()
        except (KeyboardInterrupt, signals.Signalled):
            # The command's end counts.  Closing gives the lease back, if etcd answers.
            self._voice.warn("not released", f"{self._what}: not released, for we were interrupted")
        except errors.LockLost as error:
            if boottime() < certain_until_s:
                text = f"{self._what} was lost while the command ran: {error}"
                self._voice.warn("lost", text, reason=str(error))
                return failure.LOST
            # It was held until the command ended; etcd did not answer since.
            self._voice.warn("not released", f"{self._what}: not released, its lease runs out: {error}")
        self._voice.tell("released", f"{self._what}: the command ended with {end.status}", status=end.status)
        return end.status


class _Shared(Run):
    kind = "rwlock"

    def open(self, coord: coordkit.Coordinator) -> LockLike:
        return coord.rwlock(self._arguments.name).read

    def _blocks(self, key: bytes) -> bool:
        return b"/write/" in key


class _Exclusive(Run):
    kind = "rwlock"

    def open(self, coord: coordkit.Coordinator) -> LockLike:
        return coord.rwlock(self._arguments.name).write


class _Permitted(Run):
    kind = "semaphore"

    def open(self, coord: coordkit.Coordinator) -> LockLike:
        return coord.semaphore(self._arguments.name, limit=self._arguments.permits)

    def _blocks(self, key: bytes) -> bool:
        return False  # not for certain


def _words(text: str | None) -> list[str]:
    try:
        return [] if text is None else shlex.split(text)
    except ValueError as error:
        raise failure.CommandFailed(f"--on-lost: {error}", failure.USAGE) from error


def _status(text: str) -> int:
    """An exit status."""
    if not text.isdecimal() or int(text) > 255:
        raise argparse.ArgumentTypeError(f"{text!r} is no exit status from 0 to 255")
    return int(text)
