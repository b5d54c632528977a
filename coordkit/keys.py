"""Names to keys and back; prefix ranges.  Pure.

A recipe's keys are `/<namespace>/<kind>/<name>/...`.  Each segment is percent-encoded outside
`[A-Za-z0-9._~-]`, so `job1` and `job10`, or `a` and `a/b`, never share a range.
"""

from __future__ import annotations

import re
import urllib.parse

from coordkit import errors

LONGEST_NAME_BYTES = 255

_PLACE = re.compile(rb"([0-9a-f]{1,16})(?:-(.+))?", re.DOTALL)


def segment(name: str, what: str = "name") -> str:
    """One percent-encoded segment of a key.

    Raises:
        InvalidName: Not a string, empty, longer than 255 bytes of UTF-8, or not encodable.
    """
    if not isinstance(name, str):
        raise errors.InvalidName(f"{what} must be a str, not {type(name).__name__}")
    if not name:
        raise errors.InvalidName(f"{what} must not be empty")
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError as error:
        raise errors.InvalidName(f"{what} {name!r} cannot be encoded as UTF-8") from error
    if size_bytes > LONGEST_NAME_BYTES:
        raise errors.InvalidName(f"{what} has {size_bytes} bytes, more than {LONGEST_NAME_BYTES}")
    if name in (".", ".."):
        return name.replace(".", "%2E")
    return urllib.parse.quote(name, safe="")


def unsegment(encoded: str) -> str:
    """The name that `segment` encoded."""
    return urllib.parse.unquote(encoded)


def prefix(namespace: str, kind: str, *name: str) -> bytes:
    """`/<namespace>/<kind>/` or, with one name, `/<namespace>/<kind>/<name>/`; ends with a slash, always.

    An empty namespace leaves its segment out.

    Raises:
        InvalidName: A name that is given and is none, None too.
    """
    head = f"/{namespace}/{kind}/" if namespace else f"/{kind}/"
    return "".join([head, *(f"{segment(each)}/" for each in name)]).encode()


def is_of_a_name(namespace: str, prefix_: bytes) -> bool:
    """Whether it is `prefix(namespace, kind, name)` for some kind and name: no other such lies within it."""
    head = f"/{namespace}/".encode() if namespace else b"/"
    return prefix_.startswith(head) and prefix_.count(b"/", len(head)) == 2


def prefix_as_given(prefix_: str) -> bytes:
    """A prefix that is taken as it is, with a slash behind it, as Go and etcdctl do.

    Raises:
        InvalidName: Not a string, empty, or not encodable.
    """
    if not isinstance(prefix_, str) or not prefix_:
        raise errors.InvalidName(f"prefix must be a str that is not empty, not {prefix_!r}")
    try:
        return prefix_.encode() + b"/"
    except UnicodeEncodeError as error:
        raise errors.InvalidName(f"prefix {prefix_!r} cannot be encoded as UTF-8") from error


def namespace(path: str) -> str:
    """A namespace as it stands in keys: the segments of `path`, each encoded; may be empty."""
    if not isinstance(path, str):
        raise errors.InvalidName(f"namespace must be a str, not {type(path).__name__}")
    return "/".join(segment(part, "namespace") for part in path.strip("/").split("/") if part)


def range_end(prefix_: bytes) -> bytes:
    """The end of the range of all keys that start with `prefix_`; `\\0`, all keys, if none is above."""
    stripped = prefix_.rstrip(b"\xff")
    if not stripped:
        return b"\0"
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def place(prefix_: bytes, lease_id: int, nonce: str) -> bytes:
    """The key of one contender in a line: `<prefix><lease:016x>-<nonce>`."""
    return b"%s%016x-%s" % (prefix_, lease_id, nonce.encode())


def parse_place(prefix_: bytes, key: bytes) -> tuple[int, str] | None:
    """Lease id and nonce of a contender's key, or None when the key is not of that form.

    Go's keys are `<prefix><lease:x>` without a nonce: then the nonce is empty.
    """
    if not key.startswith(prefix_):
        return None
    match = _PLACE.fullmatch(key[len(prefix_) :])
    if match is None:
        return None
    return int(match[1], 16), (match[2] or b"").decode(errors="replace")


def to_bytes(value: bytes | str, what: str = "value") -> bytes:
    """`value` as bytes; a `str` is encoded as UTF-8.

    Raises:
        InvalidValue: Neither bytes nor str, or a str that UTF-8 cannot encode.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise errors.InvalidValue(f"{what} cannot be encoded as UTF-8") from None
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise errors.InvalidValue(f"{what} must be bytes or str, not {type(value).__name__}")
