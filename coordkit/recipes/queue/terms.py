"""How a queue is to be used, and the arguments that its methods take, checked."""

from __future__ import annotations

import itertools
import math
import typing

import attrs

from coordkit import codecs, errors, keys
from coordkit.recipes.queue import names, producer, upkeep

DEFAULT_DELIVERIES = 5
DEFAULT_DEDUP_WINDOW_S = 300
_MISSING = object()


@attrs.frozen
class Terms:
    """How a queue is to be used; the same for all who use it, best."""

    codec: codecs.Codec = codecs.BYTES
    most_deliveries: int = DEFAULT_DELIVERIES
    ack_wait_s: float = math.inf
    max_length: int | None = None
    max_bytes: int | None = None
    dedup_window_s: int = DEFAULT_DEDUP_WINDOW_S

    @classmethod
    def of(
        cls,
        codec: codecs.Codec = codecs.BYTES,
        max_deliveries: int = DEFAULT_DELIVERIES,
        ack_wait: float | None = None,
        max_length: int | None = None,
        max_bytes: int | None = None,
        dedup_window: float = DEFAULT_DEDUP_WINDOW_S,
    ) -> Terms:
        """Checked, from what a user wrote.

        Raises:
            InvalidValue: A number that makes no sense.
        """
        codecs.check(codec)
        for what, number in (("max_length", max_length), ("max_bytes", max_bytes)):
            if number is not None:
                whole(number, what)
        return cls(
            codec,
            whole(max_deliveries, "max_deliveries"),
            math.inf if ack_wait is None else seconds(ack_wait, "ack_wait"),
            max_length,
            max_bytes,
            math.ceil(seconds(dedup_window, "dedup_window")),
        )


def whole(number: int, what: str, least: int = 1, most: int = 2**31) -> int:
    """A whole number in its bounds.

    Raises:
        InvalidValue: It is none.
    """
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise errors.InvalidValue(f"{what} must be a whole number from {least} to {most}, not {number!r}")
    return number


def paired(
    values: typing.Iterable[typing.Any], dedup_ids: typing.Iterable[str]
) -> typing.Iterator[tuple[typing.Any, str]]:
    """Each value with its `dedup_id`.

    Raises:
        InvalidValue: There are not as many; before the first pair, where both have a length.
    """
    if isinstance(dedup_ids, (str, bytes)):
        raise errors.InvalidValue(f"dedup_ids must be one str for each value, not {dedup_ids!r}")
    lengths = [len(each) for each in (values, dedup_ids) if isinstance(each, typing.Sized)]
    if len(set(lengths)) > 1:
        raise errors.InvalidValue(f"there are {lengths[1]} dedup_ids for {lengths[0]} values")
    for value, dedup_id in itertools.zip_longest(values, dedup_ids, fillvalue=_MISSING):
        if value is _MISSING or dedup_id is _MISSING:
            raise errors.InvalidValue("there are not as many dedup_ids as values")
        yield value, typing.cast(str, dedup_id)


def seconds(number: float, what: str) -> float:
    """Seconds, more than 0."""
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number < math.inf:
        raise errors.InvalidValue(f"{what} must be a positive number of seconds, not {number!r}")
    return number


@attrs.define
class Packing:
    """How the items of one call are put, checked before anything is sent."""

    codec: codecs.Codec
    priority: int
    due_ms: int | None

    @classmethod
    def of(cls, codec: codecs.Codec, priority: int, delay: float) -> Packing:
        """Checked, from what a user wrote.

        Raises:
            InvalidValue
        """
        return cls(codec, whole(priority, "priority", 0, names.LARGEST_PRIORITY), upkeep.due_in(delay))

    def pack(self, value: typing.Any, dedup_id: str | None) -> producer.Parcel:
        """One item.

        Raises:
            InvalidValue, InvalidName, TooLarge
        """
        stored = self.codec.encode(value)
        if len(stored) > producer.LARGEST_VALUE_BYTES:
            raise errors.TooLarge(
                f"an item of {len(stored)} bytes is larger than {producer.LARGEST_VALUE_BYTES}: not put"
            )
        dedup = None if dedup_id is None else keys.segment(dedup_id, "dedup_id")
        return producer.Parcel(stored, self.priority, self.due_ms, dedup)
