"""EtcdCluster: three members that elect, lose and find each other again, and are gone afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import coordkit
from coordkit import errors
from coordkit.testing import Certificates, EtcdCluster, EtcdFailed, lifeline, loopback, pause, processes
from coordkit.testing.cluster import Member
from coordkit.wire import messages

QUICK = ("--heartbeat-interval=20", "--election-timeout=200")

STARTS_ONE_AND_WAITS = """
    import sys
    from coordkit.testing import EtcdCluster

    cluster = EtcdCluster(3, sys.argv[1])
    cluster.start()
    for member in cluster.members:
        print(member.pid, member._lifeline.watcher_pid, member.folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def shared(etcd_binary: str) -> Iterator[EtcdCluster]:
    """One cluster for all tests here: starting one is what takes longest."""
    with EtcdCluster(3, etcd_binary, arguments=QUICK) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared) -> EtcdCluster:
    """With all members up."""
    shared.start()
    return shared


@pytest.fixture
def only(namespace: str):
    """`only(member)`: a coordinator that knows of this member alone."""
    opened = []

    def connect(member) -> coordkit.Coordinator:
        opened.append(coordkit.connect(member.url, namespace=namespace, timeout=15))
        return opened[-1]

    yield connect

    for each in opened:
        each.close()


class TestStart:
    def test_three_members_have_one_leader(self, cluster):
        """
        Each says so, about the same one.
        """
        said = {member.name: member.status() for member in cluster.members}

        leader = cluster.leader()

        assert {status.leader for status in said.values()} == {said[leader.name].header.member_id}
        assert len({status.header.member_id for status in said.values()}) == 3
        assert {status.version for status in said.values()} == {cluster.version}

    def test_starting_twice_is_starting_once(self, cluster):
        """
        start() on running members changes nothing.
        """
        pids = [member.pid for member in cluster.members]

        cluster.start()

        assert [member.pid for member in cluster.members] == pids

    def test_coordkit_works_on_it(self, cluster, namespace):
        """
        The URL names every member, and a lock works on them.
        """
        assert cluster.url == f"etcd://{','.join(cluster.endpoints)}/coordkit"

        with coordkit.connect(cluster.url, namespace=namespace) as coord, coord.lock("on three") as lock:
            assert lock.held

    def test_what_one_member_is_told_the_others_know(self, cluster, only, namespace):
        """
        They are one cluster, not three servers.
        """
        first, second, third = map(only, cluster.members)

        first.kv.put(f"/{namespace}/told", b"first")

        assert second.kv.get(f"/{namespace}/told").value == b"first"
        assert third.kv.delete(f"/{namespace}/told")

    def test_ports_that_were_taken_meanwhile_are_replaced(self, cluster, etcd_binary, monkeypatch):
        """
        Between finding free ports and listening on them another program can take one; all are chosen anew.
        """
        taken = int(cluster.members[0].endpoint.rpartition(":")[2])
        good = loopback.free_ports(11)
        offers = [[*good[:2], taken, *good[2:5]], good[5:]]
        monkeypatch.setattr(loopback, "free_ports", lambda count: offers.pop(0))

        with EtcdCluster(3, etcd_binary, arguments=QUICK) as other:
            assert other.endpoints == tuple(f"127.0.0.1:{port}" for port in good[5::2])
            assert other.leader() in other.members

    def test_a_cluster_that_dies_at_once_tells_why(self, etcd_binary):
        """
        The error ends with what a member logged, and nothing is left behind.
        """
        before = set(lifeline._open)
        broken = EtcdCluster(3, etcd_binary, arguments=["--no-such-option"])

        with pytest.raises(EtcdFailed, match="no-such-option"):
            broken.start()

        assert set(lifeline._open) == before
        assert not any(member.running for member in broken.members)

    def test_a_member_of_a_cluster_that_was_not_started_cannot_be(self, etcd_binary):
        """
        Its ports and its peers are not known yet.
        """
        with pytest.raises(errors.UsageError, match="not started"):
            EtcdCluster(3, etcd_binary).members[0].start()


class TestEndpoints:
    def test_who_knows_of_one_member_can_ask_for_the_others(self, cluster, only):
        """
        Then the one that it knew may go.
        """
        known = cluster.members[0]
        coord = only(known)

        endpoints = coord.client.refresh_endpoints()
        known.kill()

        assert {*endpoints} == {*cluster.endpoints}
        assert coord.kv.get("/nothing", timeout=30) is None


class TestFaults:
    def test_when_the_leader_is_killed_another_one_leads(self, cluster, namespace):
        """
        What was acknowledged is there, and the cluster serves.
        """
        killed = cluster.leader()
        with coordkit.connect(cluster.url, namespace=namespace, timeout=15) as coord:
            coord.kv.put(f"/{namespace}/kept", b"value")

            killed.kill()

            assert cluster.leader() is not killed
            assert coord.kv.get(f"/{namespace}/kept").value == b"value"
            assert coord.kv.delete(f"/{namespace}/kept")

    def test_a_killed_member_comes_back(self, cluster, only, namespace):
        """
        At the same endpoint, as the same member, and learns what happened without it.
        """
        member = next(each for each in cluster.members if each is not cluster.leader())
        endpoint, member_id = member.endpoint, member.status().header.member_id
        member.kill()
        only(cluster.leader()).kv.put(f"/{namespace}/meanwhile", b"value")

        member.start()

        assert (member.endpoint, member.status().header.member_id) == (endpoint, member_id)
        assert only(member).kv.delete(f"/{namespace}/meanwhile")

    def test_when_the_leader_is_paused_another_one_leads(self, cluster):
        """
        A leader that does not answer is replaced; when it goes on it follows.
        """
        paused = cluster.leader()

        with pause(paused):
            heir = cluster.leader()

        assert heir is not paused
        assert cluster.leader() in cluster.members
        assert paused.awake

    def test_a_restarted_leader_hands_over(self, cluster):
        """
        In good order: it comes back, and one leads.
        """
        leader = cluster.leader()
        pid = leader.pid

        leader.restart()

        assert leader.pid != pid
        assert cluster.leader() in cluster.members

    def test_all_killed_come_back_one_by_one(self, cluster, only, namespace):
        """
        The first one cannot serve alone, and is not waited for; with the second one they do.
        """
        only(cluster.members[0]).kv.put(f"/{namespace}/kept", b"value")
        for member in cluster.members:
            member.kill()

        for member in cluster.members:
            member.start()

        assert only(cluster.leader()).kv.delete(f"/{namespace}/kept")

    def test_a_minority_has_no_leader(self, cluster):
        """
        One of three may think what it likes: nobody leads.
        """
        for member in cluster.members[1:]:
            member.kill()

        assert not cluster.has_quorum
        with pytest.raises(errors.DeadlineExceeded, match="named no leader"):
            cluster.leader(timeout_s=0.3)


class TestLeader:
    @pytest.mark.parametrize(
        ("said", "leader"),
        [
            ([(6, 2), (6, 2), (6, 2)], 2),
            ([(5, 1), (6, 2), (6, 2)], 2),  # the first was cut off, and still believes in itself
            ([(5, 1), (6, 2), None], None),
            ([(6, 0), (6, 2), (6, 0)], None),  # an election is under way
            ([(6, 2), None, (6, 2)], None),  # they name one who does not answer
        ],
    )
    def test_it_is_whom_a_majority_names_for_one_term(self, etcd_binary, monkeypatch, said, leader):
        """
        What each member says: its term, and who leads; None does not answer.
        """
        cluster = EtcdCluster(3, etcd_binary)
        answers = dict(zip(cluster.members, enumerate(said, 1), strict=True))

        def status(member, limit=None) -> messages.StatusResponse:
            member_id, answer = answers[member]
            if answer is None:
                raise errors.Unavailable("nobody there")
            header = messages.ResponseHeader(member_id=member_id)
            return messages.StatusResponse(header=header, raftTerm=answer[0], leader=answer[1])

        monkeypatch.setattr(Member, "awake", True)
        monkeypatch.setattr(Member, "status", status)

        if leader is None:
            with pytest.raises(errors.DeadlineExceeded):
                cluster.leader(timeout_s=0)
        else:
            assert cluster.leader(timeout_s=0) is cluster.members[leader - 1]


class TestMoveLeader:
    def test_to_a_named_member(self, cluster):
        """
        It leads when the call returns; asked of itself, nothing happens.
        """
        follower = next(each for each in cluster.members if each is not cluster.leader())

        assert cluster.move_leader(follower) is follower
        assert cluster.leader() is follower
        assert cluster.move_leader(follower) is follower

    def test_to_whoever_is_next(self, cluster):
        """
        Without a name it goes round; a member that is down is passed over.
        """
        start = cluster.members.index(cluster.leader())
        following = [cluster.members[(start + step) % 3] for step in (1, 2)]

        following[0].kill()

        assert cluster.move_leader() is following[1]

    def test_nobody_else_is_there(self, cluster, monkeypatch):
        """
        A leader alone keeps leading, and the caller is told.
        """
        leader = cluster.leader()
        monkeypatch.setattr(cluster, "leader", lambda timeout_s=0.0: leader)
        for member in cluster.members:
            if member is not leader:
                member.kill()

        with pytest.raises(errors.UsageError, match="no other member"):
            cluster.move_leader()


class TestEnd:
    def test_stop_leaves_nothing(self, etcd_binary):
        """
        A paused member included; a second stop() is no error, and a later start() is a new cluster.
        """
        cluster = EtcdCluster(3, etcd_binary, arguments=QUICK)
        cluster.start()
        folders = [member.folder for member in cluster.members]
        pids = [pid for member in cluster.members for pid in (member.pid, member._lifeline.watcher_pid)]
        cluster.members[1].pause()

        cluster.stop()
        cluster.stop()

        assert not any(map(os.path.exists, folders))
        assert not any(map(processes.lives, pids))

    def test_it_dies_with_the_process_that_started_it(self, child, eventually, etcd_binary):
        """
        All members, their watchers and their folders.
        """
        parent = child(STARTS_ONE_AND_WAITS, etcd_binary)
        lines = [parent.stdout.readline().split() for _ in range(3)]
        pids = [int(pid) for line in lines for pid in line[:2]]
        assert all(map(processes.lives, pids))

        parent.kill()

        eventually(lambda: not any(map(processes.lives, pids)))
        assert not any(os.path.exists(folder) for *_, folder in lines)


class TestTls:
    def test_members_ask_for_certificates(self, etcd_binary, tmp_path, namespace):
        """
        The URL brings what a client needs: all endpoints, the authority, a certificate.
        """
        certificates = Certificates(tmp_path)

        with EtcdCluster(3, etcd_binary, arguments=QUICK, tls=certificates) as cluster:
            assert all(endpoint.startswith("https://127.0.0.1:") for endpoint in cluster.endpoints)
            with coordkit.connect(cluster.url, namespace=namespace) as coord, coord.lock("secret") as lock:
                assert lock.held
            moved = cluster.move_leader()
            assert cluster.leader() is moved
