"""Benchmarks of each primitive, within this process: what they see is judged, told, drawn and compared."""

from __future__ import annotations

import argparse
import csv
import json

import attrs
import pytest

import coordkit
from coordkit.cli import failure, main
from coordkit.cli.bench import (
    comparison,
    contention,
    contention_report,
    figures,
    outputs,
    queue_rounds,
    topic_report,
    transports,
    wire_report,
)
from coordkit.cli.bench.contenders import Contenders
from coordkit.cli.bench.primitives import PRIMITIVES, Context, Scenario
from coordkit.cli.bench.server import Server
from coordkit.testing import history
from coordkit.testing.history import Hold, Kind, Operation, Result, Rule, Verdict, clock_ns

CONTENDERS = 3


def contend(etcd, namespace, tmp_path, primitive, seconds=0.2, **terms):
    """One round of three contenders; what they saw, and the window."""
    url = f"etcd://{etcd.endpoint}/{namespace}"
    path = tmp_path / "history.jsonl"
    contenders = Contenders(url, "bench", ["0", "1", "2"], 0.0, primitive=primitive, terms=terms)
    start = clock_ns()
    try:
        contenders.round(start, start, start + round(seconds * 1e9), str(path), number=1)
    finally:
        contenders.close()
    return url, history.load(path), figures.Window(start, start + 10**10)


class TestEach:
    @pytest.mark.parametrize("name", sorted(PRIMITIVES))
    def test_contenders_of_each_primitive_are_judged_and_counted(self, etcd, namespace, tmp_path, name):
        """
        Its checker finds what the contenders did, and nothing wrong.
        """
        url, seen, window = contend(etcd, namespace, tmp_path, name)
        primitive = PRIMITIVES[name]

        verdict = primitive.judge(seen, Context(url, CONTENDERS, limit=1))
        times = figures.lock_times(primitive.holds(seen), window, primitive.passed)

        assert verdict.clean, verdict.violations[0].why
        assert verdict.holds == times.shares.total() > 0
        assert len(times.shares) == CONTENDERS

    def test_a_barrier_is_passed_by_all_and_broken_once(self, etcd, namespace, tmp_path):
        """
        Whoever sees the end of the round breaks the generation that would never fill.
        """
        _, seen, _ = contend(etcd, namespace, tmp_path, "barrier")

        broken = [each for each in seen if each.result is Result.FAIL]

        assert len({each.subject for each in broken}) <= 1
        assert not [each for each in seen if each.result is Result.UNKNOWN]

    def test_an_open_loop_counts_from_the_meant_beginning(self, etcd, namespace, tmp_path):
        """
        Cycles begin on a grid, whenever the one before has ended.
        """
        _, seen, _ = contend(etcd, namespace, tmp_path, "lock", every_ns=10_000_000)

        asked = sorted(each.invoked_ns for each in seen if each.kind is Kind.ACQUIRE)

        assert {(later - asked[0]) % 10_000_000 for later in asked} == {0}

    def test_two_sessions_with_one_lease_are_found(self):
        """
        A lease is never granted twice.
        """
        opened = Operation(Kind.ACQUIRE, Result.OK, 1, "a", 0, 1, 2, fence=7)

        verdict = PRIMITIVES["session"].judge([opened, attrs.evolve(opened, contender="b")], None)

        assert verdict.count(Rule.FENCE) == 1


def call(who, invoked_ns, completed_ns, **fields):
    return Hold(Operation(Kind.WAIT, Result.OK, 1, who, 0, invoked_ns, completed_ns, **fields), None)


class TestPassings:
    WINDOW = figures.Window(0, 100)

    def test_of_a_barrier_they_count_from_the_last_to_arrive(self):
        """
        Generation by generation; the last one itself is not counted.
        """
        holds = [
            call("a", 1, 12, subject="1"),
            call("b", 9, 11, subject="1"),
            call("a", 20, 26, subject="2"),
            call("b", 22, 25, subject="2"),
        ]

        assert list(figures.from_the_last_to_arrive(holds, self.WINDOW)) == [(9, 3), (22, 4)]

    def test_of_readers_and_writers_only_writers_hand_over(self):
        """
        After a reader's release there may be other readers.
        """
        holds = []
        for number, subject in enumerate(["write", "read", "read"]):
            at = 10 * number
            told = {"fence": number + 1, "subject": subject}
            acquire = Operation(Kind.ACQUIRE, Result.OK, 1, "a", 0, 0, at + 1, **told)
            release = Operation(Kind.RELEASE, Result.OK, 1, "a", 1, at + 5, at + 6, **told)
            holds.append(Hold(acquire, release))

        assert list(figures.from_writers(holds, self.WINDOW)) == [(5, 6)]

    def test_a_rival_is_overtaken_by_what_is_handed_on_while_it_waits(self):
        """
        Counted from its call; the first of a turn was handed nothing.
        """
        holds = [call("0", 0, at, number=at // 10) for at in (5, 15, 25, 35)]
        holds += [call("rival-0", 3, 30, number=0)]

        found = figures.rivalry(holds)

        assert found == {"rival_turns": 1, "overtaken_p50": 2, "overtaken_max": 2}


def document(rates, **fields):
    """What a benchmark of a lock would have told."""
    repeats = [{"acquisitions_per_s": rate} for rate in rates]
    return {
        "schema": "s/1",
        "benchmark": "lock",
        "scenarios": [{"name": "2 threads", "repeats": repeats}],
        **fields,
    }


@attrs.frozen
class Told:
    """What a benchmark makes of a run with these rates."""

    rates: list[float]
    clean: bool = True
    bars = ()

    def as_json(self):
        return document(self.rates)

    def show(self):
        print("shown")


class TestOutputs:
    def test_every_figure_of_every_repeat_is_a_line_of_csv(self, tmp_path):
        """
        With its scenario, whichever benchmark it is of.
        """
        outputs.write_csv([document([1.0, 2.0])], tmp_path / "x.csv")

        rows = list(csv.reader((tmp_path / "x.csv").read_text().splitlines()))

        assert rows[1:] == [
            ["lock", "1", "2 threads", "acquisitions_per_s", "1", "1.0"],
            ["lock", "1", "2 threads", "acquisitions_per_s", "2", "2.0"],
        ]

    def test_series_are_found_in_documents_of_every_kind(self):
        """
        Rounds by client, repeats as a list, repeats by figure.
        """
        wire = {"scenarios": [{"name": "one", "rounds": {"us": [{"x": 1}, {"x": 2}]}}]}

        assert comparison.series(wire) == {("one, us", "x"): [1, 2]}
        assert comparison.series({"repeats": {"x": [1, 2]}}) == {("", "x"): [1, 2]}
        pairs = {"scenarios": [{"name": "one", "pairs": {"them": [{"x": 1}, {"x": 2}]}}]}
        assert comparison.series(pairs) == {("one, by them's", "x"): [1, 2]}
        topic = {"scenarios": [{"name": "one", "repeats": {"x": [1, 2]}}]}
        assert comparison.series(topic) == {("one", "x"): [1, 2]}
        assert comparison.series({"repeats": [{"x": 1}, {"x": 2}]}) == {("", "x"): [1, 2]}

    def test_runs_are_compared_by_ratio_and_by_their_quartiles(self):
        """
        Ranges that do not meet are told; too few repeats say nothing.
        """
        old, near, far = document([10.0, 11, 12]), document([11.0, 12, 13]), document([30.0, 33, 36])

        assert [each.overlap for each in comparison.compare(old, near)] == [True]
        (apart,) = comparison.compare(old, far)
        assert (apart.ratio, apart.overlap) == (3, False)
        assert comparison.compare(old, document([30.0]))[0].overlap is None

    def test_a_run_of_another_benchmark_is_refused(self):
        """
        Ratios between different things would mean nothing.
        """
        with pytest.raises(failure.CommandFailed, match="of queue"):
            comparison.compare(document([1.0], benchmark="queue"), document([1.0]))

    def test_a_run_with_nothing_in_common_is_refused(self):
        """
        An empty table would look like a comparison.
        """
        other = document([1.0])
        other["scenarios"][0]["name"] = "9 threads"

        with pytest.raises(failure.CommandFailed, match=r"nothing in common .* has 9 threads"):
            comparison.compare(other, document([1.0]))

    def test_an_earlier_run_that_cannot_be_read_is_a_usage_error(self, tmp_path, capsys):
        """
        And it is found before anything is measured again.
        """
        status = main.main(["bench", "lock", "--compare", str(tmp_path / "none.json")])

        assert status == failure.USAGE
        assert "no earlier run" in capsys.readouterr().err

    @pytest.mark.parametrize("kept", ["[1]", "{}"])
    def test_what_is_no_benchmarks_document_is_refused_at_once(self, kept, tmp_path, capsys):
        """
        Before anything is measured, as a table for which there is no folder is.
        """
        (tmp_path / "kept.json").write_text(kept)

        assert main.main(["bench", "lock", "--compare", str(tmp_path / "kept.json")]) == failure.USAGE
        assert "no benchmark's document" in capsys.readouterr().err
        assert main.main(["bench", "lock", "--csv", str(tmp_path / "none" / "x.csv")]) == failure.USAGE
        assert "no folder" in capsys.readouterr().err

    def run(self, rates, *words):
        """`outputs.run` with these options; each run is the next of the rates."""
        parser = argparse.ArgumentParser()
        outputs.register(parser)
        runs = iter(rates)
        return outputs.run(parser.parse_args(words), lambda: Told(next(runs)))

    def test_a_run_that_cannot_be_compared_is_told_all_the_same(self, tmp_path, capsys):
        """
        As a document where that was asked for; then the error follows.
        """
        (tmp_path / "kept.json").write_text(json.dumps(document([1.0], benchmark="queue")))

        with pytest.raises(failure.CommandFailed, match="of queue"):
            self.run([[10.0]], "--json", "--compare", str(tmp_path / "kept.json"))

        told = json.loads(capsys.readouterr().out)
        assert told["scenarios"][0]["repeats"][0] == {"acquisitions_per_s": 10}

    def test_a_run_that_is_done_twice_is_told_with_the_first_and_what_changed(self, capsys):
        """
        The document is the second run's.
        """
        status = self.run([[10.0, 11, 12], [30.0, 33, 36]], "--twice", "--json")

        told = json.loads(capsys.readouterr().out)

        assert status == 0
        assert told["scenarios"][0]["repeats"][0] == {"acquisitions_per_s": 30}
        assert told["first"]["scenarios"][0]["repeats"][0] == {"acquisitions_per_s": 10}
        assert [(each["ratio"], each["overlap"]) for each in told["comparison"]] == [(3, False)]

    @pytest.mark.parametrize(
        ("second", "status"), [([11.0, 12, 13], 0), ([30.0, 33, 36], 1), ([11.0, 12], 1)]
    )
    def test_strict_wants_two_runs_that_are_alike(self, capsys, second, status):
        """
        Ranges that do not meet fail it, and so do too few repeats to say.
        """
        assert self.run([[10.0, 11, 12], second], "--twice", "--strict") == status
        assert self.run([[10.0, 11, 12], second], "--twice") == 0

    def test_a_figure_of_which_nothing_can_be_said_is_counted(self, capsys):
        """
        Two repeats have no quartiles.
        """
        self.run([[10.0, 11], [10.0, 11]], "--twice")

        assert "0 of 0 do not overlap; of 1 figures there are too few repeats" in capsys.readouterr().out

    def test_a_broken_rule_in_either_run_fails_both(self):
        """
        Whatever the figures are.
        """
        parser = argparse.ArgumentParser()
        outputs.register(parser)
        runs = iter([Told([1.0], clean=False), Told([1.0])])

        assert outputs.run(parser.parse_args(["--twice"]), lambda: next(runs)) == failure.VIOLATION

    def test_both_runs_are_in_the_csv(self, tmp_path, capsys):
        """
        With their numbers.
        """
        self.run([[1.0], [2.0]], "--twice", "--csv", str(tmp_path / "x.csv"))

        rows = list(csv.reader((tmp_path / "x.csv").read_text().splitlines()))

        assert [(row[1], row[5]) for row in rows[1:]] == [("1", "1.0"), ("2", "2.0")]

    def test_a_run_is_drawn(self, etcd, namespace, tmp_path):
        """
        All four plots, from the document alone.
        """
        pytest.importorskip("matplotlib")
        from coordkit.cli.bench import plots

        _, seen, window = contend(etcd, namespace, tmp_path, "lock")
        times = figures.lock_times(PRIMITIVES["lock"].holds(seen), window)
        repeat = contention.Repeat(figures.lock_figures(times, CONTENDERS), times, Verdict(1, ()))
        result = contention.Result(Scenario("threads", CONTENDERS), [repeat])
        server = Server("etcd://nowhere", None, "3.5.1", private=False)
        report = contention_report.Report(server, contention.Plan(repeats=1), [result])

        plots.draw(json.loads(json.dumps(report.as_json())), tmp_path / "x.svg")

        assert (tmp_path / "x.svg").read_text().count("<g id=\"axes_") >= 4


def test_an_open_loop_of_a_queue_delivers_everything(etcd, namespace):
    """
    Puts and deliveries are timed from when each item was meant to be put.
    """
    found = queue_rounds.open_loop(f"etcd://{etcd.endpoint}/{namespace}", 200.0, 0.2)

    assert 0 < found["open_put_p50_us"] <= found["open_put_max_us"]
    assert found["open_delivery_p50_us"] > 0


class TestSweeps:
    """What --full adds."""

    def test_single_puts_of_few_callers_are_all_there(self, etcd, namespace, monkeypatch):
        """
        A queue in which one is missing ends the run.
        """
        url, load = f"etcd://{etcd.endpoint}/{namespace}", queue_rounds.Load(callers=2, each=3)

        assert min(queue_rounds.concurrent(url, load).values()) > 0

        monkeypatch.setattr(coordkit.Queue, "qsize", lambda self: 5)
        with pytest.raises(RuntimeError, match="5 of 6 concurrent puts"):
            queue_rounds.concurrent(url, load)

    def test_more_subscribers_than_the_bar_was_set_for_have_none_for_their_rate(self):
        """
        That of a delivery counts for all.
        """
        found = {f"{kind}_{figure}": [1.0] for kind in topic_report.KINDS for figure in ("x", "p50_x")}

        few, many = (topic_report.Result(count, found).bars for count in (8, 9))

        assert [bar.passed for bar in few] == [False, True] * 2
        assert [bar.most for bar in many] == [2, 2]

    def test_a_delivery_that_is_wrong_in_any_scenario_is_told(self):
        """
        However many were right.
        """
        server = Server("etcd://nowhere", None, "3.5.1", private=False)
        results = [topic_report.Result(1, {}, 5, 0), topic_report.Result(2, {}, 5, 1)]
        report = topic_report.Report(server, topic_report.Plan([1, 2], 1, 1, 1), results, 0.0)

        assert not report.clean
        assert "1 of 10 deliveries" in report.correctness()

    def test_puts_in_flight_between_the_bars_have_none(self):
        """
        Bars are for one at a time and for 64.
        """
        rounds = {client: [{"puts_per_s": 1.0, "cpu_us": 1.0}] for client in ("coordkit", "grpcio")}
        results = [
            transports.Result(transports.Scenario("threads", in_flight), rounds) for in_flight in (1, 8, 64)
        ]
        server = Server("etcd://nowhere", None, "3.5.1", private=False)

        bars = wire_report.Report(server, results, None, 0.0).bars

        assert [bar.least for bar in bars] == [1.2, 2.0]
