"""`coordkit demo`: several processes, one lock, a private etcd, and a checker that watches all of it.

It is `coordkit bench lock` with one scenario, so it needs nothing but the base install and an etcd server.
"""

from __future__ import annotations

import argparse
from typing import Any

from coordkit.cli import failure, options
from coordkit.cli.bench import contend

_REPEATS = 5
_EXAMPLE = """\
examples:
  coordkit demo
  coordkit demo --processes 2 --seconds 5

exit status: 0; 1 when a rule was broken or a worker died (the history is kept); 69 when there is no etcd"""


def register(commands: Any) -> None:
    """Add `demo`."""
    parser = options.command(commands, "demo", "contend for one lock on a private etcd", _EXAMPLE, run)
    seconds = "of contention, in five parts; default 10"
    parser.add_argument("--seconds", type=options.positive, default=10.0, help=seconds)
    parser.add_argument("--processes", type=options.count, default=8, help="that contend; default 8")


def run(arguments: argparse.Namespace) -> int:
    """Contend, judge, tell."""
    from coordkit.cli.bench.contention import Plan
    from coordkit.cli.bench.primitives import Scenario

    seconds = arguments.seconds / _REPEATS
    plan = Plan(
        seconds,
        _REPEATS,
        warm_up_s=min(0.3, seconds / 2),
        floor_seconds=min(0.5, seconds / 4),
        floor_samples=min(200, round(100 * seconds) + 20),
    )
    report = contend.measure(None, plan, [Scenario("processes", arguments.processes)])
    report.show_verdict_first()
    return 0 if report.clean else failure.VIOLATION
