"""`coordkit bench lock`: one fair lock under contention, beside its floor, with every grant judged."""

from __future__ import annotations

import argparse
import json
from typing import Any

from coordkit.cli import failure, options, terminal

_EXAMPLE = """\
examples:
  coordkit bench lock                               1, 2 and 8 processes, under two minutes
  coordkit bench lock --contenders 1,2,4,8,16,32 --mode threads --json > threads.json
  coordkit bench lock --url etcd://127.0.0.1:2379/bench --hold 0.001

exit status: 0; 1 when a rule was broken or a worker died (the history is kept); 69 when there is no etcd"""


def register(commands: Any) -> None:
    """Add `lock` to the benchmarks."""
    parser = options.command(commands, "lock", "one fair lock under contention", _EXAMPLE, run)
    parser.add_argument("--url", help="an etcd that runs already; by default a private one")
    parser.add_argument(
        "--contenders", type=_counts, default=[1, 2, 8], metavar="N,N", help="how many; default 1,2,8"
    )
    parser.add_argument(
        "--mode", type=_modes, default=["processes"], metavar="MODE,MODE",
        help="processes (default), threads or greenlets of one process",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=options.positive, default=2.0, help="measured per repeat; default 2"
    )
    parser.add_argument("--repeats", type=options.count, default=5, help="of each scenario; default 5")
    parser.add_argument(
        "--hold", type=options.duration, default=0.0, metavar="SEC", help="inside the critical section"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")


def run(arguments: argparse.Namespace) -> int:
    """Measure, judge, tell."""
    from coordkit.cli.bench.contention import Plan, Scenario

    plan = Plan(seconds=arguments.seconds, repeats=arguments.repeats, hold_s=arguments.hold)
    scenarios = [Scenario(mode, count) for mode in arguments.mode for count in arguments.contenders]
    report = measure(arguments.url, plan, scenarios)
    if arguments.json:
        print(json.dumps(report.as_json(), indent=1))
    else:
        report.show()
    missed = arguments.strict and not all(bar.passed for bar in report.bars)
    return failure.VIOLATION if missed or not report.clean else 0


def measure(url: str | None, plan: Any, scenarios: list[Any]) -> Any:
    """Every scenario in turn on one server; the report of all."""
    from coordkit.cli.bench import contention, lock_report, machine, server

    load = machine.load()
    progress = terminal.Progress(len(scenarios) * plan.repeats)
    with server.serving(url) as etcd:
        try:
            results = [contention.measure(etcd, scenario, plan, progress) for scenario in scenarios]
        finally:
            progress.clear()
    return lock_report.Report(etcd, plan, results, load)


def _counts(text: str) -> list[int]:
    return [options.count(part) for part in text.split(",")]


def _modes(text: str) -> list[str]:
    from coordkit.cli.bench.contention import MODES

    modes = text.split(",")
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(MODES)}")
    return modes
