"""Which moments are one: what keeps the search small, and loses nothing.

- *What has no consequences* is forgotten: deletions of which a watch has not told yet, where no snapshot that
  was taken shows their keys, for every later one is newer than they are; and since when a watch tells, but
  for which of the snapshots it covers.  Not where a member lags, and a later snapshot may be an older one.
- *Revisions* are compared, and never counted: a session's epochs with each other, and all that has to do with
  places in line with each other.  Both are numbered anew, in their order, so that a moment does not remember
  how many revisions came before it.
- *Contenders* that are alike stand in a fixed order: who is A is of no consequence.

Of two moments that become one, whatever step one can take the other can, too, and then they become one again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from state import Answer, Key, Request, State, Ticket, Watch

LETTERS = "ABC"
OF_EPOCHS = frozenset({"create", "settle", "withdraw"})  # requests whose number is an epoch
Number = Callable[[int], int]
Pairs = tuple[tuple[int, int], ...]


# What has no consequences.


def without_the_told(watch: Watch, tickets: Sequence[Ticket], revision: int) -> Watch:
    """A watch that still tells those who wait on it whatever is news to them."""
    taken = [ticket.snapshot for ticket in tickets if ticket.phase == "WAITING"]
    taken += [ticket.answer[1] for ticket in tickets if ticket.answer[:1] in (("made",), ("seen",))]
    since = 0  # before all of them
    if any(snapshot < watch.since for snapshot in taken):
        since = min((snapshot for snapshot in taken if snapshot >= watch.since), default=revision)
    shown = [key for ticket in tickets for key in _shown(ticket)]
    news = (key for key in watch.untold if any(_strikes(key, each) for each in shown))
    return Watch(since, tuple(news))


def _shown(ticket: Ticket) -> Iterator[Key]:
    """The keys that it knows, or is about to know: those before it, and its own."""
    yield from ticket.ahead or ()
    kind = ticket.answer[0] if ticket.answer else ""
    if kind in ("made", "seen"):
        yield from ticket.answer[-2]
    if ticket.create or kind in ("made", "there"):
        yield Key(ticket.name, ticket.create or ticket.answer[1])
    elif ticket.call[:1] == ("settle",) and ticket.gone:
        yield Key(ticket.name, 0)  # it was there, since who knows when


def _strikes(deletion: Key, key: Key) -> bool:
    return deletion.name == key.name and deletion.create > key.create


def without_the_struck(ticket: Ticket) -> Ticket:
    """A ticket that still knows whatever was struck from the snapshot that it is about to see."""
    if not ticket.struck:
        return ticket
    shown = list(_shown(ticket))
    struck = (key for key in ticket.struck if any(_strikes(key, each) for each in shown))
    return ticket._replace(struck=tuple(struck))


# Revisions.


class Numbers(NamedTuple):
    """What revisions become: those of places in line, and the epochs of one session."""

    place: Number
    epoch: Number


class Noted(set[int]):
    """Notes them, and leaves them as they are."""

    def __call__(self, number: int) -> int:
        self.add(number)
        return number


def renumbered(state: State, session_of: dict[str, int]) -> State:
    """The same with as few revisions as it takes; `session_of` tells the session of each contender."""
    places = Noted(state.seen)
    epochs = [Noted({each.mod, each.epoch}) for each in state.sessions]
    of = {ticket.name[0]: session_of.get(ticket.name[0], 0) for ticket in state.tickets}  # Go has no epochs
    for ticket in state.tickets:
        of_places, of_epochs = _found_in(ticket)
        places |= of_places
        epochs[of[ticket.name[0]]] |= of_epochs
    _rest(state, places, lambda who: Numbers(places, epochs[of[who]]))

    places.discard(state.revision)
    new, new_epochs = _in_order(places), list(map(_in_order, epochs))
    # Larger than all of them, as the next one will be.
    revision = new[state.revision] = max(len(new), *map(len, new_epochs))
    if all(map(_is_same, [new, *new_epochs])):
        return state
    rest = _rest(
        state, new.__getitem__, lambda who: Numbers(new.__getitem__, new_epochs[of[who]].__getitem__)
    )
    sessions = (
        each._replace(mod=those[each.mod], epoch=those[each.epoch])
        for each, those in zip(state.sessions, new_epochs, strict=True)
    )
    tickets = (_ticket_anew(each, new, new_epochs[of[each.name[0]]]) for each in state.tickets)
    return rest._replace(revision=revision, sessions=tuple(sessions), tickets=tuple(tickets))


def _in_order(numbers: Collection[int]) -> dict[int, int]:
    """What each becomes; 0 says that there is none, and stays."""
    return {number: new for new, number in enumerate(sorted({0, *numbers}))}


def _is_same(new: dict[int, int]) -> bool:
    return all(was == now for was, now in new.items())


def _rest(state: State, place: Number, numbers: Callable[[str], Numbers]) -> State:
    """All but its sessions and tickets; `numbers` tells what they become in a request of whom."""
    lines = tuple(_keys(line, place) for line in state.lines)
    watches = tuple(
        Watch(place(each.since), _keys(each.untold, place)) if isinstance(each, Watch) else each
        for each in state.watches
    )
    lagging = state.lagging
    if lagging:
        lagging = (place(lagging[0]), tuple(_keys(line, place) for line in lagging[1]))
    return state._replace(
        lines=lines,
        watches=watches,
        seen=tuple(map(place, state.seen)),
        late=tuple(_request(each, numbers(each[1])) for each in state.late),
        chores=tuple(_request(each, numbers(each[1])) for each in state.chores),
        lagging=lagging,
    )


def _keys(keys: tuple[Key, ...], place: Number) -> tuple[Key, ...]:
    return tuple(Key(key.name, place(key.create)) for key in keys)


def _request(request: Request, numbers: Numbers) -> Request:
    if not request:
        return request
    kind, who, name, number = request
    return kind, who, name, (numbers.epoch if kind in OF_EPOCHS else numbers.place)(number)


def _answer(answer: Answer, numbers: Numbers) -> Answer:
    place, epoch = numbers
    match answer:
        case ("made" as kind, revision, before, more):
            return kind, place(revision), _keys(before, place), more
        case ("seen" as kind, revision, shows_us, before, more):
            return kind, place(revision), shows_us, _keys(before, place), more
        case ("there" as kind, create):
            return kind, place(create)
        case ("epoch" | "refused" as kind, mod):
            return kind, epoch(mod)
        case ("settled" as kind, mod, create):
            return kind, epoch(mod), place(create)
        case ("deleted" as kind, *head):
            return (kind, *_keys(tuple(head), place))
    assert not answer
    return answer


def _ticket(ticket: Ticket, numbers: Numbers) -> Ticket:
    place = numbers.place
    return ticket._replace(
        call=_request(ticket.call, numbers),
        answer=_answer(ticket.answer, numbers),
        create=place(ticket.create),
        snapshot=place(ticket.snapshot),
        ahead=ticket.ahead and frozenset(_keys(tuple(ticket.ahead), place)),
        struck=ticket.struck and _keys(ticket.struck, place),
        far_since=place(ticket.far_since),
        was_first=place(ticket.was_first),
    )


@functools.lru_cache(maxsize=500_000)
def _found_in(ticket: Ticket) -> tuple[Noted, Noted]:
    places, epochs = Noted(), Noted()
    _ticket(ticket, Numbers(places, epochs))
    return places, epochs


def _ticket_anew(ticket: Ticket, places: dict[int, int], epochs: dict[int, int]) -> Ticket:
    of_places, of_epochs = _found_in(ticket)
    return _ticket_as(
        ticket,
        tuple((each, places[each]) for each in of_places),
        tuple((each, epochs[each]) for each in of_epochs),
    )


@functools.lru_cache(maxsize=500_000)
def _ticket_as(ticket: Ticket, places: Pairs, epochs: Pairs) -> Ticket:
    return _ticket(ticket, Numbers(dict(places).__getitem__, dict(epochs).__getitem__))


# Contenders.


def in_order(state: State) -> State:
    """The same with contenders that are alike renamed: who is A is of no consequence."""
    rows = list(zip(state.tickets, state.sessions, state.watches, state.seen, state.left, strict=True))
    ranks = list(map(_rank, rows))
    order = sorted(range(len(rows)), key=ranks.__getitem__)
    if order == list(range(len(rows))):
        return state
    names = tuple((LETTERS[old], LETTERS[new]) for new, old in enumerate(order) if new != old)
    tickets, sessions, watches, seen, left = zip(*(rows[number] for number in order), strict=True)
    return State(
        state.revision,
        _renamed(state.lines, names),
        sessions,
        tuple(_renamed(ticket, names) for ticket in tickets),
        tuple(_renamed(watch, names) for watch in watches),
        seen,
        tuple(sorted(_renamed(state.late, names))),
        tuple(sorted(_renamed(state.chores, names))),
        _renamed(state.lagging, names),
        left,
        state.budget,
    )


def _rank(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """What tells contenders apart, their names aside; where it does not, two states stay two."""
    ticket, session, watch, seen, left = row
    return (
        ticket.create,
        ticket.at,
        ticket.name[1:],
        left,
        session,
        ticket.call[:1],
        ticket.answer[:2],
        ticket.phase,
        seen,
        (watch.since, len(watch.untold)) if isinstance(watch, Watch) else (-1, len(watch)),
        ticket.gone,
    )


@functools.lru_cache(maxsize=500_000)
def _renamed(part: Any, names: tuple[tuple[str, str], ...]) -> Any:
    if isinstance(part, str):
        return next((new + part[1:] for old, new in names if part[:1] == old and len(part) <= 2), part)
    if isinstance(part, tuple | frozenset) and part:
        renamed = (_renamed(each, names) for each in part)
        return type(part)(*renamed) if hasattr(part, "_fields") else type(part)(renamed)
    return part
