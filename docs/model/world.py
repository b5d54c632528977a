"""What there is at one moment: etcd, the messages on their way, and what each contender knows.

A `State` is that moment, hashable.  A `World` is a copy of one that a step may change; it serves requests as
etcd does, and keeps the ghosts: what no program knows, and what the invariants are about.

Moments from which the same may follow have one `representative`, which keeps their number down: `reduction`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import reduction
from state import Answer, Key, Request, Scope, Session, State, Ticket, Watch

W = TypeVar("W", bound="World")


class Violation(Exception):
    """An invariant does not hold."""


class World:
    """A state that a step may change."""

    def __init__(self, scope: Scope, without: str = "") -> None:
        """The first moment, perhaps with a rule taken out."""
        self.scope = scope
        self.without = without
        self.told: list[object] = []  # what the last step did, to be shown
        self.who = {each.who: each for each in scope.contenders}
        names = list(dict.fromkeys(each.session for each in scope.contenders if each.session))
        self._session_of = {each.who: names.index(each.session) for each in scope.contenders if each.session}
        lines = sorted({each.line for each in scope.contenders})
        self.revision = 1
        self.lines: dict[str, tuple[Key, ...]] = dict.fromkeys(lines, ())
        self.sessions = {each.session: Session() for each in scope.contenders if each.session}
        self.tickets = {who: Ticket(f"{who}1") for who in self.who}
        self.watches: dict[tuple[str, str], Watch | str] = {
            (each.process, line): "" for each in scope.contenders if each.session for line in lines
        }
        self.seen = {process: 0 for process, _ in self.watches}
        self.late: tuple[Request, ...] = ()
        self.chores: tuple[Request, ...] = ()
        self.lagging: tuple[Any, ...] = ()
        self.left = {each.who: each.turns for each in scope.contenders}
        self.budget = scope.budget

    def at(self: W, state: State) -> W:
        """A copy of this world, at another moment."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.revision = state.revision
        other.lines = dict(zip(self.lines, state.lines, strict=True))
        other.sessions = dict(zip(self.sessions, state.sessions, strict=True))
        other.tickets = dict(zip(self.tickets, state.tickets, strict=True))
        other.watches = dict(zip(self.watches, state.watches, strict=True))
        other.seen = dict(zip(self.seen, state.seen, strict=True))
        other.left = dict(zip(self.left, state.left, strict=True))
        other.late, other.chores = state.late, state.chores
        other.lagging, other.budget = state.lagging, state.budget
        return other

    def state(self) -> State:
        """This moment."""
        self.late = self.late and tuple(sorted(filter(self._may_write, self.late)))
        self.chores = tuple(sorted(self.chores))
        if not all(left or self.tickets[who].at != "idle" for who, left in self.left.items()):
            self._forget_the_finished()
        return State(
            self.revision,
            tuple(self.lines.values()),
            tuple(self.sessions.values()),
            tuple(self.tickets.values()),
            tuple(self.watches.values()),
            tuple(self.seen.values()),
            self.late,
            self.chores,
            self.lagging,
            tuple(self.left.values()),
            self.budget,
        )

    def representative(self) -> State:
        """The one that stands for all moments from which the same may follow."""
        # A rule that was taken out may be the very reason why something has no consequences.
        if not self.without and "falls_behind" not in self.scope.kinds:
            self._forget_the_told()
        state = reduction.renumbered(self.state(), self._session_of)
        return reduction.in_order(state) if self.scope.alike else state

    def _forget_the_told(self) -> None:
        for who, ticket in self.tickets.items():
            self.tickets[who] = reduction.without_the_struck(ticket)
        for view, watch in self.watches.items():
            if isinstance(watch, Watch):
                tickets = [self.tickets[who] for who in self.busy_at(*view)]
                self.watches[view] = reduction.without_the_told(watch, tickets, self.revision)

    def busy_at(self, process: str, line: str) -> list[str]:
        """Who of a process stands in a line, or is about to."""
        return [
            who
            for who, each in self.who.items()
            if (each.process, each.line) == (process, line) and self.tickets[who].at != "idle"
        ]

    def _forget_the_finished(self) -> None:
        """What a session and a watch would still tell when all who use them are through."""
        busy = [who for who, ticket in self.tickets.items() if self.left[who] or ticket.at != "idle"]
        named = [key.name[0] for line in self.lines.values() for key in line]
        named += [each[1] for each in self.late + self.chores]
        sessions = {self.who[who].session for who in [*busy, *named]}
        views = {(self.who[who].process, self.who[who].line) for who in busy}
        for session in self.sessions.keys() - sessions:
            self.sessions[session] = Session(0, 0, True)
        for view in self.watches.keys() - views:
            self.watches[view] = ""

    def lacks(self, rule: str) -> bool:
        """Whether this rule was taken out."""
        return self.without == rule

    def change(self, who: str, **fields: Any) -> Ticket:
        """Set fields of a ticket."""
        self.tickets[who] = changed = self.tickets[who]._replace(**fields)
        return changed

    def session_of(self, who: str) -> Session:
        return self.sessions[self.who[who].session]

    # etcd.

    def serve(self, request: Request) -> Answer:
        """Apply a request, and answer it."""
        kind, who, name, number = request
        line, session = self.who[who].line, self.session_of(who)
        mine = next((key for key in self.lines[line] if key.name == name), None)
        if kind == "create":  # LeasedKeys.create; `number` is the epoch
            if session.mod and not mine and (session.mod == number or self.lacks("no epoch compare")):
                self._put(line, name)
                return ("made", self.revision, *self._newest(self.lines[line][:-1]))
            return ("there", mine.create) if mine else ("epoch", session.mod)
        if kind in ("settle", "withdraw"):  # _look and withdraw; `number` is the epoch that is to end
            if session.mod and session.mod == number and not self._keeps_epoch(kind):
                self.revision += 1
                session = self.sessions[self.who[who].session] = session._replace(mod=self.revision)
                if kind == "withdraw":
                    self.delete(line, [name], "own", self.revision)
            elif kind == "withdraw" and mine:
                self.delete(line, [name], "own")  # `bare`: the epoch was over already
            return ("settled", session.mod, mine.create if mine else 0)
        # Delete if create = mine: delete_verified ("release") and delete_mine ("delete"); `number` is mine.
        if mine and (mine.create == number or (kind == "release" and self.lacks("unlock by name"))):
            self.delete(line, [name], "own")
        elif not (kind == "release" and self.lacks("unlock by name")):
            return ("refused", session.mod)
        return ("deleted", *self.lines[line][:1])  # the head, for who hands over

    def look(self, who: str, create: int, stale: bool) -> Answer:
        """Line._look: those before me and my own key, of one revision."""
        revision, lines = self.lagging if stale else (self.revision, tuple(self.lines.values()))
        line = lines[list(self.lines).index(self.who[who].line)]
        older = [key for key in line if key.create <= create]
        shows_us = bool(older) and older[-1].name == self.tickets[who].name
        return ("seen", revision, shows_us, *self._newest(tuple(older[:-1])))

    def _newest(self, before: tuple[Key, ...]) -> tuple[tuple[Key, ...], bool]:
        """As many as the window shows, the newest first, and whether there are more."""
        return before[::-1][: self.scope.window], len(before) > self.scope.window

    def _keeps_epoch(self, kind: str) -> bool:
        return self.lacks(
            "withdrawal without ending the epoch" if kind == "withdraw" else "a doubt is settled by a read"
        )

    def _may_write(self, late: Request) -> bool:
        """Whether a copy that nobody waits for can still do anything: revisions do not come back."""
        kind, who, _, number = late
        mod = self.session_of(who).mod
        if not mod or kind == "withdraw" or self.lacks("unlock by name"):
            return mod > 0
        if kind in ("create", "settle"):
            return mod == number or self.lacks("no epoch compare")
        return any(key.create == number for key in self.lines[self.who[who].line])

    def _put(self, line: str, name: str) -> None:
        self.revision += 1
        self.lines[line] += (Key(name, self.revision),)
        self._note_first(line)

    def delete(self, line: str, names: list[str], by: str, revision: int = 0) -> None:
        """Delete keys of a line, at a revision of their own unless they share one; watches will tell."""
        gone = [key for key in self.lines[line] if key.name in names]
        if not gone:
            return
        self.revision = revision or self.revision + 1
        self.lines[line] = tuple(key for key in self.lines[line] if key.name not in names)
        for view, watch in self.watches.items():
            if view[1] == line and isinstance(watch, Watch):
                untold = tuple(Key(key.name, self.revision) for key in gone)
                self.watches[view] = watch._replace(untold=watch.untold + untold)
        for who, ticket in self.tickets.items():
            if self.who[who].line != line:
                continue
            if ticket.far == "stands" and {ticket.predecessor, ticket.name} & {key.name for key in gone}:
                self.change(who, far="ending")
            for key in gone:
                if key.name == ticket.name and ticket.at != "idle" and ticket.create in (0, key.create):
                    self._note_gone(who, ticket, by)
        self._note_first(line)

    # Ghosts.

    def _note_gone(self, who: str, ticket: Ticket, by: str) -> None:
        releasing = ticket.call[:1] == ("release",) or not self.who[who].session
        if by == "own" and not releasing:
            raise Violation(f"a request of {who}'s own deleted {ticket.name}, in which it still stands")
        self.change(who, gone=by)

    def _note_first(self, line: str) -> None:
        for name, create in self.lines[line][:1]:
            ticket = self.tickets[name[0]]
            if ticket.name == name and ticket.phase != "READY":
                self.change(name[0], was_first=create)
