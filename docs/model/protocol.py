"""The steps: what contenders do, as `coordkit/` does it, and what befalls them.

Each step of a contender names the function that it models; `Moment.steps` says which are possible, and `take`
takes one.  A call is sent, applied by etcd, and received; in between anything may happen.  A thread runs from
one wait to the next at once, but to be granted is a step of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from state import Key, Ticket, Watch
from world import Violation, World

Step = tuple[str, ...]  # its name, which is the method's, and whom it concerns

#: What nobody is to rely on: faults, each at the expense of the budget, and what follows from an earlier one.
#: All other steps come sooner or later.
FAULTS = frozenset(
    {"lost", "doubled", "gives_up", "deleted_by_hand", "time_is_up", "revoked", "compacted", "falls_behind"}
)
UNCERTAIN = FAULTS | {"stale", "comes_late"}

#: The rules that can be taken out, those of tools/mutations.py by the same names; some are only here.
RULES = (
    "no epoch compare",
    "unlock by name",
    "strike by name alone",
    "grant without own key",
    "grant from a stale read",
    "watch from the reply's revision without confirming",
    "window mistaken for the whole line",
    "local hand-over without the head",
    "withdrawal without ending the epoch",
    "a permit too many",
    "deadline from receipt",
)
RULES_OF_OUR_OWN = (
    "a doubt is settled by a read",
    "a retry is reported as a loss",
    "READY without a look at the clock",
)

CREATE, RELEASE, READ, SETTLE = "create", "release", "read", "settle"


class Moment(World):
    """A world with the steps that lead on from it."""

    # Joining: Line._join and LeasedKeys.create.

    def acquires(self, who: str) -> None:
        """Line.join: registered first, then the create is sent."""
        self.left[who] -= 1
        if not self.who[who].session:
            self._put(self.who[who].line, self.tickets[who].name)
            self.change(who, at="wait")
            self.told = ["joins"]
            return
        self._join(who)

    def _join(self, who: str) -> None:
        self._send(who, CREATE, self.session_of(who).epoch)

    def _send(self, who: str, kind: str, number: int) -> None:
        self.change(who, at="call", call=(kind, who, self.tickets[who].name, number), answer=())
        self.told = ["sends", kind, number]

    def applied(self, who: str, stale: bool = False) -> None:
        """etcd takes the request and answers; the answer is on its way."""
        ticket = self.tickets[who]
        if ticket.call[0] == READ:
            answer = self.look(who, ticket.create, stale)
        else:
            answer = self.serve(ticket.call)
        self.change(who, answer=answer)
        self.told = ["its", ticket.call[0], "is applied at", self.revision, answer]

    def stale(self, who: str) -> None:
        """A member that lags answers."""
        self.applied(who, stale=True)

    def received(self, who: str) -> None:
        """The reply comes, and is taken in."""
        ticket = self.tickets[who]
        if ticket.answer[0] in ("made", "seen"):
            self._note_seen(self.who[who].process, ticket.answer[1])
        self.told = ["receives", ticket.answer]
        {
            CREATE: self._created,
            SETTLE: self._settled,
            READ: self._has_read,
            RELEASE: self._released,
        }[ticket.call[0]](who, ticket)

    def _created(self, who: str, ticket: Ticket) -> None:
        """LeasedKeys.create, once it has an answer."""
        kind, number, *before = ticket.answer
        if kind == "epoch":
            self._enter_epoch(who, number)
            if not self._is_over(who):
                self._join(who)
            return
        self._stands(who, number, at_once=ticket.at_once and kind == "made")
        if kind == "made" and self.tickets[who].phase == "JOINING":
            self._take(who, number, *before)
        self._wake(who)

    def _settled(self, who: str, ticket: Ticket) -> None:
        """LeasedKeys._find_out: what the create made is all that it ever will."""
        _, mod, create = ticket.answer
        self._enter_epoch(who, mod)
        if create:
            self._stands(who, create, at_once=False)
            self._wake(who)
        elif not self._is_over(who):
            self._join(who)

    def _enter_epoch(self, who: str, mod: int) -> None:
        """LeasedKeys._see_key and _enter_epoch."""
        name = self.who[who].session
        session = self.sessions[name]
        if mod:
            self.sessions[name] = session._replace(epoch=max(session.epoch, mod))
        else:
            self._lose(name)

    def _stands(self, who: str, create: int, at_once: bool) -> None:
        """Ticket.created: a deletion may have been told before the reply came."""
        ticket = self.change(who, at="wait", call=(), answer=(), create=create, at_once=at_once)
        if any(name == ticket.name and revision > create for name, revision in ticket.struck or ()):
            self._gone(who)

    def _take(self, who: str, revision: int, before: tuple[Key, ...], more: bool) -> None:
        """Ticket.take, and Line._settle."""
        struck = dict(self.tickets[who].struck or ())
        ahead: frozenset[Key] | None = frozenset(
            key for key in before if struck.get(key.name, 0) < key.create
        )
        if more and not self.lacks("window mistaken for the whole line"):
            ahead = None
        self.change(
            who,
            phase="WAITING",
            struck=None,
            snapshot=revision,
            is_free=not before and not more,
            predecessor=before[0].name if before else "",
            ahead=ahead,
        )
        self._settle(who)

    def _settle(self, who: str) -> None:
        ticket = self.tickets[who]
        most = 1 if self.lacks("a permit too many") else 0
        through = ticket.is_free or (ticket.ahead is not None and len(ticket.ahead) <= most)
        if ticket.phase == "WAITING" and through and (ticket.is_free or self._is_covered(who)):
            self.change(who, phase="READY")

    def _is_covered(self, who: str) -> bool:
        """Line._is_covered: every deletion since the snapshot has been, or will be, told."""
        watch = self.watches[self._view(who)]
        if not isinstance(watch, Watch):
            return False
        unconfirmed = self.lacks("watch from the reply's revision without confirming")
        return unconfirmed or watch.since <= self.tickets[who].snapshot

    def _view(self, who: str) -> tuple[str, str]:
        return self.who[who].process, self.who[who].line

    # Waiting: Line.await_turn, _wait and _wait_far.

    def _wake(self, who: str) -> None:
        """Go through await_turn's loop until there is nothing to do; to be granted is a step of its own."""
        if self.tickets[who].at != "wait":
            return
        self.change(who, awake=True)
        while self.tickets[who].awake and self.tickets[who].at == "wait" and not self._is_turn(who):
            self._look_around(who)

    def _is_turn(self, who: str) -> bool:
        """Line._is_turn: the last word is the clock's."""
        self._settle(who)
        lives = not self.session_of(who).over or self.lacks("READY without a look at the clock")
        return self.tickets[who].phase == "READY" and lives

    def _look_around(self, who: str) -> None:
        """One round of await_turn's loop, with _wait."""
        ticket, view = self.tickets[who], self._view(who)
        if self._is_over(who):
            pass
        elif ticket.phase == "GONE":
            self._leave(who)
            self._join(who)
        elif ticket.phase == "JOINING":
            self._read(who)
        elif ticket.ahead is None or ticket.far:
            self._wait_far(who, ticket)
        elif not self.watches[view]:
            self.watches[view] = "opening"
        elif isinstance(self.watches[view], Watch) and not self._is_covered(who):
            self._read(who)
        else:
            self.change(who, awake=False)

    def _wait_far(self, who: str, ticket: Ticket) -> None:
        """Line._wait_far: watch the predecessor and our own key alone; when one goes, read again."""
        if not ticket.far:
            self.change(who, far="opening", awake=False)
        elif ticket.far == "over":
            self.change(who, far="", ahead=None)
            self._read(who)
        elif ticket.far_since > ticket.snapshot:
            self._read(who)
        else:
            self.change(who, awake=False)

    def far_watch_stands(self, who: str) -> None:
        """linewatch.End.on_created."""
        self.change(who, far="stands", far_since=self.revision)
        self.told = ["its watch on its predecessor stands from", self.revision]
        self._wake(who)

    def far_watch_tells(self, who: str) -> None:
        """linewatch.End.on_events."""
        self.change(who, far="over")
        self.told = ["is told that its predecessor, or its own key, was deleted"]
        self._wake(who)

    def _read(self, who: str) -> None:
        """Line._read, as far as it is sent."""
        floor = max(self.tickets[who].create, self.seen[self.who[who].process])
        self.change(who, struck=())
        self._send(who, READ, floor)

    def _has_read(self, who: str, ticket: Ticket) -> None:
        """The rest of Line._read."""
        _, revision, shows_us, before, more = ticket.answer
        floor = ticket.call[3]
        self.change(who, at="wait", call=(), answer=())
        if revision < floor and not self.lacks("grant from a stale read"):
            self.told += ["and refuses it"]
        elif ticket.phase in ("JOINING", "WAITING"):
            if shows_us or self.lacks("grant without own key"):
                self._take(who, revision, before, more)
            else:
                self._gone(who)
        now = self.tickets[who]
        if ticket.far and now.phase != "WAITING":
            self.change(who, far="")
        elif ticket.far and now.predecessor != ticket.predecessor:
            self.change(who, far="over")  # registered again, it reads once more
        self._wake(who)

    def _gone(self, who: str) -> None:
        """Ticket.phase becomes GONE, and a holder is told."""
        if not self.tickets[who].gone:
            raise Violation(f"{who} is told that its key {self.tickets[who].name} is gone, and it stands")
        self.change(who, phase="GONE")

    def gives_up(self, who: str) -> None:
        """Its time is up, or it is interrupted: the place is given up, wherever it is."""
        ticket = self.tickets[who]
        if ticket.call and not ticket.answer and ticket.call[0] != READ:
            self.late += (ticket.call,)
        self._leave(who)
        self.told = ["gives up; the background has to do", self.chores]

    def _leave(self, who: str, reusable: bool = False) -> None:
        """Line.leave, and LeasedKeys._resolve for a create in doubt."""
        ticket = self.tickets[who]
        if ticket.create:
            self.chores += (("delete", who, ticket.name, ticket.create),)
        elif ticket.call:
            self.chores += (("withdraw", who, ticket.name, ticket.call[3]),)
        self._is_through(who, reusable)

    def _is_through(self, who: str, reusable: bool) -> None:
        name = self.tickets[who].name
        self.tickets[who] = Ticket(name if reusable else f"{who}{int(name[1:]) + 1}")

    # Holding and releasing.

    def is_granted(self, who: str) -> None:
        """Line.take_turn: READY, and the session lives; then Line.hold."""
        me = self.who[who]
        ticket = self.tickets[who]
        if self.session_of(who).over:
            raise Violation(f"{who} is granted after its session was LOST")
        older = [key.name for key in self.lines[me.line] if key.create < ticket.create]
        if older:
            raise Violation(f"{who} is granted with {ticket.create} while {older} stand before it")
        if ticket.was_first != ticket.create:
            raise Violation(f"{who} is granted with {ticket.create}, and its key never was the oldest")
        self.change(
            who, at="held", awake=False, ahead=frozenset(), predecessor="", struck=None, snapshot=0, far=""
        )
        believers = [each for each in self.who if self.who[each].line == me.line and self._believes(each)]
        if len(believers) > 1:
            raise Violation(f"{believers} believe that they hold the lock")
        self.told = ["is granted with fence", ticket.create]

    def _believes(self, who: str) -> bool:
        """It holds, and was not told otherwise; etcd did not take its key before its time."""
        ticket = self.tickets[who]
        held = ticket.at == "held" and ticket.phase == "READY" and not self.session_of(who).over
        return held and ticket.gone not in ("hand", "revocation")

    def releases(self, who: str) -> None:
        """Line.release: the transaction also reads the head if others of this process wait."""
        ticket = self.tickets[who]
        if not self.who[who].session:
            self.delete(self.who[who].line, [ticket.name], "own")
            self._is_through(who, reusable=True)
            self.told = ["leaves"]
        elif ticket.phase == "GONE" or self.session_of(who).over:
            self._report_loss(who)
        else:
            self._send(who, RELEASE, ticket.create)

    def _released(self, who: str, ticket: Ticket) -> None:
        """delete_verified, once it has an answer; then Line._hand_over."""
        kind, *found = ticket.answer
        if kind == "refused":
            alive = found[0] > 0
            if not (ticket.attempted and alive) or self.lacks("a retry is reported as a loss"):
                self._report_loss(who)
                return
            if ticket.gone not in ("own", "hand"):  # by hand in just that window: documented
                raise Violation(f"{who} reports a release; its key was gone before by {ticket.gone}")
            self._is_through(who, reusable=False)
            self.told += ["so the attempt before did it"]
            return
        if ticket.gone != "own":
            raise Violation(f"{who} reports a release; its key was gone before by {ticket.gone}")
        self._is_through(who, reusable=ticket.at_once and not ticket.attempted)
        for head in found:
            self._hand_over(who, head)

    def _hand_over(self, who: str, head: Key) -> None:
        for heir in self._registered(*self._view(who)):
            ticket = self.tickets[heir]
            is_head = (ticket.name, ticket.create) == head
            if ticket.phase == "WAITING" and (is_head or self.lacks("local hand-over without the head")):
                self.change(heir, phase="READY")
                self._wake(heir)
                self.told += ["and hands over to", heir]
                return

    def _report_loss(self, who: str) -> None:
        """LockLost: it was not ours to the end, or nobody can know any more."""
        ticket = self.tickets[who]
        session = self.session_of(who)
        if ticket.gone in ("", "own") and session.mod and not session.over:
            raise Violation(f"{who} reports a loss; its key was gone by {ticket.gone or 'nobody'}")
        self._leave(who)
        self.told = ["releases what was lost: LockLost"]

    # What the process is told: linewatch.Watched.

    def _registered(self, process: str, line: str) -> list[str]:
        return [who for who in self.busy_at(process, line) if not self.tickets[who].far]

    def watch_stands(self, process: str, line: str) -> None:
        """Watched.watch_stands."""
        self.watches[process, line] = Watch(self.revision)
        self._note_seen(process, self.revision)
        for who in self._registered(process, line):
            self._wake(who)
        self.told = ["the watch stands from", self.revision]

    def watch_tells(self, process: str, line: str) -> None:
        """Watched.strike and Ticket.strike, with the deletions of one revision."""
        watch = self.watches[process, line]
        assert isinstance(watch, Watch)
        revision = watch.untold[0].create
        told = [name for name, at in watch.untold if at == revision]
        self.watches[process, line] = watch._replace(untold=watch.untold[len(told) :])
        self._note_seen(process, revision)
        for who in self._registered(process, line):
            # All of them, before it looks: they come under the line's lock.
            wakes = [self._strike(who, name, revision) for name in told]
            if any(wakes):
                self._wake(who)
        self.told = ["the watch tells that", told, "went at", revision]

    def _strike(self, who: str, name: str, revision: int) -> bool:
        """Ticket.strike; whether it wakes."""
        ticket = self.tickets[who]
        if name == ticket.name and ticket.create:
            told = revision > ticket.create and ticket.call[:1] != (RELEASE,)
            if told:
                self._gone(who)
            return told
        if ticket.struck is not None:
            struck = sorted({**dict(ticket.struck), name: revision}.items())
            self.change(who, struck=tuple(Key(each, at) for each, at in struck))
        by_name = self.lacks("strike by name alone")
        ahead = ticket.ahead or frozenset()
        gone = {key for key in ahead if key.name == name and (by_name or key.create < revision)}
        self.change(who, ahead=ticket.ahead and ahead - gone)
        return bool(gone) and gone == ahead

    # The session.

    def _is_over(self, who: str) -> bool:
        """Session.check: if the session is LOST the wait ends, and the lease takes what there is."""
        over = self.session_of(who).over
        if over:
            self._is_through(who, reusable=False)
            self.told = ["its session is LOST: SessionLost"]
        return over

    def _lose(self, name: str) -> None:
        """Session._finish."""
        self.sessions[name] = self.sessions[name]._replace(over=True)
        for who, each in self.who.items():
            if each.session == name:
                self._wake(who)

    def time_is_up(self, session: str) -> None:
        """The deadline passes: LOST, before etcd ends the lease."""
        if self.lacks("deadline from receipt"):
            self.lease_ends(session)
            return
        self._lose(session)
        self.told = ["its deadline passes: LOST"]

    def lease_ends(self, session: str, by: str = "lease") -> None:
        """etcd ends the lease: all keys go in one revision."""
        self.sessions[session] = self.sessions[session]._replace(mod=0)
        self.revision += 1
        for line in self.lines:
            names = [key.name for key in self.lines[line] if self.who[key.name[0]].session == session]
            self.delete(line, names, by, self.revision)
        self.told = [f"its lease ends at {self.revision} ({by})"]

    def revoked(self, session: str) -> None:
        """Somebody revokes the lease, or a leader that was paused does."""
        self.lease_ends(session, "revocation")

    def is_told_of_its_end(self, session: str) -> None:
        """_KeyWatch.on_events: the session key was deleted."""
        self._lose(session)
        self.told = ["is told that its key is gone: LOST"]

    def chore(self, number: str) -> None:
        """LeasedKeys.delete_mine or withdraw: once more, until it is answered."""
        request = self.chores[int(number)]
        self.chores = tuple(each for each in self.chores if each is not request)
        if self.session_of(request[1]).over:
            self.told = [request, "is not needed: the session is over"]
            return
        answer = self.serve(request)
        self.told = [request, "is answered", answer]
        if request[0] == "withdraw":
            self._enter_epoch(request[1], answer[1])

    # What befalls them.

    def lost(self, who: str, doubled: bool = False) -> None:
        """No answer: the request may be applied later, or it was applied and the reply is lost."""
        ticket = self.tickets[who]
        kind = ticket.call[0]
        fate = "was applied" if ticket.answer else "may still come"
        self.told = [f"gets no answer to its {kind}, which {fate}"]
        if kind != READ and (doubled or not ticket.answer):
            self.late += (ticket.call,)
        if kind == READ:
            self.change(who, at="wait", call=(), answer=(), struck=None)
            self._wake(who)
        elif kind == RELEASE:
            self.change(who, answer=(), attempted=True)
            if self.session_of(who).over:
                self._report_loss(who)
        elif not self._is_over(who):
            self.change(who, at_once=False)
            self._send(who, SETTLE, ticket.call[3])  # the epoch that the create compared

    def doubled(self, who: str) -> None:
        """The reply is lost, and a second copy of the request comes later."""
        self.lost(who, doubled=True)
        self.told += ["and comes twice"]

    def comes_late(self, number: str) -> None:
        """A copy of a request arrives for whose answer nobody waits."""
        request = self.late[int(number)]
        self.late = (*self.late[: int(number)], *self.late[int(number) + 1 :])
        self.told = [request, "comes late", self.serve(request)]

    def deleted_by_hand(self, name: str) -> None:
        """Somebody deletes a key."""
        self.delete(self.who[name[0]].line, [name], "hand")
        self.told = [f"is deleted by hand at {self.revision}"]

    def compacted(self, process: str, line: str) -> None:
        """Watched.watch_missed: history was compacted under the watch."""
        self.watches[process, line] = ""
        for who in self._registered(process, line):
            self._wake(who)
        self.told = ["history is compacted under the watch"]

    def falls_behind(self) -> None:
        """A member gets no more news; reads may be answered by it."""
        self.lagging = (self.revision, tuple(self.lines.values()))
        self.told = [f"a member stays at revision {self.revision}"]

    def _note_seen(self, process: str, revision: int) -> None:
        """Client.note; it matters only if there is somebody who lags."""
        if self.lagging:
            self.seen[process] = max(self.seen[process], revision)

    # Which steps are possible.

    def steps(self) -> list[Step]:
        """All that may happen next, within the scope."""
        return [
            step
            for step in self._all_steps()
            if step[0] not in FAULTS or (self.budget and step[0] in self.scope.kinds)
        ]

    def _all_steps(self) -> Iterator[Step]:
        for who in self.who:
            yield from self._steps_of(who)
        for view, watch in self.watches.items():
            if watch == "opening":
                yield ("watch_stands", *view)
            elif isinstance(watch, Watch):
                if watch.untold:
                    yield ("watch_tells", *view)
                yield ("compacted", *view)
        for name, session in self.sessions.items():
            if session.mod:
                yield ("lease_ends" if session.over else "time_is_up", name)
                yield ("revoked", name)
            elif not session.over:
                yield ("is_told_of_its_end", name)
        yield from (("chore", str(number)) for number in range(len(self.chores)))
        yield from (("comes_late", str(number)) for number in range(len(self.late)))
        yield from (("deleted_by_hand", key.name) for line in self.lines.values() for key in line)
        if not self.lagging:
            yield ("falls_behind",)

    def _steps_of(self, who: str) -> Iterator[Step]:
        ticket, me = self.tickets[who], self.who[who]
        if ticket.at == "idle":
            if self.left[who] and not (me.session and self.session_of(who).over):
                yield ("acquires", who)
        elif ticket.at == "held" or not me.session:
            yield ("releases", who)
        elif ticket.at == "call":
            yield ("received" if ticket.answer else "applied", who)
            is_behind = bool(self.lagging) and self.lagging[0] < self.revision
            if ticket.call[0] == READ and not ticket.answer and is_behind:
                yield ("stale", who)
            yield from ((fault, who) for fault in ("lost", "gives_up"))
            if ticket.answer and ticket.call[0] != READ:
                yield ("doubled", who)
        else:
            if ticket.awake:
                yield ("is_granted", who)
            if ticket.far in ("opening", "ending"):
                yield ("far_watch_stands" if ticket.far == "opening" else "far_watch_tells", who)
            yield ("gives_up", who)

    def take(self, step: Step) -> None:
        """Do it."""
        if step[0] in FAULTS:
            self.budget -= 1
        getattr(self, step[0])(*step[1:])

    def judge_quiet(self) -> None:
        """Nothing more will happen: nobody waits, and nothing is left."""
        for who, ticket in self.tickets.items():
            if ticket.at != "idle":
                raise Violation(f"{who} waits in vain")
        for line in self.lines.values():
            if line:
                raise Violation(f"{line[0].name} is left behind")
