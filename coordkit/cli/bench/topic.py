"""`coordkit bench topic`: one publisher, many subscribers, beside serial puts and the floor of a delivery."""

from __future__ import annotations

import argparse
import pathlib
import secrets
import statistics
import tempfile
from typing import TYPE_CHECKING, Any

from coordkit.cli import failure, options, terminal
from coordkit.cli.bench import outputs

if TYPE_CHECKING:
    from coordkit.cli.bench.crew import Crew, Worker
    from coordkit.cli.bench.server import Server
    from coordkit.cli.bench.topic_report import Plan, Report, Result

_CREW = "coordkit.cli.bench.topic_crew"
_LIMIT_S = 60.0
_SWEEP = [count for count in outputs.SWEEP if count <= 32]  # each is a process for either kind of topic
_EXAMPLE = """\
examples:
  coordkit bench topic
  coordkit bench topic --subscribers 2 --repeats 5 --json
  coordkit bench topic --full --repeats 3 --plot topic.svg
  coordkit bench topic --url etcd://127.0.0.1:2379/bench

Each subscriber is a process.  Messages of 100 bytes are published in batches, from the first call until the
last subscriber has the last message, beside serial puts; then one by one, from each call to its delivery:
to all subscribers, and, beside the floor (put sent -> event in another process), to a single one.

exit status: 0; 1 when a message was missed or came twice, or a worker died; 69 when there is no etcd"""


def register(commands: Any) -> None:
    """Add `topic` to the benchmarks."""
    parser = options.command(commands, "topic", "one publisher, many subscribers", _EXAMPLE, run)
    parser.add_argument("--url", help="an etcd that runs already; by default a private one")
    parser.add_argument("--subscribers", type=options.count, default=8, metavar="N", help="default 8")
    parser.add_argument("--full", action="store_true", help="sweep 1 to 32 subscribers")
    parser.add_argument("--messages", type=options.count, default=10_000, help="per repeat; default 10000")
    parser.add_argument("--samples", type=options.count, default=150, help="deliveries timed; default 150")
    parser.add_argument("--repeats", type=options.count, default=5, help="default 5")
    outputs.register(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, judge, tell."""
    from coordkit.cli.bench.topic_report import Plan

    counts = _SWEEP if arguments.full else [arguments.subscribers]
    plan = Plan(counts, arguments.messages, arguments.samples, arguments.repeats)
    return outputs.run(arguments, lambda: measure(arguments.url, plan))


def measure(url: str | None, plan: Plan) -> Report:
    """All of it, on one server."""
    from coordkit.cli.bench import crew, machine, server, topic_report

    load = machine.load()
    progress = terminal.Progress(len(plan.subscribers) * plan.repeats)
    with server.serving(url) as etcd:
        try:
            results = [_measure(etcd, plan, subscribers, progress) for subscribers in plan.subscribers]
        except crew.WorkerDied as error:
            raise failure.CommandFailed(str(error), failure.VIOLATION) from error
        finally:
            progress.clear()
    return topic_report.Report(etcd, plan, results, load)


def _measure(server: Server, plan: Plan, subscribers: int, progress: terminal.Progress) -> Result:
    """All repeats, each of everything, so that all share the machine's moods."""
    from coordkit.cli.bench import crew, topic_report

    result = topic_report.Result(subscribers)
    with (
        tempfile.TemporaryDirectory(prefix="coordkit-bench-") as folder,
        crew.Crew(pathlib.Path(folder), progress.tick) as hired,
    ):
        teams = [_Team(server, kind, subscribers, plan, hired) for kind in topic_report.KINDS]
        pairs = [
            _Team(server, kind, 1, plan, hired) for kind in topic_report.KINDS
        ]  # beside the floor's pair
        floor = None
        if server.endpoint is not None:
            settings = {"endpoint": server.endpoint, "folder": f"/bench-topic/{secrets.token_hex(4)}"}
            floor = [hired.hire(role, f"{_CREW}:{role}", settings) for role in ("PutFloor", "EventFloor")]
        hired.ready()
        for number in range(plan.repeats):
            progress.begin(f"{result.name}, repeat {number + 1} of {plan.repeats}")
            teams[0].serial(result)
            for team, pair in zip(teams, pairs, strict=True):
                team.batches(result)
                result.add(f"{team.kind}_x", result.last(f"{team.kind}_per_s") / result.last("serial_per_s"))
                team.paced(result, f"{team.kind}_to_all_p50_us")
                if floor is not None:
                    put, seen = hired.work({each: {"samples": plan.samples} for each in floor}, _LIMIT_S)
                    result.add("floor_p50_us", _p50_us(put, seen))
                pair.paced(result, f"{pair.kind}_p50_us")
                if floor is not None:
                    times = result.last(f"{pair.kind}_p50_us") / result.last("floor_p50_us")
                    result.add(f"{pair.kind}_p50_x", times)
            progress.end(f"{result.last('retained_per_s'):,.0f} messages/s to each")
    return result


class _Team:
    """A publisher and its subscribers."""

    def __init__(self, server: Server, kind: str, subscribers: int, plan: Plan, crew: Crew) -> None:
        self.kind, self._plan, self._crew = kind, plan, crew
        name = f"{kind}-{secrets.token_hex(4)}"
        settings = {"url": server.url, "name": name, "retained": kind == "retained"}
        self._publisher = crew.hire(f"{name}-publisher", f"{_CREW}:Publisher", settings)
        self._subscribers = [
            crew.hire(f"{name}-subscriber-{number}", f"{_CREW}:Subscriber", settings)
            for number in range(subscribers)
        ]

    def serial(self, result: Result) -> None:
        (serial,) = self._crew.work({self._publisher: {"what": "serial", "amount": 0.5}}, _LIMIT_S)
        result.add("serial_per_s", serial["per_s"])

    def batches(self, result: Result) -> None:
        sent, *told = self._round(result, "batches", self._plan.messages)
        seconds = (max(each["end_ns"] for each in told) - sent["start_ns"]) / 1e9
        result.add(f"{self.kind}_per_s", self._plan.messages / seconds)

    def paced(self, result: Result, name: str) -> None:
        sent, *told = self._round(result, "paced", self._plan.samples)
        result.add(name, statistics.median(_p50_us(sent, each) for each in told))

    def _round(self, result: Result, what: str, amount: int) -> list[dict[str, Any]]:
        orders: dict[Worker, dict[str, Any]] = {self._publisher: {"what": what, "amount": amount}}
        orders.update({each: {"timed": what == "paced"} for each in self._subscribers})
        answers = self._crew.work(orders, _LIMIT_S)
        for told in answers[1:]:
            result.judged += amount
            result.wrong += told["wrong"] + abs(amount - told["count"])
        return answers


def _p50_us(sent: dict[str, list[int]], seen: dict[str, list[int]]) -> float:
    """From each sending to its arrival in another process."""
    arrived = dict(zip(seen["revisions"], seen["received_ns"], strict=True))
    both = zip(sent["revisions"], sent["sent_ns"], strict=True)
    return statistics.median(arrived[revision] - at for revision, at in both if revision in arrived) / 1e3
