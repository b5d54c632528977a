"""The floor beside one scenario: its workers, set to work a slice at a time between the contenders' slices.

Cost: one interpreter for pairs; two more for hand-overs, where several contend.
"""

from __future__ import annotations

import secrets

from coordkit.cli.bench import figures, floor
from coordkit.cli.bench.crew import Crew
from coordkit.cli.bench.histogram import Histogram
from coordkit.testing.history import clock_ns

_PATIENCE_S = 20.0


class FloorCrew:
    """Measures the floor of acquire + release and, where several contend, of a hand-over."""

    def __init__(self, endpoint: str | None, contended: bool, crew: Crew) -> None:
        self._crew = crew
        self._waits, self._pairs, self._hand_overs = Histogram(), Histogram(), Histogram()
        roles = [] if endpoint is None else ["pair-floor"]
        roles += ["delete-floor", "watch-floor"] if roles and contended else []
        token = secrets.token_hex(4)
        # Pairs have a line of their own, which the watch does not see.
        folders = {role: f"/coordkit-floor/{token}/{'pair' if 'pair' in role else 'one'}" for role in roles}
        self._workers = {
            role: crew.hire(role, role, {"endpoint": endpoint, "folder": folders[role]}) for role in roles
        }

    def measure(self, seconds: float, samples: int) -> None:
        """One slice: pairs for so long, and so many hand-overs."""
        limit_s = seconds + _PATIENCE_S
        if "pair-floor" in self._workers:
            order = {"until_ns": clock_ns() + round(seconds * 1e9)}
            (pairs,) = self._crew.work({self._workers["pair-floor"]: order}, limit_s)
            both = zip(pairs["joins_ns"], pairs["releases_ns"], strict=True)
            self._waits.merge(Histogram(pairs["joins_ns"]))
            self._pairs.merge(Histogram(join + release for join, release in both))
        if "watch-floor" in self._workers:
            workers = (self._workers["delete-floor"], self._workers["watch-floor"])
            deleted, seen = self._crew.work({worker: {"samples": samples} for worker in workers}, limit_s)
            self._hand_overs.merge(Histogram(floor.hand_overs_ns(deleted, seen)))

    def take(self) -> figures.Figures:
        """The floors since the last time; none where there is no floor."""
        measured = {"wait": self._waits, "pair": self._pairs, "hand_over": self._hand_overs}
        self._waits, self._pairs, self._hand_overs = Histogram(), Histogram(), Histogram()
        found: figures.Figures = {}
        for name, histogram in measured.items():
            found |= figures.percentiles(f"floor_{name}", histogram)
        return found
