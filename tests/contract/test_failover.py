"""Failover: what contenders see while their cluster's leader fails, and what each request does about it."""

from __future__ import annotations

import math
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from contract.players import Attempt, wait_until
from interleavings.meddler import Call, Meddler

import coordkit
from coordkit.etcd import client as clients
from coordkit.testing import EtcdCluster, FaultProxy, failover
from coordkit.testing.history import Kind, Operation, Result

QUICK = ("--heartbeat-interval=20", "--election-timeout=200")
PAUSE_S = 1.0  # the long form waits until the lock is passed on without the paused member


def run(cluster: EtcdCluster, path: pathlib.Path, faults: list[str], longest_s: float) -> failover.Report:
    with failover.Drill(cluster, path) as drill:
        for fault in faults:
            drill.strike(fault, longest_s)
    report = drill.report()
    print(report)
    for violation in report.verdict.violations[:5]:
        print(violation.rule, violation.why)
    return report


def test_each_fault_once(etcd_binary, tmp_path):
    """
    Nobody overlaps, every wait ends within its deadline, and the lock is passed on after each fault.
    """
    faults = [*failover.FAULTS, "killed"]

    with EtcdCluster(3, etcd_binary, arguments=QUICK) as cluster:
        report = run(cluster, tmp_path / "history.jsonl", faults, PAUSE_S)

    assert [fault.kind for fault in report.faults] == faults
    assert report.verdict.sound
    assert report.verdict.holds >= failover.GRANTS * len(faults)
    assert report.late == ()
    assert max(report.interruptions_s) < failover.WAIT_S


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_thirty_faults(etcd_binary, tmp_path):
    """
    Ten of each kind, on a cluster as it comes: a paused leader wakes up only when the lock is passed on.
    """
    faults = [*failover.FAULTS] * 10

    with EtcdCluster(3, etcd_binary) as cluster:
        report = run(cluster, tmp_path / "history.jsonl", faults, failover.PATIENCE_S)

    assert report.verdict.sound
    assert report.verdict.holds >= failover.GRANTS * len(faults)
    assert report.late == ()
    assert max(report.interruptions_s) < failover.WAIT_S


class TestAMemberThatKeepsARequest:
    """A follower says nothing for seven seconds when the leader died to whom it had passed a request on."""

    @pytest.fixture
    def meddler(self, monkeypatch) -> Iterator[Meddler]:
        meddler = Meddler.installed(monkeypatch)
        monkeypatch.setattr(clients, "PATIENCE_S", 0.2)
        yield meddler
        meddler.end()

    @pytest.fixture
    def prefix(self, namespace: str) -> bytes:
        return f"/{namespace}/".encode()

    def test_a_join_is_made_again(self, coord_factory, meddler, prefix):
        """
        Within the acquire's time; the one that was kept does nothing any more when it arrives.
        """
        lock = coord_factory(ttl=60).lock("a")
        kept = meddler.hold_back(lambda call: call.puts(prefix + b"lock/"), patient=True)

        assert lock.acquire(timeout=5)

        lock.release()
        kept.deliver()
        assert not lock.locked()

    def test_a_release_is_made_again(self, coord_factory, meddler, prefix):
        """
        The next in line need not wait for the answer to the first one.
        """
        lock = coord_factory(ttl=60).lock("a")
        lock.acquire()
        heir = Attempt(coord_factory(ttl=60).lock("a"))
        wait_until(lambda: len(lock.contenders()) == 2)
        kept = meddler.hold_back(lambda call: call.deletes(prefix + b"lock/"), patient=True)

        releasing = threading.Thread(target=lock.release)
        releasing.start()

        heir.wait_until_held(within_s=5).lock.release()
        releasing.join()
        kept.deliver()

    def test_a_session_opens(self, coord_factory, meddler, prefix):
        """
        Its key is put again; the one that was kept finds it there.
        """
        coord = coord_factory(ttl=60)
        kept = meddler.hold_back(lambda call: call.puts(prefix + b"session/"), patient=True)

        session = coord.session

        kept.deliver()
        session.check()

    def test_a_read_is_made_again(self, coord, meddler, prefix):
        """
        A raw write is not: only its program knows whether that is safe.
        """

        def of_the_key(call: Call) -> bool:
            return call.range is not None and call.range.key == prefix + b"a"

        meddler.hold_back(of_the_key, patient=True)

        assert coord.kv.get(prefix + b"a", timeout=5) is None
        assert meddler.count(of_the_key) == 2


class TestAMemberThatFallsSilent:
    """It was paused, or its machine is gone: no connection breaks."""

    @pytest.fixture
    def proxy(self, etcd) -> Iterator[FaultProxy]:
        with FaultProxy(etcd.endpoint) as proxy:
            yield proxy

    @pytest.fixture
    def coord(self, etcd, proxy, namespace) -> Iterator[coordkit.Coordinator]:
        """It is connected to the proxy."""
        with coordkit.connect([proxy.endpoint, etcd.endpoint], namespace=namespace) as coord:
            if str(coord.client._channel.address) != proxy.endpoint:
                coord.client.drop_channel("a test wants the other one")
                coord.kv.get("a")
            yield coord

    def test_another_is_asked(self, coord, etcd, proxy, monkeypatch):
        """
        Once a request was followed by no sign of life at all.
        """
        monkeypatch.setattr(clients, "PATIENCE_S", 0.3)
        monkeypatch.setattr(clients, "SILENCE_S", 0.2)

        proxy.half_open()

        coord.kv.get("a", timeout=10)
        assert str(coord.client._channel.address) == etcd.endpoint

    def test_who_only_waits_leaves_it_too(self, coord, etcd, proxy, namespace):
        """
        A waiter asks nothing; its connection is asked for a sign of life, and given up.

        The silence began a while ago, for a test that cannot wait for all of it.
        """
        with coordkit.connect(etcd.endpoint, namespace=namespace) as other:
            holder = other.lock("a")
            holder.acquire()
            waiter = Attempt(coord.lock("a"))
            wait_until(lambda: len(holder.contenders()) == 2)
            channel = coord.client._channel
            wait_until(lambda: coord._link.watcher._live)

            channel.watchdog.silence_s = 1.0
            proxy.half_open()
            channel.interrupt()

            wait_until(lambda: not channel.usable)
            holder.release()
            waiter.wait_until_held().lock.release()

    def test_it_is_asked_sooner_where_there_are_others(self, coord, etcd):
        """
        With nobody else to turn to, patience costs nothing.
        """
        with coordkit.connect(etcd.endpoint) as alone:
            assert coord.client._channel.watchdog.silence_s < alone.client._channel.watchdog.silence_s

    def test_the_next_dial_is_not_for_the_one_that_ended(self, coord, etcd):
        """
        Whatever ended the connection.
        """
        coord.client._channel.close("as if its server had gone")

        coord.kv.get("a")

        assert str(coord.client._channel.address) == etcd.endpoint


class TestReport:
    """Figures of a history that was written by hand; times in seconds."""

    def acquire(self, invoked: float, completed: float | None, result: Result = Result.OK) -> Operation:
        times: dict[str, Any] = {
            "invoked_ns": int(invoked * 1e9),
            "completed_ns": None if completed is None else int(completed * 1e9),
        }
        return Operation(Kind.ACQUIRE, result, 1, "a", int(invoked), **times)

    def test_an_interruption_is_the_longest_time_without_a_grant(self):
        """
        From the last grant before the fault on; one that the next fault causes is the next one's.
        """
        history = [self.acquire(0, at) for at in (1.0, 2.0, 5.0, 5.5, 9.5, 10.0)]
        faults = [failover.Fault("killed", int(2.5e9), int(4e9)), failover.Fault("moved", int(6e9), int(6e9))]

        assert failover.interruptions_s(history, faults) == (3.0, 4.0)

    def test_a_lock_that_stands_still_for_ever_is_interrupted_for_ever(self):
        """
        What was not granted does not count as a grant.
        """
        history = [self.acquire(0, 1), self.acquire(1, 9, Result.FAIL)]
        faults = [failover.Fault("killed", int(2e9), int(3e9))]

        assert failover.interruptions_s(history, faults) == (math.inf,)

    def test_waits_that_are_late_or_without_an_end_are_found(self):
        """
        However they ended; others are not.
        """
        late = [self.acquire(1, 5), self.acquire(2, 6, Result.UNKNOWN), self.acquire(3, None, Result.INVOKED)]

        assert failover.late([*late, self.acquire(4, 7)], 3.0) == late

    @pytest.mark.parametrize(("percent", "value"), [(50, 2.0), (75, 3.0), (99, 4.0), (0, 1.0)])
    def test_percentiles(self, percent, value):
        """
        The smallest value that so many do not exceed.
        """
        assert failover.percentile([4.0, 1.0, 3.0, 2.0], percent) == value
        assert failover.percentile([], percent) == 0.0
