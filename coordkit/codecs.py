"""How values become bytes: as they are, as text, as JSON.  Never pickle.

Whoever can write a key must not be able to run code in whoever reads it.
"""

from __future__ import annotations

import json
import typing

from coordkit import errors, keys


class Codec(typing.Protocol):
    """Anything with these two methods."""

    def encode(self, value: typing.Any) -> bytes:
        """`value` as bytes."""

    def decode(self, stored: bytes) -> typing.Any:
        """The value that `stored` stands for; raises ValueError when it stands for none."""


def check(codec: Codec) -> None:
    """Raise InvalidValue unless it can be one.  A str, whose methods mean something else, is none."""
    for method in ("encode", "decode"):
        if isinstance(codec, str) or not callable(getattr(codec, method, None)):
            raise errors.InvalidValue(
                f"codec must have a method {method!r}, as coordkit.codecs.JSON has; {codec!r} does not"
            )


class BytesCodec:
    """Bytes as they are; a str is encoded as UTF-8."""

    def encode(self, value: bytes | str) -> bytes:
        """`value` as bytes."""
        return keys.to_bytes(value)

    def decode(self, stored: bytes) -> bytes:
        """`stored`, unchanged."""
        return stored


class TextCodec:
    """UTF-8 text."""

    def encode(self, value: str) -> bytes:
        """`value` as UTF-8."""
        if not isinstance(value, str):
            raise errors.InvalidValue(f"value must be str, not {type(value).__name__}")
        return value.encode()

    def decode(self, stored: bytes) -> str:
        """`stored` as text; raises UnicodeDecodeError (a ValueError)."""
        return stored.decode()


class JsonCodec:
    """Compact JSON, keys in the order given."""

    def encode(self, value: typing.Any) -> bytes:
        """`value` as JSON."""
        try:
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise errors.InvalidValue(f"value cannot be written as JSON: {error}") from None

    def decode(self, stored: bytes) -> typing.Any:
        """`stored`, parsed; raises ValueError."""
        try:
            return json.loads(stored)
        except RecursionError:
            raise ValueError("JSON is nested too deeply") from None


BYTES = BytesCodec()
TEXT = TextCodec()
JSON = JsonCodec()
