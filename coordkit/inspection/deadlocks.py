"""Who waits in a circle, as a census shows it: a deadlock, and who takes part in it.  Pure.

A wait is *stuck* when nothing that can still happen by itself ends it.  At first all waits count as stuck;
those are struck off that somebody who does not wait can end, then those that these can end, and so on.  What
remains waits in circles, or behind one:

- for a lock, an election or a side of an rwlock: while one of its holders is stuck;
- for a permit of a semaphore: while all of its holders are.

A reader behind a writer that waits, waits for that writer, and never for other readers.

What a census tells is sessions; who waits is a thread.  A hold and a wait of one session belong to one thread
if the hold is older, and the session has that one wait and nothing younger: so it looks to everybody, and
such a circle is called a deadlock.  Where a session has several waits, or something younger, at least two
threads use it, and which of them holds what cannot be told: such a circle may be one.  Values that name who
stands there more closely than the session does tell more.  A wait for what its own session holds is how
threads take turns, and no circle.

Source: Chandy, Misra and Haas, "Distributed deadlock detection" (ACM TOCS 1983), for the two models of
waiting, for all and for any; Holt, "Some deadlock properties of computer systems" (1972), for the reduction.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

import attrs

from coordkit.inspection import census as censuses
from coordkit.inspection import kinds


@attrs.frozen
class Party:
    """One that takes part in a circle.

    Attributes:
        who: Its identity, or "".
        session: Its session; None when it belongs to none of this namespace.
        holds: What others of the circle wait for.
        awaits: What it waits for.
        behind: The fences of those places of the circle that keep it waiting.
    """

    who: str
    session: censuses.Session | None
    holds: tuple[censuses.Stake, ...]
    awaits: censuses.Stake
    behind: tuple[int, ...]


@attrs.frozen
class Circle:
    """Some that wait for each other.

    Attributes:
        parties: Each waits for something of the next, the last one for the first; then those, if any, that
            hold the other permits of a semaphore, and what keeps these waiting.
        certain: Whether it is a deadlock as far as sessions tell; if not, it may be one.
    """

    parties: tuple[Party, ...]
    certain: bool


@attrs.frozen(eq=False)
class _Line:
    """Something that is held and awaited."""

    primitive: censuses.Primitive
    permits: bool


@attrs.frozen(eq=False)
class _Wait:
    """Somebody waits for something."""

    line: _Line
    place: kinds.Place


@attrs.frozen(eq=False)
class _Edge:
    """Why a wait does not end: `place` has to go first, and whoever has it may be in one of `waits`."""

    place: kinds.Place
    waits: tuple[_Wait, ...]


def find(census: censuses.Census) -> list[Circle]:
    """All circles, the certain ones first, then the shortest; of those that overlap, the shortest alone."""
    found: list[Circle] = []
    known: set[_Wait] = set()
    threads = _Threads(census)
    for certain in (True, False):
        graph = _Graph(threads, certain)
        while path := graph.shortest(known):
            members = graph.closed(path)
            known.update(members)
            found.append(Circle(tuple(graph.party(each, members) for each in members), certain))
    return found


def waits(census: censuses.Census) -> int:
    """How many wait for something that somebody holds."""
    return len(_Threads(census).waits)


class _Threads:
    """The waits of a census, and which of them a holder may be in."""

    def __init__(self, census: censuses.Census) -> None:
        self.census = census
        lined = [each for each in census.primitives if kinds.kind_of(each.kind).lined]
        lines = [_Line(each, kinds.kind_of(each.kind).permits) for each in lined]
        self.waits = [_Wait(each, place) for each in lines for place in each.primitive.standing.waiters]
        self._waits_of: dict[int, list[_Wait]] = collections.defaultdict(list)
        for wait in self.waits:
            if wait.place.owner:
                self._waits_of[wait.place.owner].append(wait)
        self._places_of: dict[int, list[kinds.Place]] = collections.defaultdict(list)
        for each in census.primitives:
            for place in each.standing.everybody().values():
                if place.owner in self._waits_of:
                    self._places_of[place.owner].append(place)

    def of(self, line: _Line, hold: kinds.Place, certain: bool) -> tuple[_Wait, ...]:
        """The waits, in which the thread that has this hold may be; if `certain`, the one in which it is."""
        voice = self._voice(hold)
        possible = tuple(
            each
            for each in self._waits_of.get(hold.owner, ())
            # Who waits in line does not join another one: what is younger is another thread's.
            if hold.fence < each.place.fence
            and (not voice or self._voice(each.place) in (voice, ""))
            and (each.line is not line or (voice and self._voice(each.place) == voice))
        )
        if certain:
            return tuple(each for each in possible if self._is_alone(each, voice))
        return possible

    def _is_alone(self, wait: _Wait, voice: str) -> bool:
        """Whether one thread, as far as can be told, has all that this session, or this voice of it, has."""
        places = self._places_of[wait.place.owner]
        if not voice and any(map(self._voice, places)):
            return False
        places = [each for each in places if self._voice(each) == voice]
        waiting = [each for each in self._waits_of[wait.place.owner] if self._voice(each.place) == voice]
        return waiting == [wait] and all(each.fence <= wait.place.fence for each in places)

    def _voice(self, place: kinds.Place) -> str:
        """Who stands there, where the value says more than the session."""
        session = self.census.session_of(place)
        return "" if session is not None and session.identity == place.identity else place.identity


class _Graph:
    """The waits that are stuck, and by what."""

    def __init__(self, threads: _Threads, certain: bool) -> None:
        self._threads = threads
        self._holds = {
            line: [_Edge(hold, threads.of(line, hold, certain)) for hold in line.primitive.standing.holders]
            for line in dict.fromkeys(wait.line for wait in threads.waits)
        }
        self._stuck = set(threads.waits)
        self._writers: dict[_Line, _Wait] = {}  # the first that waits
        for wait in threads.waits:
            if wait.place.role == kinds.WRITE:
                self._writers.setdefault(wait.line, wait)
        self._reduce()

    def _reduce(self) -> None:
        """Strike off what can end, until nothing can."""
        while True:
            free = {each for each in self._holds if not self._is_blocked(each)}
            ended = {wait for wait in self._stuck if wait.line in free}
            if not ended:
                return
            self._stuck -= ended
            for each in free:
                del self._holds[each]

    def _is_blocked(self, line: _Line) -> bool:
        # A place in line behind the first that waits is stuck exactly if that one is: whoever is granted goes
        # on, and makes way.
        stuck = [not self._stuck.isdisjoint(hold.waits) for hold in self._holds[line]]
        return bool(stuck) and (all(stuck) if line.permits else any(stuck))

    def _edges(self, wait: _Wait) -> list[_Edge]:
        """What a stuck wait waits for, as far as that is stuck."""
        writer = self._writers.get(wait.line)
        if wait.place.role == kinds.READ and writer is not None and writer.place.fence < wait.place.fence:
            return [_Edge(writer.place, (writer,))]
        edges = []
        for hold in self._holds[wait.line]:
            stuck = tuple(each for each in hold.waits if each in self._stuck)
            if stuck:
                edges.append(_Edge(hold.place, stuck))
        return edges

    def shortest(self, known: set[_Wait]) -> list[_Wait]:
        """The shortest circle without any of those, of several the oldest; empty: there is none."""
        holding = {each for holds in self._holds.values() for hold in holds for each in hold.waits}
        found: list[_Wait] = []
        for start in sorted((self._stuck & holding) - known, key=lambda each: each.place.fence):
            path = self._around(start, known)
            if path and (not found or len(path) < len(found)):
                found = path
        return found

    def _around(self, start: _Wait, known: set[_Wait]) -> list[_Wait]:
        """The shortest way from a wait back to itself."""
        before: dict[_Wait, _Wait] = {}
        front = collections.deque([start])
        while front:
            wait = front.popleft()
            for following in _alternatives(self._edges(wait)):
                if following is start:
                    path = [wait]
                    while path[-1] is not start:
                        path.append(before[path[-1]])
                    return path[::-1]
                if following not in before and following not in known:
                    before[following] = wait
                    front.append(following)
        return []

    def closed(self, path: Sequence[_Wait]) -> list[_Wait]:
        """A circle with all that keeps it closed: for a permit, every holder is needed."""
        members = list(path)
        for wait in members:  # which grows meanwhile
            edges = self._edges(wait)
            for needed in map(_alternatives, [[each] for each in edges] if wait.line.permits else [edges]):
                if not any(each in members for each in needed):
                    members.append(needed[0])
        return members

    def party(self, wait: _Wait, members: Sequence[_Wait]) -> Party:
        """One of a circle."""
        census, place = self._threads.census, wait.place
        holds = [
            _stake("holds", line, hold.place)
            for line in dict.fromkeys(each.line for each in members)
            for hold in self._holds[line]
            if wait in hold.waits
        ]
        behind = [each.place.fence for each in self._edges(wait) if not set(each.waits).isdisjoint(members)]
        return Party(
            census.who(place),
            census.session_of(place),
            tuple(holds),
            _stake("awaits", wait.line, place),
            tuple(behind),
        )


def _alternatives(edges: Iterable[_Edge]) -> list[_Wait]:
    return [wait for edge in edges for wait in edge.waits]


def _stake(how: str, line: _Line, place: kinds.Place) -> censuses.Stake:
    return censuses.Stake(line.primitive.kind, line.primitive.name, how, place)
