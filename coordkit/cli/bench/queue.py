"""`coordkit bench queue`: batches, coalesced puts and a peer side by side; a consumer's memory."""

from __future__ import annotations

import argparse
import datetime
from typing import Any

import attrs

from coordkit.cli import failure, options, terminal
from coordkit.cli.bench import outputs

_EXAMPLE = """\
examples:
  coordkit bench queue
  coordkit bench queue --drain 100000 --json > queue.json

exit status: 0; 1 when an item was lost, came twice or out of order; 69 when there is no etcd"""

SCHEMA = "coordkit-bench-queue/1"

#: A figure, what it is compared with, and how many times that it must be.
_BARS = (
    ("put_many", "put_many_per_s", "put_per_s", 20),
    ("claim_many and ack", "claim_ack_per_s", "peer_get_per_s", 20),
    ("concurrent puts", "concurrent_puts_per_s", "concurrent_uncoalesced_per_s", 3),
)


def register(commands: Any) -> None:
    """Add `queue` to the benchmarks."""
    parser = options.command(commands, "queue", "a queue: batches, coalescing, memory", _EXAMPLE, run)
    parser.add_argument("--url", help="an etcd that runs already; by default a private one")
    parser.add_argument("--repeats", type=options.count, default=5, help="of each pair; default 5")
    parser.add_argument(
        "--drain", type=options.count, metavar="N", help="also drain N items of 1 KiB, and tell the memory"
    )
    parser.add_argument(
        "--rate", type=options.positive, metavar="N",
        help="also an open loop: N items a second for 2 seconds, measured from when each was meant to be put",
    )  # fmt: skip
    outputs.register(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, judge, tell."""
    from coordkit.cli.bench import bars, figures, machine, queue_rounds, server

    busy = machine.load()
    load = queue_rounds.Load()
    outputs.check(arguments)
    progress = terminal.Progress(arguments.repeats)
    peak_mib: float | None = None
    with server.serving(arguments.url) as etcd:
        rounds = []
        try:
            for number in range(arguments.repeats):
                progress.begin(f"round {number + 1}")
                rounds.append(queue_rounds.measure(etcd.url, load))
                if arguments.rate:
                    rounds[-1] |= queue_rounds.open_loop(etcd.url, arguments.rate, 2.0)
                progress.end("sound")
            if arguments.drain:
                peak_mib = queue_rounds.drain_peak_mib(etcd.url, arguments.drain)
        except RuntimeError as error:
            raise failure.CommandFailed(f"correctness: {error}", failure.VIOLATION) from error
        finally:
            progress.clear()
    summary = figures.summary(rounds)
    met = [bars.Bar(name, figures.Spread.of([each[one] / each[other] for each in rounds]).median, least=least)
           for name, one, other, least in _BARS]  # fmt: skip
    document = {
        "schema": SCHEMA,
        "benchmark": "queue",
        "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.facts(busy),
        "etcd": {"version": etcd.version, "private": etcd.private},
        "plan": attrs.asdict(load),
        "summary": {name: attrs.asdict(spread) for name, spread in summary.items()},
        "repeats": rounds,
        "bars": [bar.as_json() for bar in met],
        "drained": arguments.drain,
        "drain_peak_mib": peak_mib,
        "clean": True,
    }

    def show() -> None:
        _show(etcd.version, summary, met, peak_mib, arguments.drain)
        print(machine.busy(busy) or "", end="")

    outputs.tell(arguments, document, show)
    missed = arguments.strict and not all(bar.passed for bar in met)
    return failure.VIOLATION if missed else 0


def _show(version: str, summary: Any, met: list[Any], peak_mib: float | None, drained: int | None) -> None:
    rows = [
        [name, f"{spread.median:,.0f}", f"{spread.low:,.0f} - {spread.high:,.0f}"]
        for name, spread in summary.items()
    ]
    terminal.Table(f"queue on etcd {version}, items of 100 bytes", ["", "median", "spread"], rows).show()
    print("correctness: nothing lost, nothing twice, all in order")
    if peak_mib is not None:
        print(f"memory: {peak_mib:.0f} MiB at most, in a process that drained {drained:,} items of 1 KiB")
    for bar in met:
        print(bar)
