"""The kinds of primitives: how the keys of each are read.  Pure.

A primitive's keys are `/<namespace>/<kind>/<name>/...`.  A kind that nobody registered is read as `OTHER`:
its keys are counted, and those that hang on a lease are somebody's.  To add one, write a function from the
entries to a `Standing` and `register` it.
"""

from __future__ import annotations

import collections
import datetime
import re
import typing
from collections.abc import Callable, Iterable, Sequence

import attrs

from coordkit.etcd.results import KeyValue
from coordkit.inspection import words

_VERDICTS = (("verdict",), ("ready",))  # of a barrier's generation
READ, WRITE = "read", "write"  # what those in the line of a rwlock want
MOST_PARTS = 6  # of a primitive, that are told in a note


@attrs.frozen
class Entry:
    """One key of a primitive."""

    path: tuple[str, ...]  # its segments behind the name, decoded
    stored: KeyValue


@attrs.frozen
class Place:
    """Somebody's key: it stands in a line, or is simply there."""

    key: bytes
    role: str  # "read" or "write" of a rwlock; the slot, the item; "" where all are the same
    lease: int
    fence: int  # its create revision, or that of the claim
    identity: str  # who, as the value says; "" when it does not
    since: datetime.datetime | None  # when it came, by its own clock
    #: The lease of its session, which the key need not hang on.
    owner: int = attrs.field(default=attrs.Factory(lambda self: self.lease, takes_self=True))


@attrs.frozen
class Standing:
    """Who stands how.

    Attributes:
        holders: Whose turn it is, the oldest first.
        waiters: The others in line, in its order.
        members: Those of which neither can be said.
        note: The rest, in a few words.
    """

    holders: tuple[Place, ...] = ()
    waiters: tuple[Place, ...] = ()
    members: tuple[Place, ...] = ()
    note: str = ""

    def everybody(self) -> dict[tuple[bytes, int], Place]:
        """All places by key and fence: names come back, fences do not."""
        return {(each.key, each.fence): each for each in (*self.holders, *self.waiters, *self.members)}


@attrs.frozen
class Kind:
    """One kind.

    Attributes:
        read: From a primitive's entries to how its contenders stand.
        lined: Whether it is a line, whose values are small and say who stands there.
        lock: Whether those who stand in it want to hold something.
        small: Whether its values are small and worth reading, although it is no line.
        permits: Whether a number of holders is allowed, whoever they are.
    """

    name: str
    read: Callable[[Sequence[Entry]], Standing]
    lined: bool = False
    lock: bool = False
    small: bool = False
    permits: bool = False


def place(entry: Entry, role: str = "") -> Place:
    """An entry as a place."""
    found = words.words_of(entry.stored.value)
    return Place(
        entry.stored.key,
        role,
        entry.stored.lease,
        entry.stored.create_revision,
        words.text(found.get("identity")),
        words.moment(found.get("since")),
    )


def in_line(entries: Sequence[Entry]) -> list[Entry]:
    """In the order of their coming, which nobody can change: that of the create revisions."""
    return sorted(entries, key=lambda entry: (entry.stored.create_revision, entry.stored.key))


def read_exclusive(entries: Sequence[Entry]) -> Standing:
    """One line, the oldest key holds; any key counts, so that Go's and etcdctl's do."""
    places = tuple(map(place, in_line(entries)))
    return Standing(places[:1], places[1:])


def read_shared(entries: Sequence[Entry]) -> Standing:
    """`read/<id>` and `write/<id>`: readers hold up to the first writer, a writer when it is the oldest."""
    known = [each for each in in_line(entries) if each.path[0] in (READ, WRITE)]
    places = tuple(place(each, each.path[0]) for each in known)
    first = next((n for n, each in enumerate(places) if each.role == WRITE), len(places))
    if not first:
        return Standing(places[:1], places[1:], note="one writes" if places else "")
    return Standing(places[:first], places[first:], note=f"{first} read")


def read_semaphore(entries: Sequence[Entry]) -> Standing:
    """`holders/<id>` and `limit/<n>`: the oldest n hold."""
    limit = next((_number(each.path) for each in entries if each.path[0] == "limit"), None)
    places = tuple(place(each) for each in in_line(entries) if each.path[0] == "holders")
    if limit is None:
        return Standing(members=places, note="its limit is not known")
    return Standing(places[:limit], places[limit:], note=f"limit {limit}")


def read_queue(entries: Sequence[Entry]) -> Standing:
    """`claims/<id>`, leased: who has which item; of the rest, how many keys each part has."""
    claims = [each for each in in_line(entries) if each.path[0] == "claims" and len(each.path) > 1]
    rest = [each for each in entries if each.path[0] != "claims" or len(each.path) == 1]
    return Standing(tuple(place(each, each.path[1]) for each in claims), note=_parts(rest))


def read_once(entries: Sequence[Entry]) -> Standing:
    """`<slot>`, on a lease of its own: held by whose session it names, while it says that it runs."""
    states: collections.Counter[str] = collections.Counter()
    running = []
    for each in in_line(entries):
        found = words.words_of(each.stored.value)
        state = words.text(found.get("state")) or "slots"
        if state == "running":
            running.append(_run(each, found))
        else:
            states[state] += 1
    return Standing(tuple(running), note=_counted(states))


def _run(entry: Entry, found: dict[str, typing.Any]) -> Place:
    owner = words.text(found.get("session"))
    return attrs.evolve(
        place(entry, entry.path[0]),
        fence=entry.stored.mod_revision,
        identity=words.text(found.get("by")),
        since=words.moment(found.get("began")),
        owner=int(owner, 16) if re.fullmatch("[0-9a-f]{1,16}", owner) else 0,
    )


def read_barrier(entries: Sequence[Entry]) -> Standing:
    """`generation`, and of each `<generation>/.../<id>`, who has arrived, and what was decided.

    Who has arrived waits, until it is decided; after that it is still there, to learn it.
    """
    agreed = _stored(entries, "generation")
    match = re.fullmatch(rb"([0-9]{1,10})/([0-9]{1,10})", agreed)
    parts = [each for each in in_line(entries) if len(each.path) > 1]
    numbered = [each for each in parts if _number(each.path[:1]) is not None]
    newest = max((int(each.path[0]) for each in numbered), default=0)
    current = int(match[1]) if match else newest
    verdict = next(
        (each for each in numbered if int(each.path[0]) == current and each.path[1:] in _VERDICTS), None
    )
    members = [each for each in numbered if each.stored.lease]
    arrived = tuple(place(each) for each in members if int(each.path[0]) == current and verdict is None)
    others = tuple(place(each) for each in members if int(each.path[0]) != current or verdict is not None)
    if verdict is None:
        note = f"{len(arrived)} of {int(match[2]) if match else '?'} have arrived"
    else:
        note = "broken" if "broken" in words.words_of(verdict.stored.value) else "all have arrived"
    return Standing(waiters=arrived, members=others, note=f"generation {current}, {note}" if current else "")


def read_double_barrier(entries: Sequence[Entry]) -> Standing:
    """As a barrier; and of a generation that is decided, `<generation>/ready` names who is inside.

    Who is inside holds.  `ready` is forgotten when the generation after the next begins: whoever is still
    there then is inside, for those who were too many have long gone on to a later one.
    """
    outside = read_barrier(entries)
    ready = {each.path[0]: _passed(each.stored.value) for each in entries if each.path[1:] == ("ready",)}

    def is_inside(entry: Entry) -> bool:
        passed = ready.get(entry.path[0])
        return passed is None or entry.path[-1] in passed

    entered = {each.stored.key for each in entries if is_inside(each)}
    inside = tuple(each for each in outside.members if each.key in entered)
    others = tuple(each for each in outside.members if each.key not in entered)
    note = ", ".join(filter(None, (outside.note, f"{len(inside)} inside" if inside else "")))
    return Standing(inside, outside.waiters, others, note)


def _stored(entries: Sequence[Entry], name: str) -> bytes:
    return next((each.stored.value for each in entries if each.path == (name,)), b"")


def _passed(verdict: bytes) -> tuple[str, ...]:
    passed = words.words_of(verdict).get("passed")
    return tuple(map(words.text, passed)) if isinstance(passed, list) else ()


def read_latch(entries: Sequence[Entry]) -> Standing:
    """`value`: how many are still to come, of how many.  Who waits for them leaves no key."""
    state = _stored(entries, "value")
    match = re.fullmatch(rb"([0-9]{1,18})/([0-9]{1,18})", state)
    counted = read_other(entries)
    if match is None:
        return counted
    return attrs.evolve(counted, note=f"{int(match[1])} of {int(match[2])} still to come")


def read_gate(entries: Sequence[Entry]) -> Standing:
    """One key without a segment behind the name, there while it is closed; its value is who closed it.

    It hangs on nobody's lease and tells no time; its revision says what came before it, and what after.
    """
    closed = next((each for each in entries if each.path == ("",)), None)
    if closed is None:
        return read_other(entries)
    who = words.text(closed.stored.value.decode(errors="replace"))
    closing = attrs.evolve(place(closed, "closed"), identity=who)
    note = f"closed at revision {closing.fence}" + (f" by {who}" if who else "")
    return Standing(members=(closing,), note=note)


def read_other(entries: Sequence[Entry]) -> Standing:
    """What hangs on a lease is somebody's; of the rest, how many keys each part has: "items 12, claims 3"."""
    leased = [each for each in in_line(entries) if each.stored.lease]
    return Standing(
        members=tuple(place(each, each.path[0] if len(each.path) > 1 else "") for each in leased),
        note=_parts(entries),
    )


def _parts(entries: Iterable[Entry]) -> str:
    return _counted(collections.Counter(each.path[0] for each in entries if len(each.path) > 1))


def _counted(found: collections.Counter[str]) -> str:
    return ", ".join(f"{part} {count}" for part, count in found.most_common(MOST_PARTS))


def _number(path: tuple[str, ...]) -> int | None:
    last = path[-1]
    return int(last) if last.isascii() and last.isdecimal() and len(last) <= 18 else None


OTHER = Kind("", read_other)

_KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """From now on read the keys of this kind so."""
    _KINDS[kind.name] = kind


def kind_of(name: str) -> Kind:
    """How that kind is read."""
    return _KINDS.get(name, OTHER)


def lined() -> tuple[str, ...]:
    """The names of the kinds that are lines."""
    return tuple(name for name, kind in _KINDS.items() if kind.lined)


def small() -> tuple[str, ...]:
    """The names of the kinds whose values are read."""
    return tuple(name for name, kind in _KINDS.items() if kind.lined or kind.small)


def locks() -> tuple[str, ...]:
    """The names of the kinds that can be held."""
    return tuple(name for name, kind in _KINDS.items() if kind.lock)


for _kind in (
    Kind("lock", read_exclusive, lined=True, lock=True),
    Kind("rwlock", read_shared, lined=True, lock=True),
    Kind("semaphore", read_semaphore, lined=True, lock=True, permits=True),
    Kind("election", read_exclusive, lined=True),
    Kind("once", read_once, small=True),
    Kind("queue", read_queue),
    Kind("barrier", read_barrier, small=True),
    Kind("double_barrier", read_double_barrier, small=True),
    Kind("latch", read_latch, small=True),
    Kind("gate", read_gate, small=True),
):
    register(_kind)
