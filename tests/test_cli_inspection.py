"""The commands that look at a namespace: what they print, what they change, how they end."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import consoles
import pytest
from consoles import Told
from contract.players import Attempt, Call, expire, queue_up, wait_until

from coordkit import errors
from coordkit.cli import failure, terminal, views
from coordkit.cli.lock import timeline
from coordkit.inspection import reading, tenures

LOOKS = [
    ["lock", "ls"],
    ["lock", "show", "x"],
    ["lock", "history", "x"],
    ["session", "ls"],
    ["status"],
    ["watch"],
]


@pytest.fixture(autouse=True)
def _threads_only(mode, monkeypatch):
    if mode != "threads":
        pytest.skip("the command line is no program that gevent patches")
    consoles.clear_environment(monkeypatch)


@pytest.fixture
def cli(capsys, etcd, namespace, monkeypatch) -> Callable[..., Told]:
    """Runs a command in this process, on the test's namespace."""
    monkeypatch.setenv("COORDKIT_URL", f"etcd://{etcd.endpoint}/{namespace}")

    return functools.partial(consoles.run, capsys)


@pytest.fixture
def line(coord, coord_factory) -> Iterator[list[Attempt]]:
    """`report` is held by one and awaited by two."""
    found = [coord_factory(identity=name) for name in ("anna", "bert", "carl")]
    locks = [each.lock("report") for each in found]
    holder = Attempt(locks[0]).wait_until_held()
    yield [holder, *queue_up(*locks[1:])]
    for each in found:
        each.close()


class TestLocks:
    def test_ls_tells_who_holds_and_how_many_wait(self, cli, line):
        """
        A row for each lock; the same as a document.
        """
        told, document = cli("lock", "ls"), cli("lock", "ls", "--json").document

        (row,) = [each.split() for each in told.out.splitlines() if each.startswith("report")]
        assert row[1:4] == ["lock", "anna", str(line[0].lock.fence)]
        assert row[-1] == "2"
        (lock,) = document["locks"]
        assert [each["identity"] for each in lock["waiters"]] == ["bert", "carl"]
        assert lock["holders"][0]["lease"]["granted_s"] == 10
        assert told.status == 0

    def test_show_tells_the_line_in_order(self, cli, line):
        """
        The holder, then the waiters; exit status 1 for a lock that is free.
        """
        told = cli("lock", "show", "report")

        rows = [each.split() for each in told.out.splitlines()[4:-1]]
        assert [row[-10] for row in rows] == ["anna", "bert", "carl"]
        assert {row[-9] for row in rows} == {f"{socket.gethostname()}:{os.getpid()}"}
        assert told.status == 0
        assert cli("lock", "show", "free").status == 1
        assert cli("lock", "show", "report", "--kind", "semaphore", "-q") == Told(1, "", "")

    def test_nobody_is_there(self, cli):
        """
        Said in words; with -q not even that.
        """
        assert cli("lock", "ls") == Told(0, "nobody holds or awaits a lock here\n", "")
        assert cli("session", "ls", "-q") == Told(0, "", "")

    def test_break_frees_it_for_the_next_one(self, cli, line):
        """
        It says who it was; he learns that he lost it.
        """
        told = cli("lock", "break", "report", "--yes")

        assert told.status == 0
        assert told.out.startswith("broken: lock 'report', held by anna for ")
        line[1].wait_until_held()
        with pytest.raises(errors.LockLost):
            line[0].lock.release()

    def test_break_takes_nothing_from_somebody_else(self, cli, line, monkeypatch):
        """
        Who gives it up while one is asked is not the next one.
        """

        def ask(question: str, yes: bool) -> bool:
            line[0].lock.release()
            line[1].wait_until_held()
            return True

        monkeypatch.setattr(terminal, "confirm", ask)

        told = cli("lock", "break", "report")

        assert told.status == 1
        assert "nothing was done" in told.err
        assert line[1].lock.held

    def test_break_asks_first(self, cli, line, monkeypatch, capsys):
        """
        Only y or yes breaks it; where there is nobody to ask, --yes has to say so.
        """
        monkeypatch.setattr("sys.stdin", Typed("\n"))
        assert cli("lock", "break", "report").err.endswith("[y/N] coordkit: not broken\n")

        monkeypatch.setattr("sys.stdin", Typed("yes\n", terminal=False))
        assert cli("lock", "break", "report").status == failure.USAGE
        assert line[0].lock.held

        monkeypatch.setattr("sys.stdin", Typed("yes\n"))
        assert cli("lock", "break", "report").status == 0

    def test_one_of_several_holders_has_to_be_named(self, cli, coord, namespace):
        """
        By its fence.
        """
        prefix = f"/{namespace}/semaphore/pool"
        coord.kv.put(f"{prefix}/limit/2", b"")
        revisions = [coord.kv.put(f"{prefix}/holders/{n}", b"") for n in (1, 2)]

        refused = cli("lock", "break", "pool", "--kind", "semaphore", "--yes")
        told = cli("lock", "break", "pool", "--kind", "semaphore", "--yes", "--fence", str(revisions[1]))

        assert (refused.status, told.status) == (failure.USAGE, 0)
        assert cli("lock", "ls", "--json").document["locks"][0]["keys"] == 2
        coord.kv.delete_prefix(f"{prefix}/")

    def test_what_others_wrote_does_not_reach_the_terminal(self, cli, coord, namespace):
        """
        No escape sequence, whatever a name or an identity holds; the document has it as it is.
        """
        key = f"/{namespace}/lock/x%1B%5B31m/1"
        coord.kv.put(key, json.dumps({"identity": "\x1b[2J[bold]", "since": "never"}))

        told, document = cli("lock", "ls"), cli("lock", "ls", "--json").document

        assert "\x1b" not in told.out
        assert "?[2J[bold]" in told.out
        assert document["locks"][0]["holders"][0]["identity"] == "\x1b[2J[bold]"
        coord.kv.delete(key)


class Typed:
    """A terminal at which somebody types."""

    def __init__(self, text: str, terminal: bool = True) -> None:
        self._text = text
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def readline(self) -> str:
        return self._text


class TestHistory:
    def test_who_held_it_is_a_row_each(self, cli, coord, line, tmp_path):
        """
        With its fence; --limit shows the newest; the document says from which revision on it is known.
        """
        line[0].lock.release()
        line[1].wait_until_held()
        expire(line[1].lock._mine().hold.session, coord)
        line[2].wait_until_held()

        document = cli("lock", "history", "report", "--json").document
        told = cli("lock", "history", "report", "--limit", "1")

        assert [(each["identity"], each["how"]) for each in document["tenures"]] == [
            ("anna", "released"),
            ("bert", "session ended"),
            ("carl", "holds"),
        ]
        assert document["first_revision"] <= document["tenures"][0]["fence"] <= document["last_revision"]
        assert document["tenures"][0]["granted_at"]["estimate"] is False
        assert [each.split()[1] for each in told.out.splitlines()[4:-2]] == ["carl"]
        assert told.out.splitlines()[-1].startswith(f"revisions {document['first_revision']} to ")
        assert told.out.endswith("3 stood in line, 3 held; 1 shown\n")

    def test_of_a_lock_that_nobody_held_nothing_is_known(self, cli, coord):
        """
        Exit status 1.
        """
        coord.session.check()

        assert cli("lock", "history", "never").status == 1

    def test_a_plot_is_a_bar_for_each(self, tmp_path):
        """
        On an axis of time where all clocks are known, else of revisions.
        """
        known = [tenure(5, 5, 7, "2026-01-01T12:00:00"), tenure(6, 7, None, "2026-01-01T12:00:10")]
        unknown = [tenure(5, 5, 7, ""), tenure(6, None, None, "")]

        drawn, in_time = timeline.bars(known, tenures.Clock(known))
        others, by_revision = timeline.bars(unknown, tenures.Clock(unknown))

        assert (in_time, by_revision) == (True, False)
        assert [bar.gone - drawn[0].came for bar in drawn] == [10.0, 10.0]
        assert [(bar.came, bar.turn, bar.gone, bar.over) for bar in others] == [
            (5.0, 5.0, 7.0, True),
            (6.0, None, 7.0, False),
        ]

    def test_a_picture_is_written(self, tmp_path):
        """
        In the format that its name says; an unknown one is refused in words.
        """
        pytest.importorskip("matplotlib", reason="matplotlib, of the bench extra, is not installed")
        known = [tenure(5, 5, 7, "2026-01-01T12:00:00"), tenure(6, 7, None, "2026-01-01T12:00:10")]

        timeline.draw("lock x", known, tenures.Clock(known), str(tmp_path / "out.svg"))

        assert "<svg" in (tmp_path / "out.svg").read_text()
        with pytest.raises(failure.CommandFailed, match="cannot write"):
            timeline.draw("lock x", known, tenures.Clock(known), str(tmp_path / "out.nothing"))


def tenure(joined: int, granted: int | None, ended: int | None, since: str) -> tenures.Tenure:
    from coordkit.inspection import kinds, words

    place = kinds.Place(b"k", "", 1, joined, "a", words.moment(since))
    return tenures.Tenure(place, joined, granted, ended)


class TestSessions:
    def test_each_tells_what_it_has(self, cli, line):
        """
        Who it is, what it holds and awaits.
        """
        told, document = cli("session", "ls"), cli("session", "ls", "--json").document

        assert [each["identity"] for each in document["sessions"]] == ["anna", "bert", "carl"]
        assert [each["stakes"][0]["how"] for each in document["sessions"]] == ["holds", "awaits", "awaits"]
        assert sum("report" in each for each in told.out.splitlines()) == 3

    def test_one_is_named_by_id_or_identity(self, cli, line, coord_factory):
        """
        By the beginning of its id, too; exit status 1 when it is not one alone.
        """
        document = cli("session", "show", "bert", "--json").document
        twin = coord_factory(identity="bert")
        twin.session.check()

        assert cli("session", "show", document["session"][:12], "--json").document["identity"] == "bert"
        assert "awaits" in cli("session", "show", document["session"]).out
        assert cli("session", "show", "bert").status == 1
        assert cli("session", "show", "nobody").err == "coordkit: there is no session 'nobody' here\n"

    def test_revoke_ends_it_with_all_that_it_has(self, cli, line):
        """
        The next one holds the lock; the process is told.
        """
        told = cli("session", "revoke", "anna", "--yes")

        assert told.status == 0
        assert "which holds report" in told.out
        line[1].wait_until_held()
        wait_until(line[0].lock.lost.is_set)


class TestStatus:
    def test_cluster_and_namespace_are_on_one_page(self, cli, line, etcd, coord, namespace):
        """
        Version and role of each endpoint; primitives and keys of each kind.
        """
        told = cli("status")
        document = cli("status", "-o", "json").document

        assert etcd.version in told.out
        assert "lock          1     3" in told.out
        assert document["kinds"] == {
            "lock": {"number": 1, "keys": 3},
            "session": {"number": 3, "keys": 3},
        }
        assert document["endpoints"][0]["role"] == "leader"
        assert cli("status", "--json").document["namespace"] == namespace
        (each,) = cli("status", "-v", "--json").document["primitives"]
        (row,) = [
            each
            for each in cli("status", "-v").out.splitlines()
            if each.startswith("lock  ") and "report" in each
        ]
        assert (each["kind"], each["name"], each["keys"], each["note"]) == ("lock", "report", 3, "")
        assert [each["identity"] for each in (*each["holders"], *each["waiters"])] == ["anna", "bert", "carl"]
        assert row.split()[2:5] == ["3", "anna", str(line[0].lock.fence)]
        assert row.split()[-2:] == [f"{socket.gethostname()}:{os.getpid()}", "2"]
        assert told.status == 0

    def test_who_is_inside_of_a_double_barrier_is_a_holder(self, cli, coord_factory):
        """
        In `status -v` and in `session ls`, with the fence of the first who came.
        """
        pair = [coord_factory(identity=name) for name in ("anna", "bert")]
        first = Call(pair[0].double_barrier("phase", parties=2).enter, timeout=10)
        assert pair[1].double_barrier("phase", parties=2).enter(timeout=10)
        assert first.outcome() is True

        (phase,) = cli("status", "-v", "--json").document["primitives"]
        (row,) = [each for each in cli("status", "-v").out.splitlines() if "phase" in each]

        assert {each["identity"] for each in phase["holders"]} == {"anna", "bert"}
        assert row.split()[4:7] == ["and", "1", "more"]
        assert row.split()[7] == str(phase["holders"][0]["fence"])
        assert row.endswith("0  generation 2, 0 of 2 have arrived, 2 inside")
        assert cli("session", "ls").out.count("double_barrier phase") == 2
        pair[0].double_barrier("phase", parties=2).delete()

    def test_an_endpoint_that_is_away_is_told(self, cli, etcd, namespace):
        """
        Exit status 1; 69 when there is no other.
        """
        away = "127.0.0.1:1"

        half = cli("status", "--url", f"etcd://{etcd.endpoint},{away}/{namespace}", "--json")
        none = cli("status", "--url", f"etcd://{away}/{namespace}")

        assert half.status == 1
        assert half.document["endpoints"][1]["trouble"]
        assert none.status == failure.UNREACHABLE


class TestWatch:
    @pytest.fixture
    def watching(self, cli, monkeypatch, etcd, namespace):
        """Runs the command on a thread; `begin(words)` returns when it watches, `told()` when it is done."""
        runs = []
        standing = threading.Event()
        lines = reading.Reader.lines

        def read(reader):
            standing.set()
            return lines(reader)

        monkeypatch.setattr(reading.Reader, "lines", read)

        def begin(*words: str) -> Callable[[], Told]:
            thread = threading.Thread(target=lambda: runs.append(cli("watch", *words)), daemon=True)
            thread.start()
            wait_until(standing.is_set)

            def told() -> Told:
                thread.join(30)
                return runs[0]

            return told

        return begin

    def test_changes_are_told_in_words(self, watching, coord, namespace):
        """
        Join, grant, release; what queues up behind; never a value.
        """
        told = watching("--count", "6", "-q")
        with coord.lock("report"):
            pass
        coord.kv.put(f"/{namespace}/queue/jobs/items/1", b"secret")
        coord.kv.delete(f"/{namespace}/queue/jobs/items/1")

        me = coord.settings.identity
        assert [each.partition("  ")[2].partition(" (")[0] for each in told().out.splitlines()] == [
            f"session {coord.session.lease_id:016x} of {me} begins",
            f"lock report: {me} joins the line",
            f"lock report: {me} holds it",
            f"lock report: {me} releases it",
            "queue jobs: items/1 put",
            "queue jobs: items/1 deleted",
        ]

    def test_a_part_of_the_namespace_as_documents(self, watching, coord, namespace):
        """
        One on each line; nothing of the rest.
        """
        told = watching("queue/", "--count", "1", "--json")
        coord.kv.put(f"/{namespace}/topic/t/slots/1", b"")
        coord.kv.put(f"/{namespace}/queue/jobs/items/1", b"")

        assert told().document["key"] == "items/1"
        coord.kv.delete_prefix(f"/{namespace}/")


class TestEnds:
    @pytest.mark.parametrize("how", ["a closed pipe", "Ctrl-C"])
    @pytest.mark.parametrize("words", [["watch", "--json"], ["top", "-o", "-", "-d", "0.1"]], ids=" ".join)
    def test_it_ends_in_silence(self, words, how, cli, coord, namespace):
        """
        Without a traceback, with the status that a shell expects.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "coordkit", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process, contextlib.ExitStack() as ending:
            ending.callback(process.kill)
            key, number = f"/{namespace}/queue/q/items/1", itertools.count()
            # It watches when it tells something.
            teller = threading.Event()
            thread = threading.Thread(target=lambda: (process.stdout.readline(), teller.set()), daemon=True)
            thread.start()
            wait_until(lambda: coord.kv.put(key, b"%d" % next(number)) and teller.is_set())
            if how == "Ctrl-C":
                process.send_signal(signal.SIGINT)
            else:
                process.stdout.close()
                wait_until(lambda: coord.kv.put(key, b"%d" % next(number)) and process.poll() is not None)

            assert process.wait(20) == {"Ctrl-C": 130}.get(how, failure.BROKEN_PIPE)
            assert process.stderr.read() == b""
        coord.kv.delete(key)

    @pytest.mark.parametrize("words", LOOKS, ids=" ".join)
    def test_nobody_answers(self, words, cli):
        """
        Exit status 69 and a sentence.
        """
        told = cli(*words, "--url", "etcd://127.0.0.1:1/x", "--timeout", "0.2")

        assert told.status == failure.UNREACHABLE
        assert told.err.startswith("coordkit: ")


class TestWords:
    def test_durations_are_short(self):
        """
        The two largest units.
        """
        spans = [views.span(each) for each in (-1, 3.21, 59, 61, 3_700, 90_000)]

        assert spans == ["0.0s", "3.2s", "59s", "1m01s", "1h01m", "1d01h"]

    def test_a_table_shows_brackets_as_they_are(self):
        """
        For rich they would be mark-up.
        """
        pytest.importorskip("rich", reason="rich, of the cli extra, is not installed")
        import rich.console

        console = rich.console.Console(width=80)
        with console.capture() as captured:
            console.print(terminal.Table("t", ["[red]"], [["[/nothing]"]]).rich())

        assert "[red]" in captured.get()
        assert "[/nothing]" in captured.get()
