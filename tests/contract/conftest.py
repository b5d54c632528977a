"""More coordinators for a test, and every lock-like in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract.locklikes import LOCKLIKES, LockLike

import coordkit


@pytest.fixture
def crew(coord, etcd, namespace: str) -> Iterator[Callable[..., list[coordkit.Coordinator]]]:
    """`crew(n)`: n more coordinators in this test's namespace; `coord` checks what they leave behind."""
    url = f"etcd://{etcd.endpoint}/{namespace}"
    members: list[coordkit.Coordinator] = []

    def hire(count: int, **settings: Any) -> list[coordkit.Coordinator]:
        hired = [coordkit.connect(url, **settings) for _ in range(count)]
        members.extend(hired)
        return hired

    yield hire

    for member in members:
        member.close()


@pytest.fixture(params=LOCKLIKES)
def locklike(request: pytest.FixtureRequest) -> LockLike:
    """Each of them."""
    return LOCKLIKES[request.param]
