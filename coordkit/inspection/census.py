"""A namespace at one revision: its primitives, its sessions, and who has what.  Pure.

A `Census` is made of keys as they were read, with or without their values: without them it still knows who
stands where, for the order is that of create revisions and the lease is part of what a read tells.  Who that
is then comes from the session's key.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping

import attrs

from coordkit import keys
from coordkit.etcd.results import KeyValue
from coordkit.inspection import kinds, words

SESSION = "session"


@attrs.frozen
class Primitive:
    """One lock, queue or whatever it is.

    Attributes:
        kind: As it stands in keys.
        name: Decoded; may hold anything that a terminal must not see.
        key_count: How many keys it has, those included that were not read.
        standing: Who stands how; empty where only the number of keys is known.
    """

    kind: str
    name: str
    key_count: int
    standing: kinds.Standing = attrs.field(factory=kinds.Standing)


@attrs.frozen
class Stake:
    """What a session has in a primitive."""

    kind: str
    name: str
    how: str  # "holds", "awaits", "has"
    place: kinds.Place


@attrs.frozen
class Session:
    """A session, as its key tells it.

    Attributes:
        lease: Its id.
        created: The revision at which it was opened.
        start: When, by its own clock.
        stakes: What it has, the oldest first.
    """

    key: bytes
    lease: int
    created: int
    identity: str
    host: str
    pid: str
    start: datetime.datetime | None
    stakes: tuple[Stake, ...] = ()

    @property
    def id(self) -> str:
        """The lease as it stands in keys."""
        return f"{self.lease:016x}"


@attrs.frozen
class Census:
    """All of it."""

    revision: int
    primitives: tuple[Primitive, ...]  # by kind and name
    sessions: tuple[Session, ...]  # the oldest first
    _by_lease: dict[int, Session] = attrs.field(init=False, repr=False, eq=False)

    @_by_lease.default
    def _(self) -> dict[int, Session]:
        return {each.lease: each for each in self.sessions}

    def locks(self) -> list[Primitive]:
        """Those that can be held, whether somebody does or not."""
        return [each for each in self.primitives if kinds.kind_of(each.kind).lock]

    def counts(self) -> dict[str, tuple[int, int]]:
        """By kind: how many there are, and how many keys they have.  Sessions are a kind, too."""
        found: dict[str, tuple[int, int]] = {}
        for each in self.primitives:
            number, size = found.get(each.kind, (0, 0))
            found[each.kind] = number + 1, size + each.key_count
        if self.sessions:
            found[SESSION] = len(self.sessions), len(self.sessions)
        return dict(sorted(found.items()))

    def session_of(self, place: kinds.Place) -> Session | None:
        """Whose place that is; None when it belongs to no session of this namespace."""
        return self._by_lease.get(place.owner)

    def who(self, place: kinds.Place) -> str:
        """The identity at that place, by its value, or by its session."""
        session = self.session_of(place)
        return place.identity or (session.identity if session else "")


@attrs.frozen
class Path:
    """A key of a namespace, taken apart."""

    kind: str
    name: str
    rest: tuple[str, ...]  # never empty


def parse(root: bytes, key: bytes) -> Path:
    """Where a key under `root`, which ends with a slash, belongs."""
    kind, _, below = key[len(root) :].partition(b"/")
    name, _, rest = below.partition(b"/")
    return Path(_decoded(kind), _decoded(name), words.segments(rest) or ("",))


def _decoded(segment: bytes) -> str:
    return "".join(words.segments(segment))


def root_of(namespace: str) -> bytes:
    """Where all keys of a namespace are; it ends with a slash."""
    return f"/{namespace}/".encode() if namespace else b"/"


def take(
    namespace: str,
    stored: Iterable[KeyValue],
    revision: int,
    skipped: Mapping[tuple[str, str], int] | None = None,
) -> Census:
    """Sort keys into primitives and sessions.

    Args:
        namespace: As it stands in keys.
        stored: The keys, in any order.
        revision: At which they were so.
        skipped: How many keys of a kind and name there are beside these.
    """
    root = root_of(namespace)
    entries: dict[tuple[str, str], list[kinds.Entry]] = {where: [] for where in skipped or {}}
    opened: list[Session] = []
    for each in stored:
        if not each.key.startswith(root):
            continue
        path = parse(root, each.key)
        session = session_at(path, each)
        if session is not None:
            opened.append(session)
        else:
            entries.setdefault((path.kind, path.name), []).append(kinds.Entry(path.rest, each))
    alive = {each.lease for each in opened}
    primitives = tuple(
        _primitive(where, found, (skipped or {}).get(where, 0), alive)
        for where, found in sorted(entries.items())
    )
    sessions = sorted(opened, key=lambda session: session.created)
    stakes = _stakes(primitives)
    return Census(
        revision,
        primitives,
        tuple(attrs.evolve(each, stakes=tuple(stakes.get(each.lease, ()))) for each in sessions),
    )


def _primitive(where: tuple[str, str], found: list[kinds.Entry], skipped: int, alive: set[int]) -> Primitive:
    standing = _without_abandoned(kinds.kind_of(where[0]).read(found), alive)
    if skipped:
        standing = attrs.evolve(standing, note=f"only {len(found)} keys were looked at")
    return Primitive(*where, len(found) + skipped, standing)


def _without_abandoned(standing: kinds.Standing, alive: set[int]) -> kinds.Standing:
    """What does not hang on its session's lease outlives it, and is nobody's then."""
    holders = tuple(each for each in standing.holders if each.owner == each.lease or each.owner in alive)
    abandoned = len(standing.holders) - len(holders)
    if not abandoned:
        return standing
    note = ", ".join(filter(None, (f"abandoned {abandoned}", standing.note)))
    return attrs.evolve(standing, holders=holders, note=note)


def session_at(path: Path, stored: KeyValue) -> Session | None:
    """The session that this key stands for; None when it is something else."""
    place = keys.parse_place(b"", path.name.encode())
    if path.kind != SESSION or path.rest != ("",) or place is None or place[1]:
        return None
    found = words.words_of(stored.value)
    return Session(
        stored.key,
        place[0],
        stored.create_revision,
        words.text(found.get("identity")),
        words.text(found.get("host")),
        words.text(found.get("pid")),
        words.moment(found.get("start")),
    )


def _stakes(primitives: Iterable[Primitive]) -> dict[int, list[Stake]]:
    found: dict[int, list[Stake]] = {}
    for each in primitives:
        standing = each.standing
        for how, places in (
            ("holds", standing.holders),
            ("awaits", standing.waiters),
            ("has", standing.members),
        ):
            for place in places:
                found.setdefault(place.owner, []).append(Stake(each.kind, each.name, how, place))
    for stakes in found.values():
        stakes.sort(key=lambda stake: stake.place.fence)
    return found
