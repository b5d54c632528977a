"""The commands of the queue: in pipes, with a command for each item, and how they end."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import types

import pytest
from contract.players import wait_until

from coordkit.cli import main, signals
from coordkit.cli.queue import take as taking
from coordkit.deadline import Deadline
from coordkit.etcd import lease as leases

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _threads_only(mode):
    if mode != "threads":
        pytest.skip("the command line is no program that gevent patches")


@pytest.fixture
def jobs(coord, namespace):
    yield coord.queue("jobs", max_deliveries=2)
    coord.kv.delete_prefix(f"/{namespace}/queue/")


@pytest.fixture
def environment(etcd, namespace):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COORDKIT_")}
    url = f"etcd://{etcd.endpoint}/{namespace}?ttl=2"
    return {**inherited, "PYTHONPATH": str(ROOT), "COORDKIT_URL": url}


@pytest.fixture
def here(monkeypatch, environment, capfdbinary, jobs):
    """Runs a command in this process: (status, what it printed)."""
    monkeypatch.setenv("COORDKIT_URL", environment["COORDKIT_URL"])

    def run(*words: str) -> tuple[int, bytes]:
        status = main.main(["queue", *words])
        return status, capfdbinary.readouterr().out

    return run


@pytest.fixture
def start(environment):
    """Starts a command as a process: with pipes."""
    running = []

    def begin(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "coordkit", "queue", *words]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(subprocess.Popen(command, env=environment, **pipes))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


class TestHere:
    def test_put_take_peek_and_len(self, here, jobs):
        """
        Items are lines, or separated by NUL, or fields of a document.
        """
        assert here("put", "jobs", "b", "c") == (0, b"")
        assert here("put", "jobs", "a\nb", "--priority", "0", "--dedup-id", "x") == (0, b"")
        assert here("put", "jobs", "again", "--dedup-id", "x") == (0, b"")
        assert here("len", "jobs") == (0, b"3\n")
        assert here("peek", "jobs", "--count", "2") == (0, b"b\nc\n")

        status, printed = here("take", "jobs", "--json")
        document = json.loads(printed)

        assert (status, document["value"], document["attempt"]) == (0, "b", 1)
        assert here("take", "jobs", "--count", "9", "--wait", "0", "-0") == (0, b"c\0a\nb\0")
        assert here("take", "jobs", "--wait", "0.05") == (75, b"")
        assert json.loads(here("len", "jobs", "--json")[1]) == {"queue": "jobs", "count": 0}

    def test_values_that_begin_with_a_dash_stand_behind_two(self, here, jobs):
        """
        None of them is lost, and none is taken from standard input in their place.
        """
        assert here("put", "jobs", "a", "--", "-1", "--", "-2")[0] == 0

        assert [each.stored for each in jobs.peek(9)] == [b"a", b"-1", b"--", b"-2"]

    def test_options_stand_before_between_and_behind_the_values(self, here, jobs):
        """
        The values keep their order; a dash among them is standard input, as everywhere.
        """
        assert here("put", "--priority", "1", "jobs", "a") == (0, b"")
        assert here("put", "jobs", "--priority", "2", "b") == (0, b"")
        assert here("put", "jobs", "c", "--priority=3", "d", "--delay", "0", "-- e", "--", "-f") == (0, b"")
        assert here("put", "jobs", "g", "h", "--priority", "4") == (0, b"")

        assert [each.stored for each in jobs.peek(9)] == [b"a", b"b", b"c", b"d", b"-- e", b"-f", b"g", b"h"]
        assert here("put", "jobs", "--dedup-id", "x", "-") == (2, b"")
        assert here("put", "jobs", "i", "--dedup-id", "x", "j") == (2, b"")

    def test_a_mistaken_option_is_what_is_complained_of(self, environment, jobs, monkeypatch, capsys):
        """
        Not the value behind it.
        """
        monkeypatch.setenv("COORDKIT_URL", environment["COORDKIT_URL"])

        assert main.main(["queue", "put", "jobs", "--priority=-1", "x"]) == 2
        assert "-1" in capsys.readouterr().err

        with pytest.raises(SystemExit) as ended:
            main.main(["queue", "put", "jobs", "--priorities", "1", "x"])

        assert ended.value.code == 2
        complained = capsys.readouterr().err
        assert "usage: coordkit queue put" in complained
        assert "arguments: --priorities; values that begin with a dash stand behind --" in complained
        assert jobs.qsize() == 0

    def test_a_word_too_many_is_refused_where_there_are_no_values(self, jobs, capsys):
        """
        As ever.
        """
        with pytest.raises(SystemExit) as ended:
            main.main(["queue", "len", "jobs", "--json", "x"])

        assert ended.value.code == 2
        assert capsys.readouterr().err.endswith("unrecognized arguments: x\n")

    def test_documents_hold_what_is_no_text(self, here, jobs):
        """
        In base64, and they say so.
        """
        jobs.put(b"\xff")

        document = json.loads(here("peek", "jobs", "--json")[1])

        assert document["items"][0]["encoding"] == "base64"

    def test_purge_and_dead_letters(self, here, jobs):
        """
        They are shown with their reasons, put back, or dropped.
        """
        ids = jobs.put_many(["a", "b", "c"])
        for job in jobs.claim_many(2):
            job.bury("because")

        document = json.loads(here("dead", "jobs", "--json")[1])
        assert [(each["id"], each["value"], each["why"]) for each in document["dead"]] == [
            (ids[0], "a", "because"),
            (ids[1], "b", "because"),
        ]
        assert b"because" in here("dead", "jobs")[1]
        assert here("dead", "jobs", "--requeue", ids[0]) == (0, b"1 requeued\n")
        assert here("dead", "jobs", "--requeue", ids[0])[0] == 1
        assert here("dead", "jobs", "--drop", "all", "--json")[0] == 0
        assert here("purge", "jobs", "--yes") == (0, b"2 items were deleted\n")
        assert b"no dead letters" in here("dead", "jobs")[1]

    @pytest.mark.parametrize(
        "words",
        [
            ("put", "jobs", "a", "b", "--dedup-id", "x"),
            ("put", "jobs", "a", "--priority=-1"),
            ("put", "", "a"),
            ("take", "jobs", "--"),
            ("dead", "jobs", "--drop", "../x"),
        ],
    )
    def test_mistakes_have_status_2(self, here, words):
        """
        And change nothing.
        """
        assert here(*words)[0] == 2

    def test_a_command_gets_the_item_and_decides(self, here, jobs, tmp_path):
        """
        Exit status 0 acks; any other gives it back, and at last it is a dead letter.
        """
        ids = jobs.put_many(["good", "bad"])
        script = 'read item; echo "$COORDKIT_QUEUE_ATTEMPT $item $COORDKIT_QUEUE_ID"; [ "$item" = good ]'
        command = ("--max-deliveries", "2", "--wait", "5", "--", "sh", "-c", script)

        ends = [here("take", "jobs", *command) for _ in range(3)]

        assert ends == [
            (0, f"1 good {ids[0]}\n".encode()),
            (1, f"1 bad {ids[1]}\n".encode()),
            (1, f"2 bad {ids[1]}\n".encode()),
        ]
        assert [letter.why for letter in jobs.dead_letters] == ["exit status 1"]
        assert here("take", "jobs", "--", "/nowhere/program")[0] == 127


class TestProcesses:
    def test_a_pipe_is_put_as_it_comes(self, start, jobs):
        """
        A line does not wait for the next one; the last needs no newline.
        """
        put = start("put", "jobs")
        put.stdin.write(b"first\nsecond\nthi")
        put.stdin.flush()
        wait_until(lambda: jobs.qsize() == 2)

        out, err = put.communicate(b"rd\nlast")

        assert (put.returncode, out, err) == (0, b"", b"")
        assert [each.stored for each in jobs.peek(9)] == [b"first", b"second", b"third", b"last"]

    def test_a_dash_is_standard_input(self, start, here, jobs):
        """
        Where it stands among the values; behind two dashes it is an item.  A dedup id is for one item alone.
        """
        put = start("put", "jobs", "a", "-", "b", "--", "-")
        put.communicate(b"first\nlast")
        assert here("put", "jobs", "--dedup-id", "x", "--", "-") == (0, b"")

        assert [each.stored for each in jobs.peek(9)] == [b"a", b"first", b"last", b"b", b"-", b"-"]
        assert here("put", "jobs", "-", "--dedup-id", "y") == (2, b"")

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_gives_back_what_was_not_finished(self, start, jobs, tmp_path, number, status):
        """
        Without a traceback, and with the status that shells expect.
        """
        mark = tmp_path / "began"
        take = start("take", "jobs", "--follow", "--", "sh", "-c", f"touch {mark}; exec sleep 60")
        jobs.put(b"x")
        wait_until(mark.exists)

        take.send_signal(number)
        out, err = take.communicate(timeout=20)

        assert (take.returncode, out, err) == (status, b"", b"")
        job = jobs.claim(timeout=5)
        assert job.attempt == 2
        job.ack()

    def test_a_signal_while_the_command_starts_ends_it_too(self, monkeypatch):
        """
        It is raised once the command is known, and not while nobody could end it.
        """
        begun = []

        def start(*arguments):
            begun.append(subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE))
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):
                pass  # the handler runs here
            return begun[0]

        monkeypatch.setattr(taking, "_start", start)
        job = types.SimpleNamespace(id="1", attempt=1, fence=1, value=b"", lost=threading.Event())
        arguments = argparse.Namespace(name="jobs", child=["sleep", "60"])

        with signals.Inbox() as inbox, pytest.raises(signals.Signalled):
            taking._run(arguments, job, inbox)

        assert begun[0].poll() == -signal.SIGTERM

    def test_a_reader_that_leaves_ends_it_quietly(self, start, jobs):
        """
        As in `take --follow | head`: what could not be printed is given back.
        """
        jobs.put_many(["a", "b"])
        take = start("take", "jobs", "--follow")
        assert take.stdout.readline() == b"a\n"
        assert take.stdout.readline() == b"b\n"
        take.stdout.close()

        jobs.put(b"c")

        assert take.wait(20) == 141
        assert take.stderr.read() == b""
        assert jobs.claim(timeout=5).value == b"c"

    def test_a_claim_that_is_lost_ends_the_command(self, start, jobs, coord, tmp_path):
        """
        Status 76; the item is another's.
        """
        mark = tmp_path / "began"
        take = start("take", "jobs", "--", "sh", "-c", f"touch {mark}; exec sleep 60")
        jobs.put(b"x")
        wait_until(mark.exists)
        (claim,) = coord.kv.range(jobs._site.layout.claims)

        leases.revoke(coord.client, claim.lease, Deadline.after(5))

        assert take.wait(20) == 76
        assert jobs.claim(timeout=5).attempt == 2
