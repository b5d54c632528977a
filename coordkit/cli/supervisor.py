"""Supervisor: runs a command for exactly as long as something is held.

The command gets a process group of its own, and the terminal when we have it; signals are passed on to all of
the group.  When what is held runs out, the group is sent TERM, a grace later KILL, and that a margin before
the hold's deadline; when it is known to be gone already, KILL at once.  A keeper (`keeper.py`) kills in place
of a supervisor that is stopped or dead.

POSIX only.  Cost: two processes; a look at the hold each second, or four times in what remains of it.
"""

from __future__ import annotations

import collections.abc
import contextlib
import enum
import os
import signal
import subprocess
import threading
import typing

import attrs

from coordkit import errors
from coordkit.cli import foreground, keeper, launch, signals
from coordkit.cli.voice import Voice
from coordkit.deadline import NEVER, Deadline, boottime

BY_SIGNAL = 128
ON_LOST_S = 10.0  # what --on-lost may take

#: How long before the hold's own deadline the command is killed.  Dying takes a moment on a busy machine; and
#: at its deadline a session that etcd still hears, although it hears nothing, gives up its lease at once.
MARGIN_S = 0.25

_LONGEST_NAP_S = 1.0
_SHORTEST_NAP_S = 0.02
_DEATH_S = 1.0  # how long one that was killed may take to vanish before we go on
_ENDING_S = 0.1  # and those that end with it, after it
_SECOND_LOOK_S = 0.2  # the heart needs a moment after we, and it, could not run for a while


class Hold(typing.Protocol):
    """What a command runs under: a lock that is held, a leadership."""

    @property
    def lost(self) -> threading.Event: ...

    def remaining(self) -> float: ...

    def check(self) -> None: ...


class State(enum.Enum):
    """Of the command; RUNNING -> WARNED -> KILLED, or RUNNING -> KILLED."""

    # RUNNING: what it needs is held, with more than the grace left.
    RUNNING = "running"
    # WARNED: it was sent TERM.  It is killed at a deadline that no later renewal moves.
    WARNED = "warned"
    # KILLED: it was sent KILL.
    KILLED = "killed"


@attrs.frozen
class Plan:
    """What to run, and what to do when the hold is lost."""

    command: list[str]
    environment: dict[str, str]
    grace_s: float
    on_lost: list[str] = attrs.field(factory=list)  # a command line; empty: none
    what: str = "the lock"  # that is held


@attrs.frozen
class End:
    """How it ended."""

    status: int  # of the command, as a shell counts
    lost: str = ""  # why the hold is over, when it was before the command ended
    interrupted: bool = False  # by Ctrl-C, of which those around us should hear
    was_lent: bool = False  # the terminal, at the end


class Supervisor:
    """Of one command.  Only for the main thread."""

    def __init__(
        self, inbox: signals.Inbox, guard: keeper.Keeper, voice: Voice, hold: Hold, plan: Plan
    ) -> None:
        """Args:
        inbox: Entered; it gathers from `run` on.
        guard: Not used for anything else before.
        voice: To say what happens.
        hold: Held.
        plan: What to run.
        """
        self._inbox = inbox
        self._keeper = guard
        self._voice = voice
        self._hold = hold
        self._lost = hold.lost  # that of this hold
        self._plan = plan
        self._state = State.RUNNING
        self._reason = ""
        self._kill_at_s = 0.0
        self._short_since_s: float | None = None  # since when less than the grace is left
        self._terminal: foreground.Terminal | None = None
        self._group = 0
        self._lends = False  # whether the command is to have the terminal when we have it
        self._was_told_to_stop = False
        self._was_interrupted = False
        self._on_lost: subprocess.Popen[bytes] | None = None
        self._on_lost_limit = NEVER

    def run(self) -> End:
        """Start it, and stay until it has ended.

        Raises:
            launch.CannotRun: It could not be started.
        """
        self._inbox.gather()
        self._terminal = foreground.Terminal.ours()
        try:
            child = self._start()
            with self._awake_when_lost():
                status = self._attend(child)
            return self._finish(status)
        except BaseException:
            if self._group:
                self._signal(signal.SIGKILL)  # nobody would look after it
            raise
        finally:
            self._keeper.end()
            if self._terminal is not None:
                self._terminal.take()
                self._terminal.close()

    def _start(self) -> int:
        terminal = self._terminal
        # A command in a pipeline shares the terminal with the others of it, which are in our group: then it
        # gets the terminal when it asks for it, see `_stopped`.
        self._lends = terminal is not None and os.isatty(0) and os.isatty(1)
        lend_to = terminal if terminal is not None and self._lends and terminal.in_foreground else None
        deadline_s = boottime() + self._left_s()
        self._group = launch.start(
            self._plan.command, self._plan.environment, lend_to, lambda: self._keeper.guard_me(deadline_s)
        )
        program, pid = self._plan.command[0], self._group
        self._voice.tell("started", f"{program} runs as process {pid}", pid=pid)
        return pid

    @contextlib.contextmanager
    def _awake_when_lost(self) -> collections.abc.Iterator[None]:
        over = threading.Event()

        def wait() -> None:
            while not over.is_set():
                if self._lost.wait(_LONGEST_NAP_S):
                    self._inbox.wake()
                    return

        threading.Thread(target=wait, name="coordkit-lost", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    # While it runs.

    def _attend(self, child: int) -> int:
        """The command's status, as `waitpid` has it."""
        while True:
            self._look()
            status = self._news_of(child)
            if status is not None:
                return status
            for number in self._inbox.wait(self._nap_s()):
                self._take(number)

    def _left_s(self) -> float:
        """Seconds that the command may live, if nothing more is heard."""
        return self._hold.remaining() - MARGIN_S

    def _nap_s(self) -> float:
        remaining = self._left_s()
        if self._state is State.RUNNING:
            due_s = remaining - self._plan.grace_s - _SECOND_LOOK_S
        else:
            due_s = self._kill_at_s - boottime()
        return max(_SHORTEST_NAP_S, min(due_s, remaining / 4, _LONGEST_NAP_S))

    def _look(self) -> None:
        """Let the command's state follow the hold's."""
        if self._state is State.KILLED:
            return
        remaining, now_s = self._left_s(), boottime()
        if self._lost.is_set() or remaining <= 0:
            self._kill()
        elif self._state is State.WARNED:
            if now_s >= self._kill_at_s:
                self._kill()
        elif self._is_short(remaining, now_s):
            self._warn(now_s + remaining)
        else:
            self._keeper.guard(self._group, now_s + remaining)

    def _is_short(self, remaining: float, now_s: float) -> bool:
        """Whether the grace begins; not at the first look, for perhaps nobody could run, and all is well."""
        if remaining > self._plan.grace_s + _SECOND_LOOK_S:
            self._short_since_s = None
            return False
        if self._short_since_s is None:
            self._short_since_s = now_s
        waited_s = now_s - self._short_since_s
        return remaining <= self._plan.grace_s and waited_s >= min(_SECOND_LOOK_S, remaining / 2)

    def _warn(self, kill_at_s: float) -> None:
        self._state = State.WARNED
        self._kill_at_s = kill_at_s
        self._reason = "no renewal was answered in time"
        self._keeper.guard(self._group, kill_at_s)
        self._signal(signal.SIGTERM)  # before anything is said: who reads that may be slow
        self._signal(signal.SIGCONT)
        left_s = max(0.0, kill_at_s - boottime())
        text = f"{self._plan.what} runs out in {left_s:.1f} s: ending the command"
        self._voice.warn("ending", text, left_s=round(left_s, 3))
        self._run_on_lost()

    def _kill(self) -> None:
        self._state = State.KILLED
        self._signal(signal.SIGKILL)  # before anything else
        self._reason = self._why_lost() or "no renewal was answered in time"
        self._voice.warn("killed", f"{self._reason}: the command was killed", reason=self._reason)
        self._run_on_lost()

    def _why_lost(self) -> str:
        try:
            self._hold.check()
        except errors.CoordError as error:
            return str(error)
        return self._reason

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # ended, or became another user's
            os.killpg(self._group, number)

    def _take(self, number: int) -> None:
        """A signal has come."""
        if number == signal.SIGCONT:
            self._was_told_to_stop = False
            self._look()  # first: perhaps we were stopped for too long
            self._resume()
        elif number not in (signals.WOKEN, signal.SIGCHLD):
            self._was_told_to_stop |= number == signal.SIGTSTP
            self._was_interrupted |= number == signal.SIGINT
            self._signal(number)

    # It stops, goes on, ends.

    def _news_of(self, child: int) -> int | None:
        """Its status once it has ended."""
        while True:
            pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return None
            if not os.WIFSTOPPED(status):
                return status
            self._stopped(os.WSTOPSIG(status))

    def _stopped(self, number: int) -> None:
        """Stop with it, as one job; come back when the job goes on."""
        terminal = self._terminal
        wants_terminal = number in (signal.SIGTTIN, signal.SIGTTOU)
        self._lends |= wants_terminal
        if self._state is not State.RUNNING:
            return self._signal(signal.SIGCONT)  # its end must not wait for anybody
        if wants_terminal and terminal is not None and terminal.in_foreground:
            return self._resume()
        was_lent = terminal is not None and terminal.is_lent
        if not (was_lent or wants_terminal or self._was_told_to_stop):
            return  # somebody stopped just that one, and will know when it shall go on
        if terminal is not None:
            terminal.take()
        # Ctrl-Z went to the command's group alone when that had the terminal.
        whole_group, self._was_told_to_stop = not self._was_told_to_stop, False
        continued = self._inbox.stop(number if wants_terminal else signal.SIGTSTP, whole_group)
        self._look()  # first: perhaps it was for too long
        if continued or not wants_terminal:
            self._resume()
        else:
            self._voice.warn("stopped", "the command waits for the terminal, and nobody can give it one")

    def _resume(self) -> None:
        if self._lends and self._terminal is not None and self._terminal.in_foreground:
            self._terminal.lend(self._group)
        self._signal(signal.SIGCONT)

    def _finish(self, status: int) -> End:
        terminal = self._terminal
        was_lent = terminal is not None and terminal.is_lent
        if terminal is not None:
            terminal.take(restore=os.WIFSIGNALED(status))
        if self._state is State.RUNNING and (self._lost.is_set() or self._left_s() <= _SHORTEST_NAP_S):
            self._kill()  # it ended before we looked: what it left behind
        if self._state is not State.RUNNING:
            self._clear_group()
        elif self._group_stays():
            text = f"the command has ended; what it left running goes on without {self._plan.what}"
            self._voice.warn("left", text)
        self._keeper.end()
        self._await_on_lost()
        by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return End(
            BY_SIGNAL + by if by else os.WEXITSTATUS(status),
            "" if self._state is State.RUNNING else self._reason,
            terminal is not None and by == signal.SIGINT and (was_lent or self._was_interrupted),
            was_lent,
        )

    def _clear_group(self) -> None:
        """Its first process has ended; the others have what is left of the grace."""
        while self._group_lives() and self._state is not State.KILLED:
            self._inbox.wait(_SHORTEST_NAP_S)
            self._look()
        limit = Deadline.after(_DEATH_S)
        while self._group_lives() and not limit.expired:
            self._inbox.wait(_SHORTEST_NAP_S)

    def _group_stays(self) -> bool:
        """Whether somebody is left behind; one that is just ending, too, is not."""
        limit = Deadline.after(_ENDING_S)
        while self._group_lives() and not limit.expired:
            self._inbox.wait(_SHORTEST_NAP_S)
        return self._group_lives()

    def _group_lives(self) -> bool:
        try:
            os.killpg(self._group, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it became another user's
        return True

    # What else is to be done on a loss.

    def _run_on_lost(self) -> None:
        if not self._plan.on_lost or self._on_lost is not None:
            return
        self._on_lost_limit = Deadline.after(ON_LOST_S)
        try:
            self._on_lost = launch.start_aside(self._plan.on_lost, self._plan.environment)
        except launch.CannotRun as error:
            self._voice.warn("on-lost", f"--on-lost: {error}")

    def _await_on_lost(self) -> None:
        follower = self._on_lost
        if follower is None:
            return
        try:
            follower.wait(self._on_lost_limit.wait_s())
        except subprocess.TimeoutExpired:
            self._voice.warn("on-lost", f"--on-lost: killed after {ON_LOST_S:g} s")
            os.killpg(follower.pid, signal.SIGKILL)
            follower.wait()
