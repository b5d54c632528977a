"""`coordkit topic`, as a shell runs it."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from coordkit.cli import main

ROOT = pathlib.Path(__file__).resolve().parent.parent

pytestmark = [
    pytest.mark.coordkit_leaves("keys"),
    pytest.mark.skipif(
        os.environ.get("COORDKIT_TEST_MODE") == "gevent", reason="the command line is not patched"
    ),
]


@pytest.fixture
def start(etcd, namespace, coord) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts a command: `start("pub", "chat", "hello")`."""
    started = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        url = f"etcd://{etcd.endpoint}/{namespace}"
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "coordkit", "topic", arguments[0], "--url", url, *arguments[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(etcd, namespace, coord, capfdbinary) -> Callable[..., tuple[int, bytes, bytes]]:
    """Runs one to its end, in this process: its status, what it said, what it complained about."""

    def run(*arguments: str) -> tuple[int, bytes, bytes]:
        url = f"etcd://{etcd.endpoint}/{namespace}"
        status = main.main(["topic", arguments[0], "--url", url, *arguments[1:]])
        said, complained = capfdbinary.readouterr()
        return status, said, complained

    return run


def test_lines_go_in_and_come_out(start, run, coord):
    """
    In order, as bytes; the revision of the last is printed.
    """
    lines = b"".join(b"line %d \xff\n" % number for number in range(1000))

    process = start("pub", "--retain", "all", "log")
    said, _ = process.communicate(lines + b"no newline", timeout=40)
    assert process.returncode == 0
    assert int(said) <= coord.kv.txn().commit().revision

    assert run("sub", "log", "--from", "all", "--count", "1001") == (0, lines + b"no newline\n", b"")


def test_messages_are_documents_if_wanted(run, coord):
    """
    With text, or with base64 of what is none.
    """
    run("pub", "--retain", "100", "log", "one", "two")
    last = coord.topic("log", retain=100).publish(b"\xff")

    status, said, _ = run("sub", "log", "--from", "all", "--count", "3", "--json")

    first, second, third = map(json.loads, said.splitlines())
    assert (status, first["value"], second["value"], third["value_base64"]) == (0, "one", "two", "/w==")
    assert (first["revision"], second["index"]) == (second["revision"], 1)
    assert third == {"revision": last, "index": 0, "partition": 0, "value_base64": "/w=="}


def test_a_cursor_goes_on_where_the_last_one_ended(run):
    """
    What was printed is done.
    """
    run("pub", "--retain", "all", "log", "1", "2", "3")

    assert run("sub", "log", "--cursor", "me", "--count", "2")[1] == b"1\n2\n"
    assert run("sub", "log", "--cursor", "me", "--count", "1")[1] == b"3\n"


def test_it_waits_as_long_as_it_was_told(run, namespace):
    """
    For the next message each time; the status tells whether there was any.
    """
    assert run("sub", "log", "--retained", "--wait", "0.05") == (75, b"", b"")
    run("pub", "--retain", "all", "log", "1", "2")

    assert run("sub", "log", "--from", "all", "--count", "3", "-w", "1") == (0, b"1\n2\n", b"")


def test_what_is_missing_is_told(run):
    """
    On standard error, and by the status.
    """
    run("pub", "--retain", "all", "log", "1")
    _, last, _ = run("pub", "log", "2")
    assert run("trim", "log", "--retain", "1")[0] == 0

    status, said, complained = run("sub", "log", "--from", "2", "--count", "1")

    assert (status, said) == (1, b"2\n")
    assert b"trimmed" in complained
    assert f"revision {int(last)}" not in complained.decode() or status


def test_ctrl_c_ends_it_in_order(start, coord):
    """
    Status 130, nothing on standard error; what came was printed at once.
    """
    coord.topic("chat").publish("0")
    process = start("sub", "chat", "--from", "all")
    assert process.stdout.readline() == b"0\n"

    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=20)

    assert (process.returncode, said, complained) == (130, b"", b"")


def test_a_reader_that_leaves_ends_it(start, coord):
    """
    As with any other program in a pipe.
    """
    topic = coord.topic("chat")
    topic.publish("0")
    process = start("sub", "chat", "--from", "all")
    assert process.stdout.readline() == b"0\n"

    process.stdout.close()
    topic.publish("1")
    topic.publish("2")

    assert process.wait(20) == 141
    assert process.stderr.read() == b""


def test_lines_are_published_as_they_come(start, coord):
    """
    Not only at the end of the input.
    """
    with coord.topic("chat").subscribe() as subscription:
        process = start("pub", "chat")
        process.stdin.write(b"first\nsec")
        process.stdin.flush()
        assert subscription.get(20).value == b"first"
        process.communicate(b"ond\n", timeout=20)
        assert subscription.get(20).value == b"second"


def test_a_dash_is_standard_input(start, run):
    """
    Where it stands among the values; behind two dashes it is a message.
    """
    process = start("pub", "--retain", "all", "log", "a", "-", "b", "--", "-")
    process.communicate(b"first\nlast", timeout=20)

    assert run("sub", "log", "--from", "all", "--count", "5")[1] == b"a\nfirst\nlast\nb\n-\n"


def test_it_takes_a_topic_as_others_use_it(run, coord):
    """
    Partitions included; and refuses to use it in another way.
    """
    coord.topic("parts", retain=10**6, partitions=3).publish(b"0")
    coord.topic("chat").publish(b"0")

    assert run("pub", "parts", "1")[0] == 0
    assert sorted(run("sub", "parts", "--from", "all", "--count", "2")[1].split()) == [b"0", b"1"]
    status, _, complained = run("pub", "--retain", "5", "chat", "1")
    assert status == 2
    assert b"is live, not retained" in complained


@pytest.mark.parametrize(
    "arguments",
    [
        ("pub", "t", "--retain", "5x"),
        ("sub", "t", "--from", "old"),
        ("sub", "t", "--from", "0"),
        ("sub", "t", "--count", "0"),
        ("trim", "t"),
        ("sub",),
    ],
)
def test_silly_arguments_are_refused(arguments, capsys):
    """
    With status 2, before anything is connected.
    """
    with pytest.raises(SystemExit) as caught:
        main.main(["topic", *arguments])

    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_nul_separates_messages_that_hold_newlines(start, coord):
    """
    As the items of `queue put -0`.
    """
    with coord.topic("chat").subscribe() as subscription:
        process = start("pub", "chat", "-0")
        said, _ = process.communicate(b"two\nlines\0\0last\n", timeout=20)
        assert process.returncode == 0

        got = [subscription.get(20) for _ in range(3)]

    assert [message.value for message in got] == [b"two\nlines", b"", b"last\n"]
    assert got[-1].revision == int(said)


def test_what_was_published_is_a_document_if_wanted(start, run):
    """
    One at the end, as `queue put --json` prints: how many, and the revision of the last.
    """
    status, said, _ = run("pub", "log", "--retain", "all", "--json", "a", "b")
    nothing, _ = start("pub", "log", "--json").communicate(b"", timeout=20)

    document = json.loads(said)
    told = json.loads(run("sub", "log", "--from", "all", "--count", "1", "--json")[1])
    assert (status, document) == (0, {"topic": "log", "count": 2, "revision": told["revision"]})
    assert json.loads(nothing) == {"topic": "log", "count": 0, "revision": None}


def test_options_stand_before_between_and_behind_the_values(run):
    """
    The messages keep their order.
    """
    assert run("pub", "log", "--retain", "all", "1")[0] == 0
    assert run("pub", "log", "2", "--retain=all", "3", "-q", "4", "--", "-5") == (0, b"", b"")

    assert run("sub", "log", "--from", "all", "--count", "5")[1] == b"1\n2\n3\n4\n-5\n"


def test_a_value_that_looks_like_an_option_is_refused_with_the_reason(capsys):
    """
    What it publishes are values; it has no command to run.
    """
    with pytest.raises(SystemExit) as caught:
        main.main(["topic", "pub", "t", "--retain", "5", "hello", "-world"])

    assert caught.value.code == 2
    complained = capsys.readouterr().err
    assert "unrecognized arguments: -world; values that begin with a dash stand behind --" in complained
    assert "command to run" not in complained
