"""Rounds: what a barrier's keys mean.  Pure: views in, conclusions out.

A barrier lives in generations.  `generation` holds the number of the current one, and how many parties all
have agreed on.  Members of a generation are leased keys; the order of their create revisions is the order of
arrival.  A generation ends with one verdict, written once, which everybody obeys.
"""

from __future__ import annotations

import json
import re
import typing

import attrs

from coordkit import errors, keys
from coordkit.etcd import kv
from coordkit.vigil import View


@attrs.frozen
class Layout:
    """Where the keys are."""

    prefix: bytes  # ends with a slash
    members: bytes  # between a generation's prefix and a member's id
    verdict: bytes

    @property
    def generation_key(self) -> bytes:
        return self.prefix + b"generation"

    def of(self, number: int) -> bytes:
        """The prefix of all keys of one generation."""
        return b"%s%010d/" % (self.prefix, number)

    def members_of(self, number: int) -> bytes:
        return self.of(number) + self.members

    def verdict_of(self, number: int) -> bytes:
        return self.of(number) + self.verdict

    def clear(self, number: int) -> kv.Op:
        """Remove what is left of a generation.  Members that have a range to themselves leave one by one."""
        if self.members:
            return kv.delete(self.verdict_of(number))
        return kv.delete(self.of(number), keys.range_end(self.of(number)))


@attrs.frozen
class Generation:
    """The current one; number 0 when there has been none."""

    number: int
    parties: int

    @classmethod
    def of(cls, layout: Layout, view: View) -> Generation:
        """From what is stored.

        Raises:
            InvalidValue: Something else is.
        """
        stored = view.kvs.get(layout.generation_key)
        if stored is None:
            return cls(0, 0)
        match = re.fullmatch(rb"([0-9]{1,10})/([0-9]{1,10})", stored.value)
        if match is None:
            raise errors.InvalidValue(f"{stored.key!r} holds what none of us has put there")
        return cls(int(match[1]), int(match[2]))

    @property
    def encoded(self) -> bytes:
        return b"%d/%d" % (self.number, self.parties)

    def next(self, parties: int) -> Generation:
        return Generation(self.number + 1, parties)


@attrs.frozen
class Verdict:
    """How a generation ended: for all the same."""

    #: Who passed, in the order of arrival: the last parts of their keys.  Empty: it was broken.
    passed: tuple[str, ...]
    why: str = ""  # it was broken

    @property
    def broken(self) -> bool:
        return not self.passed

    def encode(self) -> bytes:
        words = {"broken": self.why} if self.broken else {"passed": self.passed}
        return json.dumps(words, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, stored: bytes) -> Verdict:
        """Whatever cannot be read lets nobody pass."""
        try:
            words: object = json.loads(stored)
        except (ValueError, RecursionError):
            words = None
        if isinstance(words, dict):
            passed = words.get("passed")
            if isinstance(passed, list) and passed and all(isinstance(each, str) for each in passed):
                return cls(tuple(passed))
            if isinstance(words.get("broken"), str):
                return cls((), words["broken"])
        return cls((), "its verdict cannot be read")


def members(layout: Layout, view: View, number: int) -> list[kv.KeyValue]:
    """Who has arrived in a generation, and is still there; in that order."""
    start, verdict = layout.members_of(number), layout.verdict_of(number)
    found = [each for key, each in view.kvs.items() if key.startswith(start) and key != verdict]
    return sorted(found, key=lambda each: (each.create_revision, each.key))


def verdict(layout: Layout, view: View, number: int) -> Verdict | None:
    """How a generation ended; None: it has not, or that is forgotten."""
    stored = view.kvs.get(layout.verdict_of(number))
    return None if stored is None else Verdict.decode(stored.value)


@attrs.frozen
class Told:
    """The verdict is there."""

    verdict: Verdict


@attrs.frozen
class Full:
    """All have arrived, and we are the last: it is for us to say so."""

    counted: tuple[kv.KeyValue, ...]


@attrs.frozen
class Lost:
    """Somebody who had arrived is gone, and nobody has passed.  Look again for what else there is to see."""

    key: bytes


@attrs.frozen
class Forgotten:
    """The generation is over, and nobody knows any more how it ended."""


Conclusion: typing.TypeAlias = "Told | Full | Lost | Forgotten"


class Round:
    """One member's stay in one generation."""

    def __init__(self, layout: Layout, generation: Generation, key: bytes, create_revision: int) -> None:
        self.layout = layout
        self.generation = generation
        self.key = key
        self.create_revision = create_revision
        #: Of the newest view that was looked at, and that view.
        self.revision = create_revision
        self.latest = View(0, {})
        self._seen: dict[bytes, int] = {}  # who has arrived, with their create revisions

    @property
    def id(self) -> str:
        """How we are called in the verdict."""
        return self.name_of(self.key)

    def name_of(self, key: bytes) -> str:
        """How a member is called in the verdict."""
        return key[len(self.layout.members_of(self.generation.number)) :].decode(errors="replace")

    def index(self, told: Verdict) -> int | None:
        """Our place among those who passed; None: we are not one of them."""
        return told.passed.index(self.id) if self.id in told.passed else None

    def look(self, view: View) -> Conclusion | None:
        """What to conclude from a view, each later than the one before; None: wait on."""
        seen = self._conclude(view)
        if not isinstance(seen, Forgotten):  # the watch, which may be behind this view, still knows
            self.revision, self.latest = max(self.revision, view.revision), view
        return seen

    def _conclude(self, view: View) -> Conclusion | None:
        number = self.generation.number
        told = verdict(self.layout, view, number)
        if told is not None:
            return Told(told)
        if Generation.of(self.layout, view).number != number:
            return Forgotten()
        arrived = members(self.layout, view, number)
        present = {each.key: each.create_revision for each in arrived}
        self._seen[self.key] = self.create_revision
        for key, create_revision in self._seen.items():
            if present.get(key) != create_revision:
                del self._seen[key]  # told once
                return Lost(key)
        self._seen.update(present)
        parties = self.generation.parties
        if len(arrived) >= parties and arrived[parties - 1].key == self.key:
            return Full(tuple(arrived[:parties]))
        return None


MOST_COMPARES = 100  # etcd takes 128 in a transaction


def still_there(counted: typing.Sequence[kv.KeyValue]) -> list[kv.Compare]:
    """True as long as nobody of those counted is gone; of many, the last to arrive."""
    return [kv.create(each.key) == each.create_revision for each in counted[-MOST_COMPARES:]]


def undecided(layout: Layout, generation: Generation) -> list[kv.Compare]:
    """True as long as this is the current generation, and has no verdict."""
    return [
        kv.value(layout.generation_key) == generation.encoded,
        kv.create(layout.verdict_of(generation.number)) == 0,
    ]


def step(layout: Layout, generation: Generation, parties: int) -> list[kv.Op]:
    """To the next generation.  The verdict stays for those who have not looked; the one before it goes."""
    return [
        kv.put(layout.generation_key, generation.next(parties).encoded),
        layout.clear(generation.number - 1),
    ]
