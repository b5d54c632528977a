"""Every lock-like, as the tests that are for all of them ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

import coordkit

Make = Callable[[coordkit.Coordinator, str], Any]


@attrs.frozen
class LockLike:
    """How one is made, and who cannot hold it at the same time."""

    make: Make
    rival: Make
    #: Whether it hangs on the coordinator's session of the moment, not on one for good.
    renewed: bool = True


def _same(make: Make, **facts: Any) -> LockLike:
    return LockLike(make, make, **facts)


LOCKLIKES: dict[str, LockLike] = {
    "lock": _same(lambda coord, name: coord.lock(name)),
    "lock-at": _same(lambda coord, name: coordkit.Lock.at(coord.session, f"/at/{name}"), renewed=False),
}
