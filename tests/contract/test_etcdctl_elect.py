"""`etcdctl elect` and coordkit stand in one election, and each sees whom the other elects."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest
from contract.players import Call, wait_until
from contract.test_election import Watcher, stand

import coordkit


class EtcdctlElect:
    """An `etcdctl elect` that runs: it prints the leader's key and value, as candidate its own."""

    def __init__(self, command: list[str]) -> None:
        environment = {**os.environ, "ETCDCTL_API": "3"}  # until 3.4 it had to be told
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        self.lines: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def wait_for(self, *lines: bytes) -> None:
        wait_until(lambda: self.lines == list(lines), what=f"{lines}, but {self.lines}")

    def end(self, how: signal.Signals) -> None:
        """SIGINT: it resigns.  SIGKILL: its lease must run out."""
        self.process.send_signal(how)
        self.process.wait(15)
        self._reader.join(15)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def election(coord, namespace: str) -> coordkit.Election:
    return coordkit.Election.at(coord.session, f"/{namespace}/shared")


@pytest.fixture
def etcdctl(etcd, namespace: str) -> Iterator[Callable[..., EtcdctlElect]]:
    """`etcdctl("-l")` observes, `etcdctl("value")` stands."""
    if etcd.etcdctl is None:
        pytest.skip("there is no etcdctl beside the server, nor on PATH")
    started: list[EtcdctlElect] = []

    def start(what: str) -> EtcdctlElect:
        arguments = ["-l", f"/{namespace}/shared"] if what == "-l" else [f"/{namespace}/shared", what]
        started.append(EtcdctlElect([etcd.etcdctl, f"--endpoints={etcd.endpoint}", "elect", *arguments]))
        return started[-1]

    yield start

    for each in started:
        if each.process.poll() is None:
            each.end(signal.SIGINT)


def test_each_leads_in_its_turn_and_all_see_who(election, etcdctl):
    """
    Ours, etcdctl's, ours: in the order in which they came, to our observers and to etcdctl's.
    """
    watching = Watcher(election)
    watching.wait_for(None)
    first = election.campaign(b"first")
    listening = etcdctl("-l")
    listening.wait_for(first.key, b"first")
    other = etcdctl("other")
    wait_until(lambda: len(election.contenders()) == 2, what="etcdctl's candidacy")
    third = stand(election, b"third")
    assert other.lines == []

    first.proclaim(b"louder")
    first.resign()
    wait_until(lambda: len(other.lines) == 2, what="etcdctl's turn")
    assert other.lines[1] == b"other"
    assert election.leader().key == other.lines[0]
    assert third.waiting
    other.end(signal.SIGINT)
    last = third.end()

    watching.wait_for(None, b"first", b"louder", b"other", b"third")
    wait_until(lambda: listening.lines[-1] == b"third", what="etcdctl's view")
    last.resign()
    watching.wait_for(None, b"first", b"louder", b"other", b"third", None)
    watching.close()


def test_a_try_sees_etcdctl(election, etcdctl):
    """
    While it leads nobody else does.
    """
    other = etcdctl("other")
    wait_until(lambda: other.lines, what="etcdctl's turn")

    with pytest.raises(coordkit.AcquireTimeout):
        election.campaign(timeout=0)
    assert [each.value for each in election.contenders()] == [b"other"]

    waiting = Call(election.campaign, b"mine", timeout=15)
    wait_until(lambda: len(election.contenders()) == 2, what="our candidacy")
    other.end(signal.SIGINT)
    waiting.end().resign()
