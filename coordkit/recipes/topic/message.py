"""Messages: what a subscriber gets."""

from __future__ import annotations

import functools
import typing

import attrs

from coordkit import codecs, errors

LAST_INDEX = 999  # no message has a larger one


@attrs.frozen
class Position:
    """A message's place in its partition."""

    revision: int
    index: int
    after: int = -1  # of a log's message: the revision of the transaction before its own
    rest: int = 0  # of a log's message: how many of its transaction are still to come

    @property
    def order(self) -> tuple[int, int]:
        """Positions are ordered as the messages are: by revision, then by index."""
        return self.revision, self.index


#: Before every message.
START = Position(0, -1)

#: Where a reader begins: at a revision, or behind the position of the last message that was seen.
Start: typing.TypeAlias = "int | typing.Literal['new', 'all'] | Position"

#: A message as it was found, and where.
Found = tuple[bytes, Position]


@attrs.frozen(slots=False, eq=False)
class Message:
    """One message, as every subscriber sees it.

    Attributes:
        raw: Its bytes.
        revision: Of the transaction that published it; the same for all messages of that.
        index: Its place among those.
        partition: Its partition's number; 0 where there is but one.
    """

    raw: bytes = attrs.field(repr=False)
    revision: int
    index: int
    partition: int
    position: Position = attrs.field(repr=False)
    codec: codecs.Codec = attrs.field(repr=False)

    @functools.cached_property
    def value(self) -> typing.Any:
        """Decoded by the topic's codec.

        Raises:
            InvalidValue: It is none of the codec's; the subscription goes on.
        """
        try:
            return self.codec.decode(self.raw)
        except ValueError as error:
            raise errors.InvalidValue(
                f"the message of revision {self.revision}, index {self.index}, cannot be decoded: "
                f"{type(error).__name__}"
            ) from None
