"""What is written in keys and values, as text and times; whoever wrote it.  Pure, and never raises.

Values of ours are JSON with `identity`, `since` and the like; Go's are empty, or what a program proclaims.
Times come from other machines' clocks: they are for people, no protocol looks at them.
"""

from __future__ import annotations

import datetime
import json
import typing

from coordkit import keys

LONGEST_TEXT = 300


def words_of(value: bytes) -> dict[str, typing.Any]:
    """The JSON object that a value holds, or an empty one."""
    try:
        words = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return words if isinstance(words, dict) else {}


def text(word: object) -> str:
    """A word as text that can be printed and encoded; "" for None and for what is not a scalar."""
    if not isinstance(word, (str, int, float)):
        return ""
    # Lone surrogates are legal in JSON, and no terminal takes them.
    return str(word).encode(errors="replace").decode()[:LONGEST_TEXT]


def moment(word: object) -> datetime.datetime | None:
    """A time as ISO 8601 writes it, in UTC; None when it is none."""
    if not isinstance(word, str):
        return None
    try:
        found = datetime.datetime.fromisoformat(word.replace("Z", "+00:00"))
        if found.tzinfo is None:
            found = found.replace(tzinfo=datetime.timezone.utc)
        return found.astimezone(datetime.timezone.utc)
    except (ValueError, OverflowError):
        return None


def segments(path: bytes) -> tuple[str, ...]:
    """A key's segments, decoded; a part that is no UTF-8 keeps its bytes as escapes."""
    return tuple(
        text(keys.unsegment(part.decode(errors="backslashreplace"))) for part in path.split(b"/") if part
    )
