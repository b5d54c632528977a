"""`coordkit server`: a private etcd in the foreground, and what is kept of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import coordkit
from coordkit import errors
from coordkit.cli import failure, main
from coordkit.testing import EtcdFailed
from coordkit.testing.kept import KeptCluster


@pytest.fixture(autouse=True)
def _threads_only(mode, etcd_binary, monkeypatch):
    if mode != "threads":
        pytest.skip("the command line is no program that gevent patches")
    monkeypatch.setenv("COORDKIT_ETCD", etcd_binary)


@pytest.fixture
def server() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command."""
    started = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "coordkit", "server", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class TestServer:
    def test_it_serves_until_it_is_asked_to_end_and_comes_back(self, server, tmp_path):
        """
        Ctrl-C and SIGTERM are good ends; with a folder, the next one has the same address and data.
        """
        folder = str(tmp_path / "data")
        first = server("--data-dir", folder)
        line = first.stdout.readline()
        url = line.strip().partition("export COORDKIT_URL=")[2]
        with coordkit.connect(url) as coord:
            coord.kv.put("/coordkit/kept", b"yes")
        first.send_signal(signal.SIGTERM)
        _, said = first.communicate(timeout=30)

        second = server("--data-dir", folder, "--json")
        document = json.loads(second.stdout.readline())
        with coordkit.connect(document["url"]) as coord:
            value = coord.kv.get("/coordkit/kept").value
        os.kill(document["members"][0]["pid"], 0)
        second.send_signal(signal.SIGINT)
        second.communicate(timeout=30)

        assert (first.returncode, second.returncode) == (0, 0)
        assert (document["url"], value) == (url, b"yes")
        assert f"at {url}; Ctrl-C ends it" in said
        with pytest.raises(ProcessLookupError):
            os.kill(document["members"][0]["pid"], 0)

    def test_a_server_that_dies_is_told(self, server):
        """
        With the end of its log.
        """
        process = server("--json")
        document = json.loads(process.stdout.readline())
        os.kill(document["members"][0]["pid"], signal.SIGKILL)

        _, said = process.communicate(timeout=30)

        assert process.returncode == 1
        assert f"the server at {document['members'][0]['endpoint']} died" in said

    def test_without_an_etcd_there_is_none(self, monkeypatch, capsys):
        """
        Exit status 69, and how to get one.
        """
        monkeypatch.setenv("COORDKIT_ETCD", "/nowhere/etcd")

        assert main.main(["server"]) == failure.UNREACHABLE
        assert "cannot be run" in capsys.readouterr().err


class TestKeptCluster:
    def test_three_members_come_back_with_their_data(self, tmp_path):
        """
        On the same ports; with another number of members, or another port, the folder is refused.
        """
        with KeptCluster(3, tmp_path) as cluster:
            endpoints = cluster.endpoints
            with coordkit.connect(cluster.url) as coord:
                coord.kv.put("/coordkit/kept", b"yes")
        with KeptCluster(None, tmp_path) as cluster, coordkit.connect(cluster.url) as coord:
            again, value = cluster.endpoints, coord.kv.get("/coordkit/kept").value

        assert (again, value) == (endpoints, b"yes")
        with pytest.raises(errors.InvalidValue, match="made with 3 members"):
            KeptCluster(1, tmp_path)
        with pytest.raises(errors.InvalidValue, match="made with port"):
            KeptCluster(3, tmp_path, port=2379)

    def test_a_port_that_is_taken_is_told_at_once(self, etcd):
        """
        Not after the patience for a start.
        """
        port = int(etcd.endpoint.rpartition(":")[2])

        with pytest.raises(EtcdFailed, match=f"port {port} cannot be had"):
            KeptCluster(1, port=port).start()

    def test_a_plan_that_makes_no_sense_is_refused(self, tmp_path):
        """
        Whatever is in the folder.
        """
        (tmp_path / "coordkit.json").write_text('[{"name": 1}]')

        with pytest.raises(errors.InvalidValue, match="makes no sense"):
            KeptCluster(None, tmp_path)
