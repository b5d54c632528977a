"""What transactions are put together of: the bytes are those of the protobuf messages that they stand for."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit import kv
from coordkit.etcd.kv import txn_request
from coordkit.wire import messages as m

COMPARED: dict[str, tuple[Callable[..., kv.Target], int]] = {
    "create_revision": (kv.create, m.Compare.CREATE),
    "mod_revision": (kv.mod, m.Compare.MOD),
    "version": (kv.version, m.Compare.VERSION),
}
RESULTS: dict[str, tuple[Callable[[kv.Target, int], kv.Compare], int]] = {
    "==": (operator.eq, m.Compare.EQUAL),  # type: ignore[dict-item]
    "!=": (operator.ne, m.Compare.NOT_EQUAL),  # type: ignore[dict-item]
    "<": (operator.lt, m.Compare.LESS),
    ">": (operator.gt, m.Compare.GREATER),
}


@given(
    field=st.sampled_from(sorted(COMPARED)),
    result=st.sampled_from(sorted(RESULTS)),
    number=st.integers(-(2**63), 2**63 - 1),
    key=st.binary(min_size=1, max_size=300),
    range_end=st.sampled_from([b"", b"z"]),
)
def test_a_compare_is_the_message(field: str, result: str, number: int, key: bytes, range_end: bytes) -> None:
    """
    Of any number, on any key or range.
    """
    target, kind = COMPARED[field]
    compare, code = RESULTS[result]

    made = txn_request([compare(target(key, range_end), number)], [])

    expected = m.Compare(result=code, target=kind, key=key, range_end=range_end, **{field: number})  # type: ignore[arg-type]
    assert m.TxnRequest.FromString(made.SerializeToString()) == m.TxnRequest(compare=[expected])


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 1.5, "1", None])
def test_what_is_no_revision_is_refused(number: object) -> None:
    """
    At once, and not by the server.
    """
    with pytest.raises((TypeError, ValueError)):
        kv.create("key") == number  # noqa: B015 - it is the comparison that raises


@given(key=st.binary(min_size=1, max_size=300), lease=st.integers(0, 2**63 - 1), prev=st.booleans())
def test_operations_are_the_messages(key: bytes, lease: int, prev: bool) -> None:
    """
    A put with its options, a read, a count.
    """
    made = txn_request([], [kv.put(key, b"stored", lease, prev), kv.get(key), kv.count(key)])

    put = m.PutRequest(key=key, value=b"stored", lease=lease, prev_kv=prev)
    reads = [m.RangeRequest(key=key), m.RangeRequest(key=key, count_only=True)]
    assert m.TxnRequest.FromString(made.SerializeToString()) == m.TxnRequest(
        success=[
            m.RequestOp(request_put=put),
            *(m.RequestOp(request_range=read) for read in reads),
        ]
    )
