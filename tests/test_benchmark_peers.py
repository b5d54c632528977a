"""How what peers did is judged: nothing that was lost, repeated or granted twice counts as work."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import fillers, kinds, lineup, packages, report, rounds
from coordkit.cli.bench import contention, figures, primitives, server
from coordkit.testing.history import Kind, Operation, Result

SERVER = server.Server("etcd://nowhere", None, "3.5.1", private=True)
WINDOW = figures.Window(0, 1_000_000_000)


def call(kind, at, subject="", result=Result.OK, who="a", **fields):
    return Operation(kind, result, 1, who, at, at, at + 1, subject=subject, **fields)


def match(name, **fields):
    return kinds.Match(lineup.PEERS[name][0], "nowhere", "x", 2, **fields)


@pytest.fixture
def behind(monkeypatch):
    """What is found behind a peer after its round."""

    def say(**found):
        for name, number in found.items():
            monkeypatch.setattr(fillers, name, lambda *_, number=number: number)

    return say


class TestTaking:
    def judge(self, *operations, filled=("i1", "i2", "i3")):
        return kinds.KINDS["take"].judge(match("take", filled=set(filled)), list(operations), WINDOW)

    def test_what_is_taken_once_counts_item_by_item(self, behind):
        """
        A batch is as many as it has.
        """
        behind(settled_size=0)

        judged = self.judge(call(Kind.CLAIM, 0, "i1 i2"), call(Kind.CLAIM, 10, "i3"))

        assert (judged.broken, judged.count, judged.found["acquisitions_per_s"]) == (None, 3, 3)

    @pytest.mark.parametrize(
        ("subjects", "left", "words"),
        [
            (["i1", "i1"], 1, "taken twice"),
            (["i1", "i9"], 1, "nobody had put"),
            (["i1"], 1, "3 items were put, 1 taken, 1 are left"),
        ],
    )
    def test_what_is_lost_or_repeated_is_told(self, behind, subjects, left, words):
        """
        Such a peer is out.
        """
        behind(settled_size=left)

        judged = self.judge(*(call(Kind.CLAIM, at, subject) for at, subject in enumerate(subjects)))

        assert words in judged.broken

    def test_a_queue_that_ran_out_is_timed_until_its_last_item(self, behind):
        """
        The rest of the window was no work.
        """
        behind(settled_size=2)

        judged = self.judge(call(Kind.CLAIM, 499_999_999, "i1"), call(Kind.CLAIM, 9, result=Result.FAIL))

        assert judged.found["acquisitions_per_s"] == 2


class TestOthers:
    def test_a_put_that_is_not_there_is_told(self, behind):
        """
        Only what the server has was put.
        """
        behind(size=1)

        judged = kinds.KINDS["put"].judge(
            match("put"), [call(Kind.PUT, 0, "a"), call(Kind.PUT, 5, "b")], WINDOW
        )

        assert judged.broken == "2 items were put, 1 are there"

    def test_a_lost_addition_is_told(self, behind):
        """
        The value must be the sum.
        """
        behind(value=1)

        adds = [call(Kind.ADD, at, str(at + 1), number=1) for at in range(2)]

        assert "violations" in kinds.KINDS["counter"].judge(match("counter"), adds, WINDOW).broken

    def test_leaderships_that_overlap_are_told(self):
        """
        Campaigns and resignations are judged as a lock is.
        """
        history = []
        for who, start in (("a", 0), ("b", 5)):
            history += [
                call(Kind.CAMPAIGN, start, who=who, fence=start + 1),
                call(Kind.RESIGN, start + 10, who=who, fence=start + 1),
            ]

        assert "violations" in kinds.KINDS["election"].judge(match("election"), history, WINDOW).broken


def stay(who, start, end, subject=""):
    """A hold of somebody who has no fence, by the clock."""
    return [
        Operation(Kind.ACQUIRE, Result.OK, 1, who, 0, start, start, subject=subject),
        Operation(Kind.RELEASE, Result.OK, 1, who, 1, end, end, subject=subject),
    ]


class TestHeldWithoutFences:
    """The clock alone judges."""

    @pytest.mark.parametrize(
        ("beside", "sound"), [("read", True), ("write", False)], ids=["readers", "a writer"]
    )
    def test_a_writer_must_be_alone(self, beside, sound):
        """
        Readers need not be.
        """
        (go,) = (peer for peer in lineup.RWLOCKS if peer.go)
        seen = [*stay("a", 0, 10, "read"), *stay("b", 5, 15, beside)]

        judged = kinds.KINDS["rwlock"].judge(kinds.Match(go, "nowhere", "x", 2), seen, WINDOW)

        assert (judged.broken is None) is sound
        assert judged.count == 2

    @pytest.mark.parametrize(("holders", "sound"), [(2, True), (3, False)])
    def test_no_more_hold_than_there_are_permits(self, holders, sound):
        """
        Half as many as contend.
        """
        kazoo = lineup.SEMAPHORES[1]
        seen = [each for number in range(holders) for each in stay(str(number), number, 10)]

        judged = kinds.KINDS["semaphore"].judge(kinds.Match(kazoo, "nowhere", "x", 4), seen, WINDOW)

        assert (judged.broken is None) is sound


class TestLineup:
    def test_who_takes_no_part_is_told_with_the_reason(self, capsys):
        """
        No peer is left out of a table in silence.
        """
        scenario = primitives.Scenario("processes", 32)
        contest = rounds.Contest(
            kinds.KINDS["lock"], list(lineup.LOCKS), {}, scenario, contention.Plan(repeats=1)
        )
        plan = contention.Plan(repeats=1)

        report.Report("lock", "holds", SERVER, plan, {"32": contest.standings}, {}, 0.0).show()

        shown = capsys.readouterr().out
        assert "etcd3 Lock: not measured: it is measured with 8 processes at most" in shown
        assert "Go concurrency.Mutex: not measured" not in shown

    def test_a_peer_whose_environment_is_not_there_says_which(self, monkeypatch, tmp_path):
        """
        And who makes it.
        """
        monkeypatch.setattr(lineup, "ROOT", tmp_path)
        (etcd3,) = (peer for peer in lineup.LOCKS if peer.environment)

        assert ".venvs/peer-etcd3" in lineup.why_not(etcd3)

        python = pathlib.Path(lineup.interpreter(etcd3))
        python.parent.mkdir(parents=True)
        python.touch()
        assert lineup.why_not(etcd3) is None


class TestPackages:
    @pytest.fixture
    def apt(self, monkeypatch):
        """Says what was run; one package is missing."""
        ran = []
        monkeypatch.setattr(packages, "NEEDED", {"redis-server": lambda: False, "golang-go": lambda: True})
        monkeypatch.setattr(packages.shutil, "which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(packages.subprocess, "run", lambda command, **_: ran.append(command))
        return ran

    def sit_at(self, monkeypatch, answer):
        console = io.StringIO(f"{answer}\n")
        console.isatty = lambda: answer is not None
        monkeypatch.setattr(sys, "stdin", console)

    @pytest.mark.parametrize("answer", [None, "", "n"])
    def test_nothing_is_installed_unless_somebody_agrees(self, apt, monkeypatch, capsys, answer):
        """
        Without a terminal there is nobody to ask; what would help is told all the same.
        """
        self.sit_at(monkeypatch, answer)

        packages.offer()

        assert apt == []
        assert "redis-server" in capsys.readouterr().err

    def test_who_agrees_gets_what_is_missing(self, apt, monkeypatch):
        """
        And nothing else.
        """
        self.sit_at(monkeypatch, "y")

        packages.offer()

        (command,) = apt
        assert "apt-get" in command and command[-1] == "redis-server" and "golang-go" not in command


def ran(ours, theirs):
    """A run of two peers with these rates."""
    standings = [
        rounds.Standing(peer, [{"acquisitions_per_s": rate} for rate in rates])
        for peer, rates in zip(lineup.LOCKS[:2], (ours, theirs), strict=True)
    ]
    plan = contention.Plan(repeats=len(ours))
    return report.Report("lock", "holds", SERVER, plan, {"2 threads": standings}, {}, 0.0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--scenarios", "proc:2"], "no scenario"),
        (["--scenarios", "processes:0"], "no scenario"),
        (["--scenarios", "processes"], "no scenario"),
        (["--only", "Nobody"], "no peer's name"),
        (["--strict"], "--twice"),
    ],
)
def test_what_there_is_none_of_is_refused_and_nothing_is_overwritten(wrong, told, tmp_path, capsys):
    """
    Before anything is asked for or measured.
    """
    with pytest.raises(SystemExit) as ended:
        command.main(["--what", "lock", "--out", str(tmp_path / "out"), *wrong])

    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_runs_are_compared_by_rates_and_by_their_ratios():
    """
    A machine that is half as fast in the second run changes no ratio.
    """
    first, second = ran([100.0, 110, 120], [10.0, 11, 12]), ran([50.0, 55, 60], [5.0, 5.5, 6])

    found = {(each.scenario, each.figure): each.overlap for each in report.compare(first, second)}

    assert found == {
        ("2 threads, coordkit", "acquisitions_per_s"): False,
        ("2 threads, Go concurrency.Mutex", "acquisitions_per_s"): False,
        ("2 threads, Go concurrency.Mutex", "ours_x"): True,
    }


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server here")
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_servers_end_with_the_run(ending, tmp_path, eventually):
    """
    However it ends, it leaves no server behind, and no folder of one.
    """
    pytest.importorskip("redis")
    root = pathlib.Path(__file__).parent.parent
    options = ["--what", "lock", "--only", "redis-py", "--out", str(tmp_path / "out")]
    run = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers", *options],
        cwd=root,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
    )
    try:
        (data,) = eventually(lambda: list(tmp_path.glob("coordkit-redis-*/appendonlydir")), within_s=30)
        assert running_in(data.parent)
        run.send_signal(ending)
        assert run.wait(30)
    finally:
        run.kill()
        run.wait()
    eventually(lambda: not list(tmp_path.glob("coordkit-redis-*")), within_s=30)
    assert not running_in(data.parent)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
@pytest.mark.skipif(lineup.etcdctl() is None, reason="no etcdctl here")
def test_a_command_that_holds_a_lock_ends_with_its_worker(child, etcd, eventually):
    """
    However that one ends.
    """
    holder = child(f"""
        from benchmarks.peers import mutexes
        lock = mutexes.EtcdctlMutex({etcd.endpoint!r}, "a-lock-of-a-worker")
        assert lock.acquire(30)
        print(lock._process.pid, flush=True)
        input()
    """)
    pid = int(holder.stdout.readline())

    holder.kill()
    holder.wait()

    eventually(lambda: not pathlib.Path(f"/proc/{pid}").exists())


def running_in(folder):
    """The processes whose folder this is, or was."""
    found = []
    for link in pathlib.Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith(str(folder)):
                found.append(link.parent.name)
    return found
