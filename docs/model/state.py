"""A moment as a value: what is in etcd, on its way, and known to each contender."""

from __future__ import annotations

from typing import Any, NamedTuple

Request = tuple[Any, ...]  # what it asks, who asks, and the rest as `World.serve` knows it
Answer = tuple[Any, ...]


class Contender(NamedTuple):
    """A thread that acquires and releases: `turns` times, in a line, by a session of a process."""

    who: str
    session: str  # "": a Go program, which joins and leaves in one step each, always by the same name
    process: str
    line: str = "x"
    turns: int = 1


class Scope(NamedTuple):
    """A small world, and its bounds."""

    name: str
    contenders: tuple[Contender, ...]
    budget: int  # how many faults, of all kinds together
    kinds: frozenset[str]  # which
    window: int = 16  # waitlist.WINDOW
    alike: bool = False  # whether all contenders are alike: one line, and each its own session and process


class Key(NamedTuple):
    """A place in line, in etcd."""

    name: str
    create: int

    def __repr__(self) -> str:
        return f"{self.name}@{self.create}"


class Session(NamedTuple):
    """A session's key in etcd, and what its client believes."""

    mod: int = 1  # the session key's mod revision; 0: the lease ended, and took all keys
    epoch: int = 1  # LeasedKeys._epoch
    over: bool = False  # LOST, as far as the client knows


class Watch(NamedTuple):
    """A process's watch on a line.  In its place: "" (there is none), or "opening"."""

    since: int  # Watched._covered_from
    untold: tuple[Key, ...] = ()  # deletions on their way: the name, and the revision of its deletion


class Ticket(NamedTuple):
    """`ticket.Ticket`, where its thread is, and two ghosts."""

    name: str
    at: str = "idle"  # idle, call, wait, held
    call: Request = ()  # what was sent
    answer: Answer = ()  # etcd's, not received yet
    phase: str = "JOINING"  # ticket.Phase
    create: int = 0
    at_once: bool = True
    snapshot: int = 0
    is_free: bool = False
    ahead: frozenset[Key] | None = frozenset()
    predecessor: str = ""
    struck: tuple[Key, ...] | None = ()
    awake: bool = False
    attempted: bool = False  # delete_verified's: an earlier attempt may have been applied
    far: str = ""  # _wait_far's watches, as one: "", opening, stands, ending (not told yet), over
    far_since: int = 0
    was_first: int = 0  # ghost: the create revision with which its key was the oldest of the line
    gone: str = ""  # ghost: who deleted its key


class State(NamedTuple):
    """All of it."""

    revision: int
    lines: tuple[tuple[Key, ...], ...]  # the oldest first
    sessions: tuple[Session, ...]
    tickets: tuple[Ticket, ...]
    watches: tuple[Watch | str, ...]
    seen: tuple[int, ...]  # Client.seen_revision, for each process
    late: tuple[Request, ...]  # nobody waits for these any more, and they may still come
    chores: tuple[Request, ...]  # the sessions' background
    lagging: tuple[Any, ...]  # what a member that lags would show: a revision and the lines
    left: tuple[int, ...]  # turns
    budget: int  # faults
