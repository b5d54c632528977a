"""What was read of a namespace, as rows for people and as documents for programs.  Pure.

What others wrote is made fit for a terminal in rows; documents hold it as it is.  Values are never shown,
but for who somebody is and since when.
"""

from __future__ import annotations

import collections
import datetime
import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from coordkit.cli.terminal import Table, plain
from coordkit.inspection import census as censuses
from coordkit.inspection import kinds
from coordkit.inspection.reading import LeaseTime

NOTHING = "-"


@attrs.frozen
class View:
    """A census, how long its leases have, and when that was looked at."""

    census: censuses.Census
    leases: Mapping[int, LeaseTime | None]
    now: datetime.datetime

    # Words.

    def who(self, place: kinds.Place) -> str:
        """Whose place it is; the lease where nobody said a name."""
        return plain(self.census.who(place)) or (f"lease {place.lease:016x}" if place.lease else "nobody")

    def whence(self, place: kinds.Place) -> str:
        """From where it came: host and pid of its session."""
        session = self.census.session_of(place)
        return NOTHING if session is None else plain(f"{session.host or '?'}:{session.pid or '?'}")

    def ago(self, moment: datetime.datetime | None) -> str:
        """How long ago that was, if clocks agree."""
        return NOTHING if moment is None else span((self.now - moment).total_seconds())

    def left(self, lease: int) -> str:
        """How long the lease has, if nobody renews it."""
        time = self.leases.get(lease)
        return NOTHING if time is None else f"{time.left_s} of {time.granted_s} s"

    # Tables.

    def locks(self, locks: Iterable[censuses.Primitive]) -> Table:
        """One row for each lock."""
        columns = ["name", "kind", "holder", "fence", "for", "lease", "from", "waiting", ""]
        return Table("locks", columns, self._rows(locks))

    def primitives(self, primitives: Iterable[censuses.Primitive]) -> Table:
        """One row for each of whatever kind."""
        columns = ["kind", "name", "keys", "holder", "fence", "for", "from", "waiting", ""]
        rows = []
        for each in primitives:
            name, kind, holder, fence, ago, _, *rest = self._row(each)
            rows.append([plain(kind), name, str(each.key_count), holder, fence, ago, *rest])
        return Table("primitives", columns, rows)

    def elections(self, elections: Iterable[censuses.Primitive]) -> Table:
        """One row for each election."""
        # A candidate's value is its user's own: it does not tell since when.
        rows = [
            [name, leader, fence, lease, whence, others]
            for name, _, leader, fence, _, lease, whence, others, _ in self._rows(elections)
        ]
        return Table("elections", ["name", "leader", "fence", "lease", "from", "others"], rows)

    def _rows(self, locks: Iterable[censuses.Primitive]) -> list[list[str]]:
        return list(map(self._row, locks))

    def _row(self, each: censuses.Primitive) -> list[str]:
        standing = each.standing
        return [
            plain(each.name),
            each.kind,
            self._holders(standing.holders),
            *self._first(standing.holders),
            str(len(standing.waiters)),
            plain(standing.note),
        ]

    def _holders(self, holders: tuple[kinds.Place, ...]) -> str:
        if not holders:
            return NOTHING
        more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
        return f"{self.who(holders[0])}{more}"

    def _first(self, holders: tuple[kinds.Place, ...]) -> list[str]:
        if not holders:
            return [NOTHING] * 4
        first = holders[0]
        return [str(first.fence), self.ago(first.since), self.left(first.lease), self.whence(first)]

    def line(self, lock: censuses.Primitive) -> Table:
        """One row for each that stands in a line."""
        standing = lock.standing
        leads = "leads" if lock.kind == "election" else "holds"
        rows = [self._place(leads, each) for each in standing.holders]
        rows += [self._place(f"waits {n}.", each) for n, each in enumerate(standing.waiters, 1)]
        rows += [self._place("there", each) for each in standing.members]
        note = f", {plain(standing.note)}" if standing.note else ""
        return Table(
            f"{lock.kind} {plain(lock.name)}{note}",
            ["", "who", "from", "as", "fence", "came", "lease", "session"],
            rows,
        ).without_empty()

    def _place(self, how: str, place: kinds.Place) -> list[str]:
        session = self.census.session_of(place)
        return [
            how,
            self.who(place),
            self.whence(place),
            plain(place.role) or NOTHING,
            str(place.fence),
            f"{self.ago(place.since)} ago" if place.since else NOTHING,
            self.left(place.lease),
            session.id if session else NOTHING,
        ]

    def sessions(self, sessions: Iterable[censuses.Session]) -> Table:
        """One row for each session."""
        rows = [
            [
                each.id,
                plain(each.identity),
                plain(each.host),
                plain(each.pid),
                self.ago(each.start),
                self.left(each.lease),
                *(stakes(each, how) for how in ("holds", "awaits")),
                str(sum(stake.how == "has" for stake in each.stakes)),
            ]
            for each in sessions
        ]
        columns = ["session", "identity", "host", "pid", "for", "lease", "holds", "awaits", "other keys"]
        return Table("sessions", columns, rows)

    # Documents.

    def lock_document(self, lock: censuses.Primitive) -> dict[str, Any]:
        """One lock, or whatever else stands in line."""
        standing = lock.standing
        return {
            "kind": lock.kind,
            "name": lock.name,
            "holders": list(map(self.place_document, standing.holders)),
            "waiters": list(map(self.place_document, standing.waiters)),
            "members": list(map(self.place_document, standing.members)),
            "note": standing.note,
            "keys": lock.key_count,
        }

    def place_document(self, place: kinds.Place) -> dict[str, Any]:
        """One place in a line."""
        session = self.census.session_of(place)
        return {
            "identity": self.census.who(place),
            "role": place.role,
            "fence": place.fence,
            "since": iso(place.since),
            "session": session.id if session else None,
            "host": session and session.host,
            "pid": session and session.pid,
            "lease": self.lease_document(place.lease),
            "key": place.key.decode(errors="backslashreplace"),
        }

    def lease_document(self, lease: int) -> dict[str, Any] | None:
        """A lease; null for a key that hangs on none."""
        if not lease:
            return None
        time = self.leases.get(lease)
        return {"id": f"{lease:016x}", "granted_s": time and time.granted_s, "left_s": time and time.left_s}

    def session_document(self, session: censuses.Session) -> dict[str, Any]:
        """One session."""
        return {
            "session": session.id,
            "identity": session.identity,
            "host": session.host,
            "pid": session.pid,
            "start": iso(session.start),
            "revision": session.created,
            "lease": self.lease_document(session.lease),
            "stakes": [
                {"kind": each.kind, "name": each.name, "how": each.how, "fence": each.place.fence}
                for each in session.stakes
            ],
        }


def now() -> datetime.datetime:
    """The wall clock: for people only."""
    return datetime.datetime.now(datetime.timezone.utc)


def stakes(session: censuses.Session, how: str) -> str:
    """What a session holds, or awaits, in a few words."""
    counted = collections.Counter(
        plain(each.name if each.kind == "lock" else f"{each.kind} {each.name}")
        for each in session.stakes
        if each.how == how
    )
    names = [name if count == 1 else f"{name} x{count}" for name, count in counted.items()]
    shown = names[:4] + ([f"{len(names) - 4} more"] if len(names) > 4 else [])
    return ", ".join(shown) or NOTHING


def span(seconds: float) -> str:
    """A duration, short."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def iso(moment: datetime.datetime | None) -> str | None:
    """A time for programs."""
    return None if moment is None else moment.isoformat(timespec="milliseconds")


def dump(document: dict[str, Any], indent: int | None = 2) -> str:
    """JSON that any terminal takes."""
    return json.dumps(document, indent=indent)
