"""`coordkit bench topic`: one publisher, many subscribers, beside serial puts and the floor of a delivery."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import secrets
import statistics
import tempfile
from typing import TYPE_CHECKING, Any

import attrs

from coordkit.cli import failure, options, terminal
from coordkit.cli.bench import outputs

if TYPE_CHECKING:
    from coordkit.cli.bench.crew import Crew, Worker
    from coordkit.cli.bench.server import Server

SCHEMA = "coordkit-bench-topic/1"
_KINDS = ("live", "retained")
_CREW = "coordkit.cli.bench.topic_crew"
_LIMIT_S = 60.0
_EXAMPLE = """\
examples:
  coordkit bench topic
  coordkit bench topic --subscribers 2 --repeats 5 --json
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
    parser.add_argument("--messages", type=options.count, default=10_000, help="per repeat; default 10000")
    parser.add_argument("--samples", type=options.count, default=150, help="deliveries timed; default 150")
    parser.add_argument("--repeats", type=options.count, default=5, help="default 5")
    outputs.register(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, judge, tell."""
    plan = Plan(arguments.subscribers, arguments.messages, arguments.samples, arguments.repeats)
    return outputs.run(arguments, lambda: _run(arguments.url, plan))


def _run(url: str | None, plan: Plan) -> Report:
    """All of it, on one server."""
    from coordkit.cli.bench import crew, machine, server

    load = machine.load()
    progress = terminal.Progress(plan.repeats)
    with server.serving(url) as etcd, tempfile.TemporaryDirectory(prefix="coordkit-bench-") as folder:
        try:
            with crew.Crew(pathlib.Path(folder), progress.tick) as hired:
                return measure(etcd, plan, hired, progress, load)
        except crew.WorkerDied as error:
            raise failure.CommandFailed(str(error), failure.VIOLATION) from error
        finally:
            progress.clear()


@attrs.frozen
class Plan:
    """How much of it."""

    subscribers: int
    messages: int
    samples: int
    repeats: int


@attrs.define
class Report:
    """What was measured: a list of repeats under each name, which ends in its unit."""

    server: Server
    plan: Plan
    load: float
    found: dict[str, list[float]] = attrs.Factory(dict)
    judged: int = 0
    wrong: int = 0

    def add(self, name: str, value: float) -> None:
        self.found.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.found[name])

    @property
    def bars(self) -> list[Any]:
        """What a release must reach."""
        from coordkit.cli.bench.bars import Bar

        bars = []
        for kind in _KINDS:
            rate = self.median(f"{kind}_per_s") / self.median("serial_per_s")
            bars.append(Bar(f"{kind}: messages/s by serial puts/s", rate, least=5))
            if "floor_p50_us" in self.found:
                delivery = self.median(f"{kind}_p50_us") / self.median("floor_p50_us")
                bars.append(Bar(f"{kind}: delivery p50 by its floor", delivery, most=2))
        return bars

    @property
    def clean(self) -> bool:
        return not self.wrong

    def correctness(self) -> str:
        return f"correctness: {self.wrong} of {self.judged:,} deliveries missing, repeated or out of order"

    def show(self) -> None:
        """To standard output, for people."""
        from coordkit.cli.bench import machine

        kind = "private etcd" if self.server.private else "etcd"
        title = (
            f"{kind} {self.server.version}; 1 publisher, {self.plan.subscribers} subscribers; median of "
            f"{self.plan.repeats} repeats (lowest to highest)"
        )
        forms = {True: "{:,.0f}", False: "{:,.2f}"}
        rows = [
            [name, " ".join(["{0}", "({1} to {2})"]).format(
                *(forms[name.endswith("_per_s")].format(n) for n in (statistics.median(v), min(v), max(v)))
            )]
            for name, v in self.found.items()
        ]  # fmt: skip
        terminal.Table(title, ["", "measured"], rows).show()
        for bar in self.bars:
            print(bar)
        if warning := machine.busy(self.load):
            print(warning)
        print(self.correctness())

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        from coordkit.cli.bench import machine

        return {
            "schema": SCHEMA,
            "benchmark": "topic",
            "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": machine.facts(self.load),
            "etcd": {"version": self.server.version, "private": self.server.private},
            "plan": attrs.asdict(self.plan),
            "repeats": self.found,
            "correctness": {"judged": self.judged, "wrong": self.wrong},
            "bars": [bar.as_json() for bar in self.bars],
        }


def measure(server: Server, plan: Plan, crew: Crew, progress: terminal.Progress, load: float) -> Report:
    """All repeats, each of everything, so that all share the machine's moods."""
    report = Report(server, plan, load)
    teams = [_Team(server, kind, plan.subscribers, plan, crew) for kind in _KINDS]
    pairs = [_Team(server, kind, 1, plan, crew) for kind in _KINDS]  # to be compared with the floor's pair
    floor = None
    if server.endpoint is not None:
        settings = {"endpoint": server.endpoint, "folder": f"/bench-topic/{secrets.token_hex(4)}"}
        floor = [crew.hire(role, f"{_CREW}:{role}", settings) for role in ("PutFloor", "EventFloor")]
    crew.ready()
    for number in range(plan.repeats):
        progress.begin(f"repeat {number + 1} of {plan.repeats}")
        teams[0].serial(report)
        for team, pair in zip(teams, pairs, strict=True):
            team.batches(report)
            team.paced(report, f"{team.kind}_to_all_p50_us")
            if floor is not None:
                put, seen = crew.work({each: {"samples": plan.samples} for each in floor}, _LIMIT_S)
                report.add("floor_p50_us", _p50_us(put, seen))
            pair.paced(report, f"{pair.kind}_p50_us")
        progress.end(f"{report.found['retained_per_s'][-1]:,.0f} messages/s to each subscriber")
    return report


class _Team:
    """A publisher and its subscribers."""

    def __init__(self, server: Server, kind: str, subscribers: int, plan: Plan, crew: Crew) -> None:
        self.kind, self._plan, self._crew = kind, plan, crew
        settings = {
            "url": server.url, "name": f"bench-{secrets.token_hex(4)}", "retained": kind == "retained"
        }  # fmt: skip
        self._publisher = crew.hire(f"{kind}-{subscribers}-publisher", f"{_CREW}:Publisher", settings)
        self._subscribers = [
            crew.hire(f"{kind}-{subscribers}-subscriber-{number}", f"{_CREW}:Subscriber", settings)
            for number in range(subscribers)
        ]

    def serial(self, report: Report) -> None:
        (serial,) = self._crew.work({self._publisher: {"what": "serial", "amount": 0.5}}, _LIMIT_S)
        report.add("serial_per_s", serial["per_s"])

    def batches(self, report: Report) -> None:
        sent, *told = self._round(report, "batches", self._plan.messages)
        seconds = (max(each["end_ns"] for each in told) - sent["start_ns"]) / 1e9
        report.add(f"{self.kind}_per_s", self._plan.messages / seconds)

    def paced(self, report: Report, name: str) -> None:
        sent, *told = self._round(report, "paced", self._plan.samples)
        report.add(name, statistics.median(_p50_us(sent, each) for each in told))

    def _round(self, report: Report, what: str, amount: int) -> list[dict[str, Any]]:
        orders: dict[Worker, dict[str, Any]] = {self._publisher: {"what": what, "amount": amount}}
        orders.update({each: {"timed": what == "paced"} for each in self._subscribers})
        answers = self._crew.work(orders, _LIMIT_S)
        for told in answers[1:]:
            report.judged += amount
            report.wrong += told["wrong"] + abs(amount - told["count"])
        return answers


def _p50_us(sent: dict[str, list[int]], seen: dict[str, list[int]]) -> float:
    """From each sending to its arrival in another process."""
    arrived = dict(zip(seen["revisions"], seen["received_ns"], strict=True))
    both = zip(sent["revisions"], sent["sent_ns"], strict=True)
    return statistics.median(arrived[revision] - at for revision, at in both if revision in arrived) / 1e3
