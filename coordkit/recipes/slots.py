"""Slots: names for what is to run once each, and what is known of one that was taken.  Pure.

A slot that is named by a period goes by the wall clock: the moment at which the period began.  It only names
the slot; nothing is decided by a clock.  Replicas whose clocks differ call the same scheduled moment by the
same name, for each fires by the clock by which it names.
"""

from __future__ import annotations

import datetime
import enum
import json
import re

import attrs

from coordkit import errors, keys

_PERIOD = re.compile(r"(\d{1,6})([smhdw])")
_NEARLY = re.compile(r"([-+]?\d+(?:\.\d+)?)(\s*)([A-Za-z]{1,7})")  # "5min": a typo would run once a retention
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_ANCHOR = datetime.datetime(1970, 1, 5, tzinfo=datetime.timezone.utc)  # a Monday: weeks begin there


class SlotState(enum.Enum):
    """How a slot stands."""

    # RUNNING: somebody took it, and its session lives.
    RUNNING = "running"
    # DONE: whoever took it said that it went well.  Final.
    DONE = "done"
    # FAILED: whoever took it said that it did not.  Final, unless more attempts are allowed.
    FAILED = "failed"
    # ABANDONED: whoever took it said nothing until its session ended.  It may have done all, some or nothing.
    ABANDONED = "abandoned"
    # UNREADABLE: the key holds something that is not ours.  Taken.
    UNREADABLE = "unreadable"


@attrs.frozen
class Slot:
    """What is known of a slot that was taken.

    Attributes:
        name: The slot's.
        state: How it stands.
        by: The identity of whoever took it.
        attempt: How often it was taken, this time included.
        began: When, by that one's wall clock; for people.
        ended: The same of its end; empty while there is none.
        error: The kind of error with which it failed; never its text, which may hold a secret.
        session: The lease of whoever took it.
        nonce: Its claim's own.
    """

    name: str
    state: SlotState
    by: str = ""
    attempt: int = 1
    began: str = ""
    ended: str = ""
    error: str = ""
    session: int = 0
    nonce: str = ""

    def encode(self) -> bytes:
        """As it is stored."""
        words = attrs.asdict(self, filter=lambda field, value: field.name != "name" and value != "")
        words |= {"state": self.state.value, "session": f"{self.session:016x}"}
        return json.dumps(words, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, name: str, stored: bytes) -> Slot:
        """From what is stored, whoever wrote it."""
        try:
            words = json.loads(stored)
            state = SlotState(words["state"])
            attempt, session = int(words["attempt"]), int(words["session"], 16)
            texts = {key: str(words.get(key, "")) for key in ("by", "began", "ended", "error", "nonce")}
        except (ValueError, KeyError, TypeError, RecursionError):
            return cls(name, SlotState.UNREADABLE)
        return cls(name, state, attempt=attempt, session=session, **texts)


def period(text: str) -> datetime.timedelta | None:
    """What "90s", "5m", "2h", "1d" or "1w" stands for; None for any other text.

    Raises:
        InvalidValue: It is 0; or a number and letters, like a period, and is none.
    """
    match = _PERIOD.fullmatch(text)
    if match is None:
        nearly = _NEARLY.fullmatch(text)
        if nearly is not None:
            raise errors.InvalidValue(f"{text!r} is no period: {_fault(*nearly.groups())}")
        return None
    seconds = int(match[1]) * _UNITS_S[match[2]]
    if not seconds:
        raise errors.InvalidValue(f"a period must be longer than 0: {text!r}")
    return datetime.timedelta(seconds=seconds)


def _fault(number: str, gap: str, unit: str) -> str:
    """What is wrong with what is nearly a period."""
    if unit not in _UNITS_S:
        return "the units are s, m, h, d and w"
    if not number.isdecimal():
        return "its number must be whole, and have no sign"
    if gap:
        return "its unit must stand right behind its number"
    return "its number is too long, it may have 6 digits"


def name_of(slot: str | datetime.timedelta, now: datetime.datetime | None = None) -> str:
    """The name of a slot: a text as it is, a period by the moment at which it began, in UTC.

    Args:
        slot: A name; or a period, as a timedelta or as "5m".
        now: The moment, with its time zone; by default this machine's wall clock.

    Raises:
        InvalidName, InvalidValue
    """
    length = slot if isinstance(slot, datetime.timedelta) else period(slot) if isinstance(slot, str) else None
    if length is None:
        keys.segment(slot, "slot")  # type: ignore[arg-type]
        assert isinstance(slot, str)
        return slot
    if length < datetime.timedelta(seconds=1) or length.microseconds:
        raise errors.InvalidValue(f"a period must be some whole seconds long, not {length}")
    now = now or datetime.datetime.now(datetime.timezone.utc)
    began = now - (now - _ANCHOR) % length
    return began.astimezone(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
