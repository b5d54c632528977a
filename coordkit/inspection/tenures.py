"""Who held something, from when to when: a chronicle told as one line for each that stood there.  Pure.

Revisions say exactly what came before what, and nothing about time.  What is known of time is that each who
joined wrote down its own clock then, in `since`.  So a time is exact, as far as that clock was, where
somebody joined at that very revision, and an estimate between two such revisions.
"""

from __future__ import annotations

import bisect
import datetime
from collections.abc import Iterable, Sequence

import attrs

from coordkit.inspection import kinds
from coordkit.inspection.chronicle import Happening, What


@attrs.frozen
class Tenure:
    """One that stood in line.

    Attributes:
        joined: The revision at which it came, which is its fence.
        granted: The revision from which on it held; None when it never did.
        ended: The revision at which it was gone; None while it is there.
        early: It held when the history begins, maybe since long before: `granted` is that beginning.
        session_ended: It went with its session, and did not leave by itself.
    """

    place: kinds.Place
    joined: int
    granted: int | None
    ended: int | None
    early: bool = False
    session_ended: bool = False

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.ended is None:
            return "waits" if self.granted is None else "holds"
        if self.session_ended:
            return "session ended"
        return "gave up" if self.granted is None else "released"


def of(first: int, base: kinds.Standing, happenings: Iterable[Happening]) -> list[Tenure]:
    """All that stood there, the oldest first.

    Args:
        first: The revision at which the history begins.
        base: Who stood how then.
        happenings: What followed.
    """
    held = {(each.key, each.fence) for each in base.holders}
    found = {
        at: Tenure(place, place.fence, first if at in held else None, None, at in held)
        for at, place in base.everybody().items()
    }
    for each in happenings:
        at = each.place.key, each.place.fence
        known = found.get(at, Tenure(each.place, each.place.fence, None, None))
        if each.what is What.GRANTED and known.granted is None:
            known = attrs.evolve(known, granted=each.revision)
        elif each.what in (What.RELEASED, What.LEFT):
            known = attrs.evolve(known, ended=each.revision, session_ended=bool(each.ended))
        found[at] = known
    return sorted(found.values(), key=lambda tenure: tenure.joined)


@attrs.frozen
class Moment:
    """When a revision was; an estimate unless somebody wrote it down."""

    at: datetime.datetime
    exact: bool


class Clock:
    """When revisions were, by what those who joined wrote down."""

    def __init__(self, tenures: Iterable[Tenure]) -> None:
        marks = {each.joined: each.place.since for each in tenures if each.place.since is not None}
        self._revisions: Sequence[int] = sorted(marks)
        self._times = [marks[revision] for revision in self._revisions]

    def at(self, revision: int | None) -> Moment | None:
        """When that was; None when it cannot even be estimated."""
        if revision is None or not self._revisions:
            return None
        n = bisect.bisect_left(self._revisions, revision)
        if n < len(self._revisions) and self._revisions[n] == revision:
            return Moment(self._times[n], True)
        if n in (0, len(self._revisions)):
            return None  # before the first mark, or behind the last one
        (left, right), (began, ended) = self._revisions[n - 1 : n + 1], self._times[n - 1 : n + 1]
        return Moment(began + (ended - began) * ((revision - left) / (right - left)), False)
