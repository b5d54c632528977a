"""Transactions that come at the same time travel together, and each gets its own result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from contract.players import wait_until

import coordkit
from coordkit import errors, groups
from coordkit.deadline import Deadline
from coordkit.etcd import kv


class Gate:
    """Stands in for the client: the first transaction waits until the gate opens, all are counted."""

    def __init__(self, coord: coordkit.Coordinator) -> None:
        self._real = coord.client.txn
        self.sent: list[kv.TxnRequest] = []
        self.open = threading.Event()

    def txn(self, request: kv.TxnRequest, deadline: Deadline) -> kv.TxnResult:
        self.sent.append(request)
        if len(self.sent) == 1:
            assert self.open.wait(15)
        return self._real(request, deadline)


@pytest.fixture
def gate(coord, namespace) -> Iterator[Gate]:
    yield Gate(coord)
    coord.kv.delete_prefix(f"/{namespace}/")


@pytest.fixture
def together(gate) -> Callable[..., list[object]]:
    """Sends transactions that all wait for the one before them; what came of each."""

    def send(*requests: kv.TxnRequest) -> list[object]:
        group = groups.Group(gate)  # type: ignore[arg-type]
        outcomes: list[object] = [None] * (len(requests) + 1)

        def run(index: int, request: kv.TxnRequest) -> None:
            try:
                outcomes[index] = group.txn(request, Deadline.after(15))
            except errors.CoordError as error:
                outcomes[index] = error

        first = kv.txn_request([], [])
        crew = [threading.Thread(target=run, args=each) for each in enumerate([first, *requests])]
        crew[0].start()
        wait_until(lambda: gate.sent)
        for thread in crew[1:]:
            thread.start()
        wait_until(lambda: len(group._coalescer._waiting) == len(requests))
        gate.open.set()
        for thread in crew:
            thread.join(15)
        return outcomes[1:]

    return send


class TestTogether:
    def test_what_waits_goes_as_one_and_each_gets_its_own_result(self, gate, together, namespace):
        """
        One takes its first branch, the other its second; both at one revision.
        """
        key, other = f"/{namespace}/a".encode(), f"/{namespace}/b".encode()

        done, refused = together(
            kv.txn_request([kv.create(key) == 0], [kv.put(key, b"1"), kv.get(key)]),
            kv.txn_request([kv.create(other) > 0], [kv.delete(other)], [kv.get(other)]),
        )

        assert len(gate.sent) == 2
        assert (done.succeeded, refused.succeeded) == (True, False)
        assert done.found(1).first.create_revision == done.revision == refused.revision
        assert refused.found(0).first is None

    def test_a_bad_one_fails_alone(self, gate, together, namespace):
        """
        One hangs on a lease that is not there: it alone is told.
        """
        key, other = f"/{namespace}/a".encode(), f"/{namespace}/b".encode()

        bad, good = together(
            kv.txn_request([], [kv.put(key, b"", lease=77)]), kv.txn_request([], [kv.put(other, b"")])
        )

        assert isinstance(bad, errors.LeaseNotFound)
        assert good.succeeded
        assert len(gate.sent) == 4  # the one before, both together, each alone

    def test_out_of_space_is_told_to_all(self, gate, together, namespace, monkeypatch):
        """
        It may have been committed all the same, so that nobody's part may simply be sent again.
        """
        real = gate._real

        def full(request: kv.TxnRequest, deadline: Deadline) -> kv.TxnResult:
            if len(gate.sent) == 2:
                raise errors.QuotaExceeded("etcdserver: mvcc: database space exceeded")
            return real(request, deadline)

        monkeypatch.setattr(gate, "_real", full)
        key = f"/{namespace}/a".encode()

        outcomes = together(kv.txn_request([], [kv.put(key, b"")]), kv.txn_request([], [kv.get(key)]))

        assert [type(each) for each in outcomes] == [errors.QuotaExceeded] * 2
        assert len(gate.sent) == 2


def test_two_places_in_one_line_never_share_a_revision(coord):
    """
    Many threads join few lines at once: each place has a create revision that no other one of its line has.
    """
    locks = [coord.lock(f"line {number % 4}") for number in range(24)]
    fences: dict[str, list[int]] = {}
    keeping = threading.Lock()

    def work(lock: coordkit.Lock) -> None:
        for _ in range(5):
            with lock, keeping:
                fences.setdefault(lock.name, []).append(lock.fence)

    crew = [threading.Thread(target=work, args=(lock,)) for lock in locks]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(50)

    assert sum(map(len, fences.values())) == 24 * 5
    for granted in fences.values():
        assert granted == sorted(set(granted))


def test_a_place_in_a_line_within_another_has_a_revision_of_its_own(coord, namespace):
    """
    Below a prefix that is taken as it is, other lines may lie: their keys stand in this one, too.
    """
    fences: dict[str, list[int]] = {}

    def work(prefix: str) -> None:
        lock = coordkit.Lock.at(coord.session, prefix)
        granted = fences[prefix] = []
        for _ in range(10):
            with lock:
                granted.append(lock.fence)

    outer = [f"/{namespace}/line {number}" for number in range(8)]
    crew = [threading.Thread(target=work, args=(each,)) for one in outer for each in (one, f"{one}/inner")]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(50)

    for one in outer:
        assert len({*fences[one], *fences[f"{one}/inner"]}) == 2 * 10
