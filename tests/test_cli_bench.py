"""The command line's frame, and the benchmarks below it: figures, workers, floor, verdicts, exit statuses."""

from __future__ import annotations

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import types

import pytest

from coordkit import errors
from coordkit.cli import failure, main, options, terminal
from coordkit.cli.bench import (
    bars,
    contention,
    contention_report,
    crashes,
    crew,
    figures,
    floor,
    machine,
    primitives,
    raw,
)
from coordkit.cli.bench.histogram import Histogram
from coordkit.cli.bench.server import Server
from coordkit.testing import checkers, history
from coordkit.testing.history import Hold, Kind, Operation, Result, Rule, clock_ns

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMANDS = (["demo"], ["bench"], ["bench", "lock"], ["bench", "wire"])
#: Workers are processes of their own, and what gives them orders is no program that gevent patches.
UNPATCHED = pytest.mark.skipif(
    os.environ.get("COORDKIT_TEST_MODE") == "gevent", reason="the command line is not patched"
)
NO_SERVER = Server("etcd://nowhere", None, "none", private=False)


# --- the frame


@pytest.fixture
def command(monkeypatch):
    """Makes `coordkit try` run a function of the test."""

    def install(run):
        def register(commands):
            options.command(commands, "try", "try it", "example:\n  coordkit try", run)

        module = types.ModuleType("try_group")
        module.register = register
        monkeypatch.setitem(sys.modules, "try_group", module)
        monkeypatch.setattr(main, "GROUPS", ("try_group",))

    return install


class TestParsing:
    @pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
    def test_every_command_explains_itself(self, words, capsys):
        """
        --help ends well; a command's help has an example.
        """
        with pytest.raises(SystemExit) as ended:
            main.main([*words, "--help"])

        assert ended.value.code == 0
        assert words == ["bench"] or f"\n  coordkit {' '.join(words)}" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "words",
        [
            [],
            ["bench"],
            ["unknown"],
            ["bench", "lock", "--contenders", "2,0"],
            ["bench", "lock", "--mode", "fibers"],
            ["bench", "lock", "--seconds", "0"],
            ["bench", "lock", "--hold", "nan"],
            ["bench", "lock", "--ttl", "1"],
            ["demo", "--processes", "-1"],
        ],
        ids=" ".join,
    )
    def test_a_wrong_command_line_is_a_usage_error(self, words, capsys):
        """
        Exit status 2, and standard error says what was wrong.
        """
        with pytest.raises(SystemExit) as ended:
            main.main(words)

        assert ended.value.code == failure.USAGE
        assert "error:" in capsys.readouterr().err

    def test_the_version_goes_to_standard_output(self, capsys):
        """
        `coordkit --version` needs no command.
        """
        with pytest.raises(SystemExit) as ended:
            main.main(["--version"])

        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith("coordkit ")

    def test_what_stands_behind_the_first_double_dash_is_a_child(self, command):
        """
        It reaches the command unparsed, a second -- with it.
        """
        seen = []
        command(lambda arguments: seen.append(arguments.child) or 0)

        main.main(["try", "--", "ls", "--help", "--", "x"])
        main.main(["try"])
        main.main(["try", "--"])

        assert seen == [["ls", "--help", "--", "x"], None, []]


class TestExitStatus:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (failure.CommandFailed("so it is", 75), 75),
            (errors.Unavailable("so it is"), 69),
            (errors.InvalidName("so it is"), 2),
            (errors.SessionLost("so it is"), 1),
        ],
        ids=lambda value: getattr(type(value), "__name__", value),
    )
    def test_an_error_becomes_a_sentence_and_a_status(self, command, capsys, error, status):
        """
        No traceback: the message on standard error, the status to the shell.
        """

        def run(arguments):
            raise error

        command(run)

        assert main.main(["try"]) == status
        assert capsys.readouterr().err.startswith("coordkit: so it is")

    def test_ctrl_c_is_130(self, command):
        """
        As a shell reports a program that SIGINT ended.
        """

        def run(arguments):
            raise KeyboardInterrupt

        command(run)

        assert main.main(["try"]) == 130

    def test_a_closed_pipe_ends_in_silence(self):
        """
        `coordkit ... | head` leaves no traceback behind, whatever was still buffered.
        """
        reading, writing = os.pipe()
        os.close(reading)
        process = cli(["--version"], "print('x' * 100_000)", stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)

        _, said = process.communicate(timeout=30)

        assert (process.returncode, said) == (failure.BROKEN_PIPE, b"")


def cli(words, before="", **streams):
    """`coordkit` in a process of its own, after some lines of the test's; never patched."""
    source = f"""
import sys
from coordkit.cli import main
from coordkit.cli.bench import contention
sys.argv[1:] = {words!r}
def run():
    {before or "pass"}
    return main._parse_and_run(sys.argv[1:])
main._parse_and_run, main._run = main._run, lambda argv: run()
sys.exit(main.main())
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen([sys.executable, "-c", source], env={**os.environ, "PYTHONPATH": path}, **streams)


# --- what a person sees


class TestTable:
    def test_columns_line_up(self):
        """
        The first column names the rows, the others are set to the right.
        """
        table = terminal.Table("title", ["", "one", "two"], [["a", "1", "22"], ["long name", "333", "4"]])

        lines = table.text().splitlines()

        assert lines[0] == "title"
        assert lines[4:6] == ["a            1   22", "long name  333    4"]

    @pytest.mark.parametrize("columns", ["20", "200"])
    def test_no_cell_is_cut_off(self, monkeypatch, columns):
        """
        A terminal that is too narrow for a frame gets lines that wrap.
        """
        pytest.importorskip("rich")
        screen = io.StringIO()
        screen.isatty = lambda: True
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setenv("TERM", "xterm")

        terminal.Table("title", ["", "promise"], [["a long name", "fair, fenced, guarded"]]).show()

        assert "fair, fenced, guarded" in screen.getvalue()
        assert ("┃" in screen.getvalue()) is (columns == "200")

    def test_away_from_a_terminal_a_step_is_a_line(self, capsys):
        """
        Progress tells little, and only on standard error.
        """
        progress = terminal.Progress(2)

        progress.begin("first", 1)
        progress.tick()
        progress.end("done")
        progress.clear()

        assert capsys.readouterr() == ("", "first: done\n")


class TestBars:
    def test_a_bar_is_reached_or_missed(self):
        """
        Bounds count as reached.
        """
        assert bars.Bar("rate", 2.0, least=2.0).passed
        assert not bars.Bar("rate", 1.99, least=2.0).passed
        assert bars.Bar("time", 1.25, most=1.25).passed
        assert str(bars.Bar("time", 1.26, most=1.25)) == "bar: time 1.26x, at most 1.25x: MISS"


class TestMachine:
    def test_a_busy_machine_is_told(self):
        """
        Half of the processors is where the warning begins.
        """
        half = (os.cpu_count() or 1) / 2

        assert machine.busy(half - 0.01) is None
        assert f"load {half:g}" in machine.busy(half)

    def test_the_facts_are_all_there(self):
        """
        A report without them could not be judged.
        """
        facts = machine.facts(0.5)

        assert facts["sync_us"] > 0 and facts["load"] == 0.5
        assert all(facts[name] for name in ("system", "processors", "processor", "python", "coordkit"))


# --- figures


def hold(who, asked_ms, granted_ms, releasing_ms, released_ms, fence, revision=None):
    """One cycle of a contender, times in milliseconds."""
    asked, granted, releasing, released = (
        ms * 1_000_000 for ms in (asked_ms, granted_ms, releasing_ms, released_ms)
    )
    return Hold(
        Operation(Kind.ACQUIRE, Result.OK, 1, who, 0, asked, granted, fence=fence),
        Operation(Kind.RELEASE, Result.OK, 1, who, 1, releasing, released, fence=fence, revision=revision),
    )


WINDOW = figures.Window(0, 1_000_000_000)


class TestLockFigures:
    def test_a_hand_over_counts_from_the_call_to_release_to_the_next_holder(self):
        """
        Matched by the order of fences, across contenders.
        """
        holds = [hold("a", 0, 1, 10, 12, fence=2, revision=5), hold("b", 3, 13, 20, 21, fence=3, revision=6)]

        times = figures.lock_times(holds, WINDOW)

        assert (times.hand_overs.count, times.hand_overs.largest) == (1, 3_000_000)

    def test_who_did_not_stand_in_line_was_handed_nothing(self):
        """
        A key created after the release began an acquire of its own.
        """
        holds = [hold("a", 0, 1, 10, 12, fence=2, revision=5), hold("b", 3, 13, 20, 21, fence=6, revision=7)]

        assert figures.lock_times(holds, WINDOW).hand_overs.count == 0

    def test_without_revisions_the_clock_says_who_stood_in_line(self):
        """
        Asked before the release was called.
        """
        early = [hold("a", 0, 1, 10, 12, fence=2), hold("b", 9, 13, 20, 21, fence=3)]
        late = [hold("a", 0, 1, 10, 12, fence=2), hold("b", 11, 13, 20, 21, fence=3)]

        assert figures.lock_times(early, WINDOW).hand_overs.count == 1
        assert figures.lock_times(late, WINDOW).hand_overs.count == 0

    def test_warming_up_is_not_counted(self):
        """
        Only what was granted within the window is.
        """
        holds = [hold("a", 0, 1, 2, 3, fence=2), hold("a", 10, 14, 20, 22, fence=3)]
        window = figures.Window(10_000_000, 1_010_000_000)

        times = figures.lock_times(holds, window)
        found = figures.lock_figures(times, contenders=2)

        assert found["acquisitions"] == found["acquisitions_per_s"] == 1
        assert found["wait_max_us"] == 4_000
        assert found["pair_max_us"] == 6_000
        assert found["jain"] == 0.5

    def test_a_return_is_from_ones_own_release_to_ones_next_hold(self):
        """
        What a contender waits in a closed loop.
        """
        holds = [hold("a", 0, 1, 2, 3, 2), hold("b", 0, 4, 5, 6, 3), hold("a", 3, 8, 9, 10, 4)]

        assert figures.lock_times(holds, WINDOW).returns.largest == 6_000_000

    def test_nothing_acquired_is_zero_and_no_error(self):
        """
        A repeat in which nobody got the lock can still be told.
        """
        found = figures.lock_figures(figures.lock_times([], WINDOW), contenders=2)

        assert (found["acquisitions_per_s"], found["jain"]) == (0, 1)

    def test_multiples_are_taken_of_floors_of_the_same_kind(self):
        """
        Contended: hand-overs; alone: acquire and release.
        """
        found = {"pair_p50_us": 30.0, "wait_p50_us": 20.0, "hand_over_p50_us": 8.0, "acquisitions_per_s": 2e4}
        alone = {"floor_pair_p50_us": 25.0, "floor_wait_p50_us": 10.0}

        assert figures.multiples(found, alone) == {"pair_p50_x": 1.2, "wait_p50_x": 2, "cycle_x": 2}
        assert figures.multiples(found, {**alone, "floor_hand_over_p50_us": 4.0}) == {
            "hand_over_p50_x": 2,
            "cycle_x": 2,
        }

    def test_slices_of_a_repeat_add_up(self):
        """
        Rates are of the measured time alone; nothing is handed over from slice to slice.
        """
        first = figures.lock_times([hold("a", 0, 1, 2, 3, 2)], WINDOW)
        second_window = figures.Window(5_000_000_000, 6_000_000_000)
        second = figures.lock_times([hold("b", 5000, 5001, 5002, 5003, 3)], second_window)

        first.merge(second)
        found = figures.lock_figures(first, contenders=2)

        assert (found["acquisitions"], found["acquisitions_per_s"], found["jain"]) == (2, 1, 1)
        assert "hand_overs" not in found

    def test_costs_are_per_acquisition(self):
        """
        The server's time is shared by all holds, warm-up included; what nobody counted is not there.
        """
        spent = {"cpu_ns": 4_000, "calls": 4, "server_cpu_ns": 9_000}

        found = figures.costs(spent, acquisitions=2, holds=3)

        assert found == {"client_cpu_us": 2, "calls": 2, "server_cpu_us": 3}
        assert figures.costs(spent, acquisitions=0, holds=0) == {}

    def test_repeats_are_summed_up_by_median_and_extremes(self):
        """
        A figure that some repeats lack is summed up over the others.
        """
        found = figures.summary([{"a": 1.0}, {"a": 5.0, "b": 2.0}, {"a": 3.0}])

        assert found == {"a": figures.Spread(3, 1, 5), "b": figures.Spread(2, 2, 2)}


class TestReport:
    def test_a_run_becomes_a_table_a_verdict_and_json(self, capsys):
        """
        All three tell of the same violation.
        """
        holds = [hold("a", 0, 1, 10, 12, fence=3), hold("b", 0, 5, 20, 21, fence=2)]
        operations = [operation for each in holds for operation in each.operations]
        times = figures.lock_times(holds, WINDOW)
        repeat = contention.Repeat(figures.lock_figures(times, 2), times, checkers.check_lock(operations))
        result = contention.Result(primitives.Scenario("processes", 2), [repeat], kept="kept.jsonl")
        report = contention_report.Report(NO_SERVER, contention.Plan(repeats=1), [result])

        report.show()
        shown, document = capsys.readouterr().out, json.loads(json.dumps(report.as_json()))

        assert not report.clean and not document["clean"]
        assert "2 processes" in shown and "kept.jsonl" in shown
        assert "VIOLATIONS: clock 2; 2 acquisitions judged" in shown
        assert document["scenarios"][0]["correctness"]["clock"] == 2
        assert document["scenarios"][0]["summary"]["acquisitions"]["median"] == 2


# --- workers


@pytest.fixture
def stand_ins(monkeypatch):
    """Workers find the stand-ins; the contenders of a measurement are replaced by one of them."""
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    return lambda name: monkeypatch.setattr(contention, "CONTENDERS", f"bench_stand_ins:{name}")


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@UNPATCHED
@pytest.mark.usefixtures("stand_ins")
class TestCrew:
    def test_a_worker_that_does_not_start_says_why(self, tmp_path):
        """
        The end of its standard error is in the message.
        """
        with crew.Crew(tmp_path) as workers:
            workers.hire("broken", "no_such_module:Role", {})

            with pytest.raises(crew.WorkerDied, match="No module named 'no_such_module'"):
                workers.ready()

    def test_a_worker_that_falls_silent_is_ended_by_its_own_watchdog(self, tmp_path):
        """
        It shows where every thread stood.
        """
        with crew.Crew(tmp_path) as workers:
            worker = workers.hire("stuck", "bench_stand_ins:Stuck", {})
            workers.ready()

            with pytest.raises(crew.WorkerDied, match="in round"):
                workers.work({worker: {}}, limit_s=0.2)

    def test_none_is_left_when_the_measurement_is_interrupted(self, tmp_path):
        """
        Ctrl-C in the parent ends every worker before it goes on.
        """
        with pytest.raises(KeyboardInterrupt), crew.Crew(tmp_path) as workers:
            hired = [workers.hire(f"stuck-{n}", "bench_stand_ins:Stuck", {}) for n in range(2)]
            workers.ready()
            for worker in hired:
                worker.order({}, limit_s=30)
            raise KeyboardInterrupt

        assert not any(is_running(worker.pid) for worker in hired)

    def test_a_worker_without_a_parent_ends_by_itself(self, tmp_path, eventually):
        """
        Its pipe tells it.
        """
        with crew.Crew(tmp_path) as workers:
            worker = workers.hire("waiting", "bench_stand_ins:Stuck", {})
            workers.ready()

            worker.dismiss()

            assert eventually(lambda: os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT))

    def test_greenlets_run_in_a_process_that_is_patched(self, tmp_path):
        """
        Every worker proves its mode before it says that it is ready.
        """
        with crew.Crew(tmp_path) as workers:
            for name, patched in (("threads", False), ("greenlets", True)):
                workers.hire(name, "bench_stand_ins:Stuck", {}, patched)

            workers.ready()


# --- measurements with stand-ins


def measure(mode="processes", contenders=2, repeats=2, server=NO_SERVER, hold_s=0.0):
    plan = contention.Plan(0.2, repeats, hold_s, warm_up_s=0.05, floor_seconds=0.1, floor_samples=20)
    return contention.measure(server, primitives.Scenario(mode, contenders), plan, terminal.Progress(repeats))


@UNPATCHED
class TestContention:
    @pytest.mark.parametrize("mode", ["processes", "threads"])
    def test_a_fair_lock_is_clean(self, stand_ins, mode):
        """
        Every repeat has figures, and nothing is kept.
        """
        stand_ins("Fair")

        result = measure(mode)

        assert result.clean, result.failure
        assert result.kept is None
        assert [repeat.found["acquisitions"] > 0 for repeat in result.repeats] == [True, True]
        assert {"wait_p50_us", "pair_p50_us", "client_cpu_us"} <= result.summary().keys()

    def test_a_lock_that_excludes_nobody_is_found_and_its_history_kept(self, stand_ins):
        """
        The file can be judged again, and names the operations.
        """
        stand_ins("Broken")

        result = measure(hold_s=0.002)

        assert not result.clean and result.failure is None
        kept = pathlib.Path(result.kept)
        assert Rule.CLOCK in {violation.rule for violation in history.load_violations(kept)}
        assert not checkers.check_lock(history.load(kept)).clean
        kept.unlink()

    @pytest.mark.parametrize(
        ("name", "words"), [("Lost", "LockLost: the third hold was lost"), ("Deadly", "my last words")]
    )
    def test_a_worker_that_fails_or_dies_fails_the_run(self, stand_ins, name, words):
        """
        Only completed work counts; what the others saw is kept.
        """
        stand_ins(name)

        result = measure()

        assert not result.clean
        assert words in result.failure
        pathlib.Path(result.kept).unlink()

    def test_a_lost_hold_stands_in_the_history_as_failed(self, stand_ins):
        """
        The kept history has the release that was told LockLost.
        """
        stand_ins("Lost")

        result = measure(contenders=1)

        (lost,) = [o for o in history.load(result.kept) if o.result is not Result.OK]
        assert (lost.kind, lost.result, lost.error) == (
            Kind.RELEASE,
            Result.FAIL,
            "LockLost: the third hold was lost",
        )
        pathlib.Path(result.kept).unlink()


# --- against a real server


@UNPATCHED
class TestCrashes:
    """A holder is killed, and the next one in line comes to hold."""

    def crash(self, etcd, primitive, crashed=2):
        server = Server(etcd.url, etcd.endpoint, etcd.version, private=True, pid=etcd.pid)
        scenario = primitives.Scenario("processes", 2, primitive, ttl_s=4)
        return crashes.measure(
            server, scenario, contention.Plan(crashes=crashed), terminal.Progress(crashed)
        )

    @pytest.mark.parametrize("primitive", ["lock", "election"])
    def test_each_crash_makes_the_next_one_the_holder(self, etcd, primitive):
        """
        Nobody is granted it before the one before is dead.
        """
        result = self.crash(etcd, primitive)

        assert result.clean, result.failure
        assert [repeat.found["successor_s"] > 0 for repeat in result.repeats] == [True, True]
        assert sum(repeat.verdict.holds for repeat in result.repeats) == 2

    @pytest.mark.usefixtures("stand_ins")
    def test_a_successor_that_held_too_early_is_found(self, etcd, monkeypatch):
        """
        The killed holder held until it was killed.
        """
        monkeypatch.setattr(crashes, "CANDIDATE", "bench_stand_ins:Early")

        result = self.crash(etcd, "lock", 1)

        assert Rule.CLOCK in {violation.rule for violation in history.load_violations(result.kept)}
        pathlib.Path(result.kept).unlink()

    @pytest.mark.usefixtures("stand_ins")
    def test_a_holder_that_had_lost_it_before_is_no_crash(self, etcd, monkeypatch):
        """
        The run fails, and nobody is said to have held too early.
        """
        monkeypatch.setattr(crashes, "CANDIDATE", "bench_stand_ins:Forgetful")

        result = self.crash(etcd, "lock", 1)

        assert "Closed" in result.failure
        assert not list(history.load_violations(result.kept))
        pathlib.Path(result.kept).unlink()

    def test_the_slowest_is_measured_by_the_bar(self):
        """
        The TTL and a second and a half.
        """
        repeats = [
            contention.Repeat({"successor_s": slow}, figures.LockTimes(), history.Verdict(1, ()))
            for slow in (2.0, 4.6, 3.0)
        ]
        scenario = primitives.Scenario("processes", 2, "election", ttl_s=3)
        result = contention.Result(scenario, repeats)

        (bar,) = contention_report.Report(NO_SERVER, contention.Plan(), [result]).bars

        assert (bar.measured, bar.most, bar.passed) == (4.6, 4.5, False)



class TestFloor:
    def test_a_pair_is_two_transactions_that_did_something(self, etcd):
        """
        The line is empty after each, and the server's revision has moved by two.
        """
        pairs = floor.PairFloor(etcd.endpoint, "/test-floor/pairs")

        first = pairs.round(clock_ns() + 50_000_000)
        again = pairs.round(clock_ns() + 50_000_000)
        pairs.close()

        assert len(first["joins_ns"]) == len(first["releases_ns"]) > 1
        assert min(again["joins_ns"] + again["releases_ns"]) > 0

    def test_every_delete_is_matched_with_its_event(self, etcd, tmp_path):
        """
        By revision, across two processes.
        """
        settings = {"endpoint": etcd.endpoint, "folder": "/test-floor/deletes"}
        with crew.Crew(tmp_path) as workers:
            deleter, watcher = (
                workers.hire(role, role, settings) for role in ("delete-floor", "watch-floor")
            )
            workers.ready()

            deleted, seen = workers.work({w: {"samples": 10} for w in (deleter, watcher)}, 20)

        assert len(floor.hand_overs_ns(deleted, seen)) == 10
        assert min(floor.hand_overs_ns(deleted, seen)) > 0

    def test_a_refused_call_is_an_error_and_no_measurement(self, etcd):
        """
        A floor of failures would be too low.
        """
        host, port = etcd.endpoint.split(":")
        client = raw.RawClient(host, int(port))

        with pytest.raises(raw.RawError, match="refused"):
            client.call(raw.header_block("/etcdserverpb.KV/None", etcd.endpoint), raw.envelope(b""))
        client.close()

    @pytest.mark.parametrize("revision", [1, 127, 128, 300, 2**31, 2**62 + 5])
    def test_the_revision_is_cut_out_of_a_reply(self, revision):
        """
        Whatever the size of the numbers before it.
        """
        from coordkit.wire import messages

        header = messages.ResponseHeader(cluster_id=2**64 - 1, member_id=7, revision=revision, raft_term=3)

        assert floor.revision_of(messages.PutResponse(header=header).SerializeToString()) == revision

    @UNPATCHED
    def test_a_measurement_beside_its_floor_has_multiples(self, stand_ins, etcd):
        """
        The stand-in is quicker than etcd: what counts is that the multiple is there.
        """
        stand_ins("Fair")
        server = Server(etcd.url, etcd.endpoint, etcd.version, private=True, pid=etcd.pid)

        alone, two = (measure("threads", number, 1, server) for number in (1, 2))

        assert {"pair_p50_x", "cycle_x", "server_cpu_us"} <= alone.summary().keys()
        assert {"floor_hand_over_p50_us", "cycle_x"} <= two.summary().keys()


@UNPATCHED
class TestCoordkit:
    """The real lock and the real puts, as a user runs them."""

    def test_the_demo_is_fair_and_correct(self):
        """
        Exit status 0, with every figure that the demo promises.
        """
        process = cli(["demo", "--processes", "2", "--seconds", "0.5"], stdout=subprocess.PIPE)

        shown, _ = process.communicate(timeout=50)

        assert process.returncode == 0
        text = shown.decode()
        for words in ("acquisitions/s", "wait p99", "hand-over p50", "fairness", "floor of a hand-over"):
            assert words in text
        assert "correctness: overlaps 0, order inversions 0, fences rising; no violation" in text

    def test_contenders_of_one_process_are_measured_as_json(self, etcd):
        """
        The document has the schema's fields.
        """
        modes = "threads,greenlets"
        words = ["bench", "lock", "--url", etcd.url, "--contenders", "1", "--mode", modes, "--json"]
        process = cli([*words, "--seconds", "0.2", "--repeats", "1"], stdout=subprocess.PIPE)

        shown, _ = process.communicate(timeout=50)

        assert process.returncode == 0
        document = json.loads(shown)
        assert document["schema"] == contention_report.SCHEMA and document["clean"]
        assert [scenario["mode"] for scenario in document["scenarios"]] == modes.split(",")
        for scenario in document["scenarios"]:
            assert scenario["contenders"] == 1
            assert scenario["summary"]["calls"]["median"] > 0
            assert scenario["correctness"]["holds"] >= scenario["summary"]["acquisitions"]["median"] > 0

    def test_puts_are_measured_beside_grpcio(self, etcd):
        """
        Each load has a row for both, a ratio and a bar.
        """
        pytest.importorskip("grpc")
        words = ["bench", "wire", "--url", etcd.url, "--mode", "gevent", "--seconds", "0.5", "--repeats", "1"]
        process = cli([*words, "--json"], stdout=subprocess.PIPE)

        shown, _ = process.communicate(timeout=50)

        assert process.returncode == 0
        document = json.loads(shown)
        assert [scenario["in_flight"] for scenario in document["scenarios"]] == [1, 64]
        assert all(
            scenario["ratios"]["grpcio"]["puts_per_s"]["median"] > 0 for scenario in document["scenarios"]
        )
        assert len(document["bars"]) == 2


    def test_subscribers_are_measured_beside_the_floor_of_a_delivery(self, etcd):
        """
        Every message to every subscriber is judged.
        """
        words = ["bench", "topic", "--url", etcd.url, "--subscribers", "2", "--repeats", "1", "--json"]
        process = cli([*words, "--messages", "200", "--samples", "5"], stdout=subprocess.PIPE)

        shown, _ = process.communicate(timeout=50)

        assert process.returncode == 0
        (scenario,) = json.loads(shown)["scenarios"]
        assert scenario["subscribers"] == 2
        # To both in batches, one by one to both, and one by one to a single one; of either kind.
        assert scenario["correctness"] == {"judged": 2 * (2 * 200 + 2 * 5 + 5), "wrong": 0}
        assert {"live_p50_us", "floor_p50_us", "retained_per_s"} <= scenario["repeats"].keys()


class TestNoServer:
    def test_without_etcd_the_demo_says_where_to_get_one(self):
        """
        Exit status 69, and nothing but the sentence.
        """
        hide = "import os; os.environ['COORDKIT_ETCD'] = '/nowhere/etcd'"
        process = cli(["demo"], hide, stderr=subprocess.PIPE)

        _, said = process.communicate(timeout=30)

        assert process.returncode == failure.UNREACHABLE
        assert said.startswith(b"coordkit: ") and b"Traceback" not in said

    @pytest.mark.parametrize("scheme", ["etcd", "etcds"])
    def test_a_url_where_nobody_answers_is_unreachable(self, scheme, capsys):
        """
        Exit status 69 before any worker is started, with TLS too.
        """
        status = main.main(["bench", "lock", "--url", f"{scheme}://127.0.0.1:1/x"])

        assert status == failure.UNREACHABLE
        assert "127.0.0.1:1" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "said"),
        [(["--rate", "0"], "'0' is no number a second above 0"), (["--url", "http://a:b:c"], "no endpoint")],
    )
    def test_what_makes_no_sense_is_refused(self, words, said, capsys):
        """
        Exit status 2, whoever notices it.
        """
        try:
            status = main.main(["bench", "lock", *words])
        except SystemExit as ended:
            status = ended.code

        assert status == failure.USAGE
        assert said in capsys.readouterr().err


@UNPATCHED
class TestInterruption:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda it: it.name)
    def test_a_signal_leaves_no_process_behind(self, etcd, number):
        """
        Exit status 128 and the signal's number, and every worker is gone.
        """
        stand_in = "contention.CONTENDERS = 'bench_stand_ins:Fair'"
        words = [
            "bench",
            "lock",
            "--url",
            etcd.url,
            "--contenders",
            "2",
            "--mode",
            "threads",
            "--seconds",
            "0.1",
            "--repeats",
            "99",
        ]
        process = cli(words, stand_in, stderr=subprocess.PIPE)
        assert b"repeat 1" in process.stderr.readline()
        workers = children(process.pid)
        assert len(workers) == 4  # one for the contenders, three for the floor

        process.send_signal(number)
        _, said = process.communicate(timeout=30)

        assert process.returncode == 128 + number
        assert b"Traceback" not in said
        assert not any(is_running(pid) for pid in workers)


def children(pid):
    try:
        path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
        return [int(word) for word in path.read_text().split()]
    except FileNotFoundError:
        pytest.skip("only Linux tells a process's children")


def test_histograms_of_repeats_are_merged():
    """
    A result's histogram is that of all its repeats.
    """
    times = [figures.LockTimes(waits=Histogram([n])) for n in (10, 20)]
    repeats = [contention.Repeat({}, each, history.Verdict(0, ())) for each in times]

    merged = contention.Result(primitives.Scenario("threads", 1), repeats).histogram("waits")

    assert merged == Histogram([10, 20])
