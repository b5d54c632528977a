"""Bars: figures that a release must reach, beside what was measured."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Bar:
    """One figure and its bound: at least, or at most, so many times what it is compared with."""

    name: str
    measured: float
    least: float | None = None
    most: float | None = None
    unit: str = "x"

    @property
    def passed(self) -> bool:
        above = self.least is None or self.measured >= self.least
        return above and (self.most is None or self.measured <= self.most)

    def as_json(self) -> dict[str, Any]:
        return {**attrs.asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        word, bound = ("least", self.least) if self.least is not None else ("most", self.most)
        measured = f"{self.measured:.2f}{self.unit}"
        verdict = "pass" if self.passed else "MISS"
        return f"bar: {self.name} {measured}, at {word} {bound:g}{self.unit}: {verdict}"
