"""`coordkit bench lock`, `election` and so on: contenders for one primitive, beside its floor, all judged."""

from __future__ import annotations

import argparse
import functools
from typing import Any

import attrs

from coordkit import terms
from coordkit.cli import options, terminal
from coordkit.cli.bench import outputs

_EXAMPLE = """\
examples:
  coordkit bench {name}                               {contenders} contenders, under two minutes
  coordkit bench {name} --contenders 1,2,4,8,16,32 --mode threads --json > threads.json
  coordkit bench {name} --full --plot {name}.svg --csv {name}.csv
  coordkit bench {name} --url etcd://127.0.0.1:2379/bench --hold 0.001 --compare threads.json

exit status: 0; 1 when a rule was broken or a worker died (the history is kept); 69 when there is no etcd"""


@attrs.frozen
class _Command:
    """One of them, and what it measures by default."""

    name: str
    summary: str
    contenders: list[int]
    modes: list[str]
    rivals: tuple[int, ...] = (0,)  # of other processes beside


_COMMANDS = (
    _Command("lock", "one fair lock under contention", [1, 2, 8], ["processes"]),
    _Command("rwlock", "readers and writers of one lock", [2, 8], ["processes"]),
    _Command("semaphore", "permits, fewer than contend for them", [2, 8], ["processes"]),
    _Command("cohort", "a lock that threads hand on among themselves", [32], ["threads"], (0, 1)),
    _Command("election", "candidates that are elected and resign", [2, 8], ["processes"]),
    _Command("barrier", "a barrier, passed again and again", [2, 8], ["processes"]),
    _Command("counter", "one counter, to which all add", [1, 8], ["processes", "threads"]),
    _Command("session", "sessions that are opened and closed", [1, 8], ["threads"]),
)


def register(commands: Any) -> None:
    """Add a benchmark for each primitive."""
    for command in _COMMANDS:
        _register(commands, command)


def _register(commands: Any, primitive: _Command) -> None:
    contenders, modes = ",".join(map(str, primitive.contenders)), ",".join(primitive.modes)
    example = _EXAMPLE.format(name=primitive.name, contenders=contenders)
    run_it = functools.partial(run, primitive)
    parser = options.command(commands, primitive.name, primitive.summary, example, run_it)
    parser.add_argument("--url", help="an etcd that runs already; by default a private one")
    parser.add_argument(
        "--contenders", type=_counts, default=primitive.contenders, metavar="N,N",
        help=f"how many; default {contenders}",
    )  # fmt: skip
    parser.add_argument(
        "--mode", type=_modes, default=primitive.modes, metavar="MODE,MODE",
        help=f"processes, threads or greenlets of one process; default {modes}",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=options.positive, default=2.0, help="measured per repeat; default 2"
    )
    parser.add_argument("--repeats", type=options.count, default=5, help="of each scenario; default 5")
    parser.add_argument(
        "--hold", type=options.duration, default=0.0, metavar="SEC", help="inside the critical section"
    )
    parser.add_argument(
        "--rate", type=options.rate, metavar="N",
        help="open loop: so many cycles a second in all, each measured from when it was meant to begin",
    )  # fmt: skip
    parser.add_argument(
        "--full", action="store_true", help="sweep 1 to 64 contenders in processes, threads and greenlets"
    )
    if primitive.name in ("lock", "election"):
        parser.add_argument(
            "--crashes", type=options.count, default=0, metavar="N",
            help="also kill -9 the holder N times, and tell how long until the next one holds",
        )  # fmt: skip
        parser.add_argument(
            "--ttl", type=_ttl, default=3, metavar="SEC", help="of the sessions of those killed; default 3"
        )
    if primitive.name == "semaphore":
        parser.add_argument("--limit", type=options.count, help="permits; default half as many as contend")
    if primitive.name == "rwlock":
        parser.add_argument(
            "--write-every", type=options.count, default=10, metavar="N", help="one of N writes; default 10"
        )
    outputs.register(parser)


def run(primitive: _Command, arguments: argparse.Namespace) -> int:
    """Measure, judge, tell."""
    from coordkit.cli.bench.contention import MODES, Plan
    from coordkit.cli.bench.primitives import Scenario

    if arguments.full:
        arguments.contenders, arguments.mode = outputs.SWEEP, list(MODES)
    plan = Plan(
        seconds=arguments.seconds,
        repeats=arguments.repeats,
        hold_s=arguments.hold,
        rate=arguments.rate or 0.0,
        limit=getattr(arguments, "limit", None),
        write_every=getattr(arguments, "write_every", 10),
        crashes=getattr(arguments, "crashes", 0),
    )
    scenarios = _scenarios(primitive, arguments.mode, arguments.contenders)
    if plan.crashes:
        scenarios.append(Scenario("processes", 2, primitive.name, ttl_s=arguments.ttl))
    return outputs.run(arguments, lambda: measure(arguments.url, plan, scenarios))


def _scenarios(primitive: _Command, modes: list[str], counts: list[int]) -> list[Any]:
    from coordkit.cli.bench.primitives import Scenario

    return [
        Scenario(mode, count, primitive.name, rivals)
        for mode in modes
        for count in counts
        for rivals in primitive.rivals
    ]


def measure(url: str | None, plan: Any, scenarios: list[Any]) -> Any:
    """Every scenario in turn on one server; the report of all."""
    from coordkit.cli.bench import contention, contention_report, crashes, machine, server

    load = machine.load()
    progress = terminal.Progress(sum(plan.crashes if each.ttl_s else plan.repeats for each in scenarios))
    with server.serving(url) as etcd:
        try:
            results = [
                (crashes if scenario.ttl_s else contention).measure(etcd, scenario, plan, progress)
                for scenario in scenarios
            ]
        finally:
            progress.clear()
    return contention_report.Report(etcd, plan, results, load)


def _counts(text: str) -> list[int]:
    return list(dict.fromkeys(options.count(part) for part in text.split(",")))


def _ttl(text: str) -> int:
    if options.count(text) < terms.LEAST_TTL_S:
        raise argparse.ArgumentTypeError(f"etcd's least is {terms.LEAST_TTL_S} s")
    return int(text)


def _modes(text: str) -> list[str]:
    from coordkit.cli.bench.contention import MODES

    modes = list(dict.fromkeys(text.split(",")))
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(MODES)}")
    return modes
