"""A cluster whose members are cut off from each other: what holders, waiters and callers on each side see."""

from __future__ import annotations

import contextlib

import pytest

import coordkit
from coordkit import errors
from coordkit.etcd import kv
from coordkit.testing import besieger, partition, siege

TTL_S = 3


@pytest.fixture
def only(networked, namespace):
    """`only(*members, ttl=3)`: a coordinator that knows of these members and of no other."""
    with contextlib.ExitStack() as stack:

        def connect(*members, ttl: float = TTL_S) -> coordkit.Coordinator:
            url = f"etcd://{','.join(member.endpoint for member in members)}/{namespace}"
            return stack.enter_context(coordkit.connect(url, ttl=ttl, timeout=30))

        yield connect


@pytest.fixture
def sides(networked):
    """The leader, and the others."""
    leader = networked.leader()
    return leader, [member for member in networked.members if member is not leader]


class TestHolders:
    @pytest.mark.parametrize("cut", ["leader", "follower"])
    def test_one_whose_only_member_is_cut_off_loses_its_lock_before_another_has_it(
        self, networked, only, sides, cut
    ):
        """
        It is told, and its guarded writes do nothing, also when all is whole again.
        """
        leader, others = sides
        alone = leader if cut == "leader" else others[0]
        majority = [member for member in networked.members if member is not alone]
        coord = only(alone)
        former = coord.lock("job")
        former.acquire()
        fence, write = former.fence, former.txn().then(kv.put("/written", b"former"))

        with partition(networked, alone):
            heir = only(*majority).lock("job")
            assert heir.acquire(timeout=60)

            assert not former.held
            assert former.lost.wait(10)
            assert heir.fence > fence
            heir.txn().then(kv.put("/written", b"heir")).commit()

        coord.kv.get("/written", timeout=60)  # once its member has a leader again
        assert not write.commit(timeout=60).succeeded
        with pytest.raises(errors.LockLost):
            former.release()
        assert only(*networked.members).kv.get("/written").value == b"heir"
        heir.release()

    def test_one_that_knows_of_other_members_keeps_it(self, networked, only, sides, eventually):
        """
        Its session is renewed elsewhere before its time is up; a write may be told that there is no leader.
        """
        alone, majority = sides
        coord = only(alone, *majority, ttl=30)
        lock = coord.lock("job")
        lock.acquire()

        def written() -> bool:
            with contextlib.suppress(errors.Unavailable, errors.DeadlineExceeded):
                return lock.txn().then(kv.put("/written", b"")).commit(timeout=5).succeeded
            return False

        with partition(networked, alone):
            eventually(lambda: networked.leader() is not alone)
            eventually(written, within_s=25)
            assert not only(*majority).lock("job").acquire(blocking=False)
            assert lock.held
            lock.release()


class TestCallers:
    def test_on_the_smaller_side_a_call_ends_in_time_and_says_so(self, networked, only, sides):
        """
        A write may have been applied or not; a wait for a lock was in vain; nobody hangs.
        """
        alone, _ = sides
        coord = only(alone, ttl=60)  # its session outlives this
        coord.kv.put("/known", b"")

        with partition(networked, alone):
            with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)) as told:
                coord.kv.put("/unknown", b"", timeout=2)
            with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)):
                coord.kv.get("/known", timeout=2)
            assert not coord.lock("job").acquire(timeout=2)

        assert told.value.outcome in (errors.Outcome.NONE, errors.Outcome.UNKNOWN)
        assert coord.lock("job").acquire(timeout=60)

    @pytest.mark.parametrize("cut", ["leader", "follower"])
    def test_who_knows_of_other_members_moves_to_one_of_them(self, networked, only, sides, cut):
        """
        Within the same call.
        """
        leader, others = sides
        alone = leader if cut == "leader" else others[0]
        coord = only(alone, *(member for member in networked.members if member is not alone), ttl=30)
        assert coord.lock("before").acquire()

        with partition(networked, alone):
            assert coord.lock("meanwhile").acquire(timeout=60)
            assert coord.kv.get("/nothing", timeout=60) is None


@pytest.mark.timeout(180)
def test_nothing_is_granted_twice_while_members_are_cut_off(mode, networked, monkeypatch):
    """
    Leaders, followers, and one way only: the histories of all plays are judged.
    """
    if mode == "gevent":
        pytest.skip("a siege is one process of threads; it is run once, in the other mode")
    monkeypatch.setattr(besieger, "FAULTS", {})
    besieged = siege.Siege(networked, seed=5, names=("lock", "rwlock", "election", "queue"))

    report = besieged.run(faults=3)

    assert set(report.faults) <= set(besieger.NETWORK_FAULTS)
    assert sum(report.faults.values()) == 3
    assert report.violations == {}
    assert report.members_agree
