"""`coordkit bench wire`: single puts, one at a time and 64 in flight, beside another transport."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from coordkit.cli import failure, options, terminal
from coordkit.cli.bench import outputs

if TYPE_CHECKING:
    from coordkit.cli.bench import wire_report

_EXAMPLE = """\
examples:
  coordkit bench wire --vs grpcio                   5 interleaved pairs, threads and gevent
  coordkit bench wire --vs none --mode gevent --seconds 3
  coordkit bench wire --full --plot wire.svg

exit status: 0; 1 when a worker died or, with --strict, when a bar is missed; 69 when there is no etcd"""


def register(commands: Any) -> None:
    """Add `wire` to the benchmarks."""
    parser = options.command(commands, "wire", "puts beside another transport", _EXAMPLE, run)
    parser.add_argument("--url", help="an etcd that runs already; by default a private one")
    parser.add_argument("--vs", choices=("grpcio", "none"), default="grpcio", help="default grpcio")
    parser.add_argument(
        "--mode", choices=("threads", "gevent", "both"), default="both", help="callers; default both"
    )
    parser.add_argument("--seconds", type=options.positive, default=1.5, help="per client; default 1.5")
    parser.add_argument("--repeats", type=options.count, default=5, help="pairs; default 5")
    parser.add_argument(
        "--full", action="store_true", help="sweep 1 to 64 puts in flight, not only these two"
    )
    outputs.register(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure both in turn, and tell."""
    return outputs.run(arguments, lambda: _measure(arguments))


def _measure(arguments: argparse.Namespace) -> wire_report.Report:
    from coordkit.cli.bench import machine, server, transports, wire_report
    from coordkit.cli.bench.crew import WorkerDied

    modes = ("threads", "gevent") if arguments.mode == "both" else (arguments.mode,)
    loads = outputs.SWEEP if arguments.full else (1, 64)
    scenarios = [transports.Scenario(mode, load) for mode in modes for load in loads]
    peer, skipped = transports.peer(arguments.vs)
    load = machine.load()
    progress = terminal.Progress(len(scenarios) * arguments.repeats)
    with server.serving(arguments.url) as etcd:
        try:
            results = transports.measure(
                etcd, scenarios, peer, arguments.repeats, arguments.seconds, progress
            )
        except WorkerDied as error:
            raise failure.CommandFailed(str(error), failure.VIOLATION) from error
        finally:
            progress.clear()
    return wire_report.Report(etcd, results, skipped, load)
