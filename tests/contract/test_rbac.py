"""What a user may do whose role covers one namespace: every recipe there, and nothing elsewhere."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator

import pytest
from contract.accounts import SECRET, ask, enable_accounts

import coordkit
from coordkit import errors
from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.etcd import lease as leases
from coordkit.testing import LocalEtcd
from coordkit.wire import messages

PAGE = pathlib.Path(__file__).resolve().parents[2] / "SECURITY.md"
QUICK = ("--heartbeat-interval=10", "--election-timeout=100", "--bcrypt-cost=4")


@pytest.fixture(scope="module")
def server(etcd_binary: str) -> Iterator[LocalEtcd]:
    """ann may touch what lies under /ann/, bob nothing at all."""
    with LocalEtcd(etcd_binary, arguments=QUICK) as server:
        enable_accounts(server)
        with coordkit.connect(f"etcd://root:{SECRET}@{server.endpoint}") as root:
            ask(root.client, "Auth/UserAdd", messages.AuthUserAddRequest(name="bob", password=SECRET))
        yield server


@pytest.fixture
def ann(server: LocalEtcd) -> Iterator[coordkit.Coordinator]:
    with coordkit.connect(f"etcd://ann:{SECRET}@{server.endpoint}/ann", ttl=5) as coord:
        yield coord


@pytest.fixture
def bob(server: LocalEtcd) -> Iterator[coordkit.Coordinator]:
    with coordkit.connect(f"etcd://bob:{SECRET}@{server.endpoint}/ann") as coord:
        yield coord


def lock(coord: coordkit.Coordinator) -> None:
    with coord.lock("a") as held, coord.rlock("b"), coord.cohort_lock("c"), coord.multilock(["d", "e"]):
        assert held.txn().then(kv.put("/ann/state", "x")).commit().succeeded
    assert not coord.lock("a").contenders()


def rwlock(coord: coordkit.Coordinator) -> None:
    with coord.rwlock("a").read:
        assert not coord.rwlock("a").write.acquire(timeout=0.05)  # it waits, so it watches
    with coord.rwlock("a").write:
        pass


def semaphore(coord: coordkit.Coordinator) -> None:
    with coord.semaphore("a", 1):
        assert not coord.semaphore("a").acquire(timeout=0.05)
    coord.semaphore("a").resize(2)


def waits_in_line(coord: coordkit.Coordinator) -> None:
    with coord.lock("a"):
        assert not coord.lock("a").acquire(timeout=0.05)


def election(coord: coordkit.Coordinator) -> None:
    with coord.election("a").campaign("v") as term, coord.election("a").observe(timeout=5) as seen:
        term.proclaim("w")
        leader = next(seen)
        assert leader is not None and leader.fence == term.fence


def queue(coord: coordkit.Coordinator) -> None:
    jobs = coord.queue("a", max_length=10)
    jobs.put_many(["1", "2"], priority=3)
    jobs.put("3", dedup_id="x")
    jobs.put("4", delay=0.01)
    for _ in range(4):
        jobs.claim(timeout=10).ack()
    jobs.put("5")
    jobs.claim(timeout=10).bury("for the test")
    assert jobs.purge() == 0


def live_topic(coord: coordkit.Coordinator) -> None:
    topic = coord.topic("live")
    with topic.subscribe() as messages_:
        topic.publish("x")
        assert messages_.get(timeout=10) is not None


def retained_topic(coord: coordkit.Coordinator) -> None:
    topic = coord.topic("kept", retain=100)
    topic.publish("x")
    for kind in ({"start": coordkit.Cursor("c")}, {"start": "all", "group": "g"}):
        with topic.subscribe(**kind) as messages_:
            assert messages_.get(timeout=10) is not None
    topic.trim(0)


def barrier(coord: coordkit.Coordinator) -> None:
    coord.barrier("a", 1).wait(timeout=10)
    double = coord.double_barrier("a", 1)
    assert double.enter(timeout=10) and double.leave(timeout=10)
    coord.barrier("a", 1).abort()
    coord.barrier("a", 1).reset()


def one_key_recipes(coord: coordkit.Coordinator) -> None:
    coord.counter("a").add(2)
    coord.value("a").set("v")
    coord.gate("a").close()
    coord.gate("a").open()
    assert coord.gate("a").wait(timeout=10)
    coord.latch("a", 1).count_down()
    assert coord.latch("a", 1).wait(timeout=10)


def once(coord: coordkit.Coordinator) -> None:
    assert coord.once("job", "slot").run(lambda: "ran") == "ran"
    assert [each.name for each in coord.once("job", "slot").history()] == ["slot"]


RECIPES = [
    lock,
    rwlock,
    semaphore,
    waits_in_line,
    election,
    queue,
    live_topic,
    retained_topic,
    barrier,
    one_key_recipes,
    once,
]


@pytest.mark.parametrize("use", RECIPES, ids=lambda use: use.__name__)
def test_a_recipe_needs_its_namespace_alone(ann, use: Callable[[coordkit.Coordinator], None]):
    """
    Under a role that covers `/ann/`, every recipe works.
    """
    use(ann)


def test_what_lies_elsewhere_is_refused_at_once(server):
    """
    Another namespace, also one whose name begins alike: PermissionDenied, and no wait.
    """
    for namespace in ("anna", "an", "shop"):
        with coordkit.connect(f"etcd://ann:{SECRET}@{server.endpoint}/{namespace}") as coord:
            with pytest.raises(errors.PermissionDenied) as denied:
                coord.lock("a").acquire(timeout=30)
            assert SECRET not in str(denied.value)


def test_a_stranger_reads_nothing_and_ends_no_session(ann, bob):
    """
    bob knows the lease, and may not revoke it: the session key, which he may not touch, hangs on it.
    """
    with pytest.raises(errors.PermissionDenied):
        bob.kv.range("/ann/")

    with pytest.raises(errors.PermissionDenied):
        leases.revoke(bob.client, ann.session.lease_id, Deadline.after(10))

    ann.session.check()
    assert ann.kv.get(ann.session.key) is not None


def test_a_lease_without_keys_is_anybodys(ann, bob):
    """
    What etcd cannot give, and why a session puts its key at once.
    """
    lease, _ = leases.grant(ann.client, 60, Deadline.after(10))

    leases.revoke(bob.client, lease, Deadline.after(10))

    with pytest.raises(errors.LeaseNotFound):
        ann.kv.put("/ann/late", "x", lease=lease)


def test_a_role_that_is_withdrawn_is_told_at_once(server):
    """
    PermissionDenied; with the role back, what was held is given back as ever.
    """
    with (
        coordkit.connect(f"etcd://root:{SECRET}@{server.endpoint}") as root,
        coordkit.connect(f"etcd://ann:{SECRET}@{server.endpoint}/ann") as coord,
    ):
        held = coord.lock("withdrawn")
        held.acquire(timeout=10)
        revoke = messages.AuthUserRevokeRoleRequest(name="ann", role="ann")
        ask(root.client, "Auth/UserRevokeRole", revoke)
        try:
            with pytest.raises(errors.PermissionDenied):
                coord.lock("another").acquire(timeout=10)
        finally:
            grant = messages.AuthUserGrantRoleRequest(user="ann", role="ann")
            ask(root.client, "Auth/UserGrantRole", grant)
        held.release()


def test_the_commands_of_the_page_make_such_a_role(etcd_binary):
    """
    As they stand there, with a password from standard input.
    """
    with LocalEtcd(etcd_binary, arguments=QUICK) as server:
        if server.etcdctl is None:
            pytest.skip("there is no etcdctl beside the server, nor on PATH")
        commands = re.findall(r"^etcdctl (.+)$", PAGE.read_text(), re.MULTILINE)
        for command in commands:
            words = [server.etcdctl, f"--endpoints={server.endpoint}", *shlex.split(command)]
            words += ["--interactive=false"] if command.startswith("user add") else []
            environment = {**os.environ, "ETCDCTL_API": "3"}
            subprocess.run(words, input=f"{SECRET}\n", text=True, env=environment, check=True, timeout=30)

        with coordkit.connect(f"etcd://shop:{SECRET}@{server.endpoint}/shop") as coord, coord.lock("a"):
            pass
        elsewhere = coordkit.connect(f"etcd://shop:{SECRET}@{server.endpoint}/shop2")
        with elsewhere as coord, pytest.raises(errors.PermissionDenied):
            coord.lock("a").acquire(timeout=10)
    assert "auth enable" in commands
