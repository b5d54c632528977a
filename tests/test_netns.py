"""Members with a network of their own: cut off, lost one way, healed, and nothing of it left behind."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

import coordkit
from coordkit import errors
from coordkit.testing import NetnsCluster, netns, partition

HEARS = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
    ear.bind(("0.0.0.0", 9))
    print("listening", flush=True)
    while True:
        print(ear.recv(100).decode(), flush=True)
"""
SAYS = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
    mouth.sendto(sys.argv[2].encode(), (sys.argv[1], 9))
"""
STARTS_ONE_AND_WAITS = """
    import sys
    from coordkit.testing import NetnsCluster

    cluster = NetnsCluster(3, sys.argv[1])
    cluster.start()
    print(cluster._network.name, flush=True)
    sys.stdin.read()
"""


def left_of(name: str) -> list[str]:
    """The namespaces and links of a network that are there."""
    namespaces = [each.name for each in pathlib.Path("/run/netns").glob(f"{name}*")]
    return namespaces + [each.name for each in pathlib.Path("/sys/class/net").glob(f"{name}*")]
ASKS_AS_NOBODY = """
    import os
    from coordkit.testing import netns

    netns.run("true")  # imports what it needs: nobody may read our modules
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    print(netns.lacking(), flush=True)
"""


class TestPartition:
    def test_a_leader_that_is_cut_off_is_replaced_and_follows_when_it_is_back(self, networked):
        """
        Clients reach both sides all the time.
        """
        old = networked.leader()
        others = [member for member in networked.members if member is not old]

        with partition(networked, old):
            new = networked.leader()
            while new is old:
                new = networked.leader()
            with coordkit.connect(new.url) as coord:
                coord.kv.put("/cut/off", b"1")
            assert old.status().header.member_id != new.status().header.member_id

        assert new in others
        with coordkit.connect(old.url, timeout=30) as coord:
            assert coord.kv.get("/cut/off").value == b"1"

    def test_who_is_with_nobody_serves_nobody(self, networked):
        """
        Until it is healed.
        """
        alone = networked.members[2]
        with coordkit.connect(alone.url, timeout=30) as coord:
            with partition(networked, alone), pytest.raises(errors.CoordError):
                coord.kv.put("/alone", b"", timeout=1)

            coord.kv.put("/alone", b"", timeout=30)


def test_what_is_lost_one_way_comes_back_the_other(networked):
    """
    A third one is heard by both.
    """
    network, heard = networked._network, {}
    ears = [
        subprocess.Popen([*network.enter(number), sys.executable, "-S", "-c", HEARS], stdout=subprocess.PIPE)
        for number in (0, 1)
    ]
    try:
        assert all(ear.stdout.readline() == b"listening\n" for ear in ears)
        networked.drop(networked.members[0], networked.members[1])

        for sender, receiver in ((0, 1), (1, 0), (2, 1), (2, 0)):
            say = [sys.executable, "-S", "-c", SAYS, network.address(receiver), f"from {sender}"]
            subprocess.run([*network.enter(sender), *say], check=True)
        heard = {number: ear.stdout.readline() for number, ear in enumerate(ears)}
    finally:
        for ear in ears:
            ear.kill()
            ear.communicate()

    assert heard == {0: b"from 1\n", 1: b"from 2\n"}


class TestWhatIsLeft:
    def test_nothing_after_a_stop(self, networked, etcd_binary):
        """
        Neither namespaces nor links; and what is gone cannot be cut off.
        """
        with NetnsCluster(1, etcd_binary) as cluster:
            name = cluster._network.name
            assert len(left_of(name)) == 3

        assert left_of(name) == []
        assert len(left_of(networked._network.name)) == 5
        with pytest.raises(errors.UsageError):
            cluster.heal()

    def test_nothing_after_a_start_that_failed(self, networked, etcd_binary, monkeypatch):
        """
        A member that cannot start takes the network with it.
        """
        made = []
        make = netns.Network.make
        monkeypatch.setattr(netns.Network, "make", lambda network: (made.append(network.name), make(network)))

        with pytest.raises(errors.CoordError), NetnsCluster(2, etcd_binary, arguments=["--no-such-option"]):
            pass

        assert made and left_of(made[0]) == []

    def test_nothing_after_its_process_was_killed(self, networked, child, etcd_binary, eventually):
        """
        No hook runs then.
        """
        owner = child(STARTS_ONE_AND_WAITS, etcd_binary)
        name = owner.stdout.readline().strip()
        assert len(left_of(name)) == 5

        owner.kill()

        eventually(lambda: left_of(name) == [], within_s=30)


class TestLacking:
    @pytest.fixture(autouse=True)
    def fresh(self):
        """It is asked anew."""
        netns.lacking.cache_clear()
        yield
        netns.lacking.cache_clear()

    def test_without_the_programs_it_names_the_one_that_is_missing(self, monkeypatch):
        """
        That is what people can mend.
        """
        monkeypatch.setenv("PATH", "/nowhere")

        assert netns.lacking() == "ip is not on PATH"

    def test_without_the_rights_it_says_what_was_refused(self, networked, child):
        """
        Asked by somebody who is not root.
        """
        if os.geteuid() != 0:
            pytest.skip("only root can become somebody else")

        asked = child(ASKS_AS_NOBODY)

        assert "ip netns add" in asked.stdout.readline()
