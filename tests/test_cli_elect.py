"""`coordkit elect` and `coordkit once`: what they print, what they run, how they end."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable

import consoles
import pytest
from consoles import Told
from contract.players import wait_until

from coordkit import SlotState
from coordkit.cli import failure

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _threads_only(mode, monkeypatch):
    if mode != "threads":
        pytest.skip("the command line is no program that gevent patches")
    consoles.clear_environment(monkeypatch)


@pytest.fixture
def url(etcd, namespace, monkeypatch) -> str:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COORDKIT_URL", f"etcd://{etcd.endpoint}/{namespace}?ttl=2")
    return os.environ["COORDKIT_URL"]


@pytest.fixture
def cli(capsys, url) -> Callable[..., Told]:
    """Runs a command in this process."""

    return functools.partial(consoles.run, capsys)


@pytest.fixture
def start(url):
    """Starts a command as a process of its own, which is killed at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "coordkit", *words]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen(command, text=True, **pipes))
        return started[-1]

    yield run

    for each in started:
        each.kill()
        each.communicate()


@pytest.fixture
def ended(start) -> Callable[..., Told]:
    """Runs a command to its end, as a process of its own."""

    def run(*words: str) -> Told:
        process = start(*words)
        out, err = process.communicate(timeout=40)
        return Told(process.returncode, out, err)

    return run


class TestElections:
    def test_who_leads_and_what_follows_is_told_a_line_each(self, cli, coord):
        """
        For people, and as JSON; what a terminal must not see is made plain.
        """
        election = coord.election("chair")
        assert cli("elect", "observe", "chair", "--count", "1").out == "nobody leads\n"
        with election.campaign("h\x1b[31m\u00fc") as leadership:
            told = cli("elect", "observe", "chair", "--count", "1")
            document = json.loads(cli("elect", "observe", "chair", "--count", "1", "--json").out)

        assert f"leads (fence {leadership.fence}, lease {coord.session.lease_id:016x})" in told.out
        assert "\x1b" not in told.out
        assert document == {
            "leader": True,
            "value": "h\x1b[31m\u00fc",
            "key": leadership.key.decode(),
            "lease": f"{coord.session.lease_id:016x}",
            "fence": leadership.fence,
            "revision": leadership.fence,
        }
        told = cli("elect", "observe", "chair", "--for", "0.2", "--json")
        assert (told.status, json.loads(told.out)) == (0, {"leader": False})

    def test_the_elections_and_their_candidates(self, cli, coord):
        """
        `ls` has a row for each, `show` one for each candidate.
        """
        assert "nobody stands" in cli("elect", "ls").out
        assert cli("elect", "show", "chair").status == 1
        with coord.election("chair").campaign("me") as leadership:
            listed, shown = cli("elect", "ls"), cli("elect", "show", "chair")
            (one,) = json.loads(cli("elect", "ls", "--json").out)["elections"]

        assert coord.settings.identity in listed.out and "chair" in listed.out
        assert (shown.status, str(leadership.fence) in shown.out) == (0, True)
        assert one["holders"][0]["fence"] == leadership.fence

    def test_a_leader_is_deposed(self, cli, coord):
        """
        The one that is meant, by its fence; it learns of that.
        """
        assert "nobody leads" in cli("elect", "resign", "chair", "--yes").err
        leadership = coord.election("chair").campaign("me")

        other = cli("elect", "resign", "chair", "--yes", "--fence", str(leadership.fence + 1))
        assert (other.status, leadership.is_lost) == (1, False)
        told = cli("elect", "resign", "chair", "--yes")

        assert told.status == 0
        assert leadership.lost.wait(10)


class TestOnce:
    SLOT = ("--slot", "s", "--")

    @pytest.fixture(autouse=True)
    def _clean(self, coord, namespace):
        yield
        coord.kv.delete_prefix(f"/{namespace}/once/")

    def test_the_second_is_silent(self, ended, coord):
        """
        And ends with 0: cron has nothing to mail.
        """
        first = ended(
            "once", "report", *self.SLOT, "sh", "-c", "echo $COORDKIT_ONCE_SLOT $COORDKIT_ONCE_ATTEMPT"
        )
        second = ended("once", "report", *self.SLOT, "echo", "twice")

        assert first == Told(0, "s 1\n", "")
        assert second == Told(0, "", "")
        assert coord.once("report", slot="s").state().state is SlotState.DONE

    def test_a_failure_is_the_commands(self, ended, cli):
        """
        Its status is ours, and remembered.
        """
        told = ended("once", "report", "--json", *self.SLOT, "sh", "-c", "exit 3")

        assert told.status == 3
        assert [json.loads(line)["event"] for line in told.err.splitlines()] == [
            "claimed",
            "started",
            "ended",
        ]
        (slot,) = json.loads(cli("once", "report", "--history", "--json").out)["slots"]
        assert (slot["state"], slot["error"]) == ("failed", "exit status 3")
        assert "exit status 3" in cli("once", "report", "--history").out
        assert "taken" in ended("once", "report", "--json", *self.SLOT, "true").err

    def test_a_slot_by_the_clock(self, ended, coord):
        """
        It is named by when the period began.
        """
        assert ended("once", "report", "--slot", "1w", "--retention", "1h", "--", "true").status == 0

        (slot,) = coord.once("report", slot="any").history()
        assert slot.name.endswith("T000000Z")

    def test_a_machine_that_died_leaves_it_abandoned(self, start, ended, coord):
        """
        Only who allows more attempts runs it again.
        """
        process = start("once", "report", *self.SLOT, "sh", "-c", "echo began; exec sleep 1000")
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        once = coord.once("report", slot="s")
        wait_until(lambda: once.state().state is SlotState.ABANDONED, what="the end of its session")

        assert ended("once", "report", *self.SLOT, "echo", "again").out == ""
        again = ended("once", "report", "--attempts", "2", *self.SLOT, "echo", "again")

        assert again == Told(0, "again\n", "")
        assert once.state().attempt == 2

    def test_with_one_attempt_a_lost_session_does_not_end_the_command(self, start, coord, namespace):
        """
        Nobody else runs it; how it went is kept all the same.
        """
        process = start("once", "report", "--json", *self.SLOT, "sh", "-c", "echo began; read go; echo $go")
        assert process.stdout.readline() == "began\n"
        session = coord.once("report", slot="s").state().session
        revoke(coord, session)
        assert coord.once("report", slot="s").state().state is SlotState.ABANDONED

        out, _ = process.communicate("on\n", timeout=30)

        assert (process.returncode, out) == (0, "on\n")
        assert coord.once("report", slot="s").state().state is SlotState.DONE

    def test_with_more_attempts_it_does(self, start, coord):
        """
        For another may run it from then on; the status is 76.
        """
        words = ("--attempts", "2", *self.SLOT, "sh", "-c", "echo began; exec sleep 1000")
        process = start("once", "report", *words)
        assert process.stdout.readline() == "began\n"
        revoke(coord, coord.once("report", slot="s").state().session)

        _, err = process.communicate(timeout=30)

        assert process.returncode == failure.LOST
        assert "lost" in err

    @pytest.mark.parametrize(
        ("words", "status"),
        [
            (("--slot", "s"), failure.USAGE),
            (("--", "true"), failure.USAGE),
            (("--slot", "0m", "--", "true"), failure.USAGE),
            (("--history", "--", "true"), failure.USAGE),
            (("--slot", "s", "--", "/no/such/program"), 127),
        ],
    )
    def test_what_cannot_be_run(self, ended, coord, words, status):
        """
        Takes no slot.
        """
        assert ended("once", "report", *words).status == status
        assert coord.once("report", slot="s").history() == []


def revoke(coord, lease: int) -> None:
    """End a session as etcd does when its lease runs out."""
    from coordkit.etcd import lease as leases

    leases.revoke(coord.client, lease, coord.client.deadline(5))


class TestRun:
    def test_a_command_runs_where_it_is_elected(self, start, coord):
        """
        It knows its fence; the next one is started when it has ended.
        """
        election = coord.election("chair")
        command = ("--", "sh", "-c", "echo $COORDKIT_ELECTION_FENCE; read go; exit $go")
        first = start("elect", "run", "chair", "--value", "first", *command)
        fence = int(first.stdout.readline())
        second = start("elect", "run", "chair", "--value", "second", *command)
        wait_until(lambda: len(election.contenders()) == 2, what="the second candidacy")
        assert [each.value for each in election.contenders()] == [b"first", b"second"]
        assert election.leader().fence == fence

        first.communicate("3\n", timeout=30)

        assert first.returncode == 3
        assert int(second.stdout.readline()) > fence
        assert election.leader().value == b"second"
        second.communicate("0\n", timeout=30)
        assert second.returncode == 0
        assert election.leader() is None

    def test_a_command_is_ended_when_its_leader_is_deposed(self, start, cli, coord):
        """
        By `elect resign`; the status is 76.
        """
        process = start("elect", "run", "chair", "--", "sh", "-c", "echo began; exec sleep 1000")
        assert process.stdout.readline() == "began\n"

        assert cli("elect", "resign", "chair", "--yes").status == 0

        _, err = process.communicate(timeout=30)
        assert (process.returncode, "lost" in err) == (failure.LOST, True)

    def test_who_is_not_elected_in_time_runs_nothing(self, ended, coord):
        """
        The status is 75, or that of -E.
        """
        with coord.election("chair").campaign("me"):
            told = ended("elect", "run", "chair", "-n", "--", "echo", "ran")
            other = ended("elect", "run", "chair", "-w", "0.1", "-E", "9", "--", "echo", "ran")

        assert (told.status, told.out) == (failure.NOT_ACQUIRED, "")
        assert (other.status, other.out) == (9, "")
