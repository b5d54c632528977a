"""One thing that is wrong, and what to do about it.  Pure.

A `PROBLEM` keeps coordkit from working, or from keeping its promises; an `ADVICE` is what an administrator
should know before it becomes one.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable

import attrs


class Level(enum.Enum):
    """How much a finding matters."""

    PROBLEM = "problem"
    ADVICE = "advice"


@attrs.frozen
class Finding:
    """One thing that is wrong, and what to do about it."""

    level: Level
    about: str
    text: str
    remedy: str


def problem(about: str, text: str, remedy: str) -> Finding:
    """It keeps coordkit from working."""
    return Finding(Level.PROBLEM, about, text, remedy)


def advice(about: str, text: str, remedy: str) -> Finding:
    """It may become a problem."""
    return Finding(Level.ADVICE, about, text, remedy)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """What is said of several endpoints, once."""
    about: dict[Finding, list[str]] = {}
    for finding in findings:
        about.setdefault(attrs.evolve(finding, about=""), []).append(finding.about)
    return [attrs.evolve(finding, about=", ".join(dict.fromkeys(names))) for finding, names in about.items()]


def size(number_bytes: float) -> str:
    """For people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number_bytes < 1024 or unit == "GiB":
            break
        number_bytes /= 1024
    return f"{number_bytes:.3g} {unit}" if number_bytes < 1000 else f"{number_bytes:.0f} {unit}"


def shorten(text: str) -> str:
    """What a server said, fit for a terminal."""
    return re.sub(r"[\x00-\x1f\x7f]", "?", text)[:300]
