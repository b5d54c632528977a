"""Items as a shell sees them: parts of a stream, and fields of a document."""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Iterator
from typing import Any

CHUNK_BYTES = 2**16


def separated(parser: argparse.ArgumentParser) -> None:
    """Add --null."""
    parser.add_argument(
        "-0", "--null", action="store_true", help="items are separated by NUL, not by newlines"
    )


def separator(arguments: argparse.Namespace) -> bytes:
    """What stands behind each item of a stream."""
    return b"\0" if arguments.null else b"\n"


def read(descriptor: int, mark: bytes) -> Iterator[list[bytes]]:
    """The items of a stream, as many at a time as have come: nothing waits for what comes behind it."""
    rest = b""
    while chunk := os.read(descriptor, CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(mark)
        if whole:
            yield whole
    if rest:
        yield [rest]


def given(arguments: argparse.Namespace, mark: bytes) -> Iterator[list[bytes]]:
    """What VALUE... stands for: each for itself; `-`, or none at all, for the items of standard input."""
    behind = arguments.child or []  # as it is, be it a dash
    batch: list[bytes] = []
    for value in arguments.values or ([] if behind else ["-"]):
        if value != "-":
            batch.append(os.fsencode(value))
            continue
        if batch:
            yield batch
        batch = []
        yield from read(sys.stdin.fileno(), mark)
    batch += map(os.fsencode, behind)
    if batch:
        yield batch


def document(value: bytes, **facts: Any) -> dict[str, Any]:
    """An item as JSON: as text where it is text, else in base64."""
    try:
        return {**facts, "value": value.decode()}
    except UnicodeDecodeError:
        return {**facts, "value": base64.b64encode(value).decode(), "encoding": "base64"}
