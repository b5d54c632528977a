"""`coordkit bench queue`: batches, coalesced puts and a peer side by side; a consumer's memory."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import attrs

from coordkit.cli import failure, options, terminal
from coordkit.cli.bench import outputs

if TYPE_CHECKING:
    from coordkit.cli.bench import figures, queue_rounds
    from coordkit.cli.bench.bars import Bar
    from coordkit.cli.bench.server import Server

_EXAMPLE = """\
examples:
  coordkit bench queue
  coordkit bench queue --drain 100000 --json > queue.json
  coordkit bench queue --full --plot queue.svg

exit status: 0; 1 when an item was lost, came twice or out of order; 69 when there is no etcd"""

SCHEMA = "coordkit-bench-queue/1"

#: A bar's name; its figure, which is one rate by another; how much that must be at least.
_BARS = (
    ("put_many", "put_many_x", "put_many_per_s", "put_per_s", 20),
    ("claim_many and ack", "claim_ack_x", "claim_ack_per_s", "peer_get_per_s", 20),
    ("concurrent puts", "concurrent_puts_x", "concurrent_puts_per_s", "concurrent_uncoalesced_per_s", 3),
)
_SWEPT = ("concurrent_puts_per_s", "concurrent_uncoalesced_per_s")


def register(commands: Any) -> None:
    """Add `queue` to the benchmarks."""
    parser = options.command(commands, "queue", "a queue: batches, coalescing, memory", _EXAMPLE, run)
    parser.add_argument("--url", help="an etcd that runs already; by default a private one")
    parser.add_argument("--repeats", type=options.count, default=5, help="of each pair; default 5")
    parser.add_argument(
        "--drain", type=options.count, metavar="N", help="also drain N items of 1 KiB, and tell the memory"
    )
    parser.add_argument("--full", action="store_true", help="also sweep 1 to 64 callers of single puts")
    parser.add_argument(
        "--rate", type=options.rate, metavar="N",
        help="also an open loop: N items a second for 2 seconds, measured from when each was meant to be put",
    )  # fmt: skip
    outputs.register(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, judge, tell."""
    return outputs.run(arguments, lambda: _measure(arguments))


def _measure(arguments: argparse.Namespace) -> Report:
    from coordkit.cli.bench import machine, queue_rounds, server

    busy = machine.load()
    load = queue_rounds.Load()
    sweep: dict[int, list[figures.Figures]] = {count: [] for count in outputs.SWEEP if arguments.full}
    progress = terminal.Progress(arguments.repeats)
    peak_mib: float | None = None
    with server.serving(arguments.url) as etcd:
        rounds = []
        try:
            for number in range(arguments.repeats):
                progress.begin(f"round {number + 1}")
                found = queue_rounds.measure(etcd.url, load)
                rounds.append(found | {name: found[one] / found[other] for _, name, one, other, _ in _BARS})
                for count, own in sweep.items():
                    # As many puts in all.
                    part = attrs.evolve(load, callers=count, each=load.callers * load.each // count)
                    own.append(queue_rounds.concurrent(etcd.url, part))
                if arguments.rate:
                    rounds[-1] |= queue_rounds.open_loop(etcd.url, arguments.rate, 2.0)
                progress.end("sound")
            if arguments.drain:
                peak_mib = queue_rounds.drain_peak_mib(etcd.url, arguments.drain)
        except RuntimeError as error:
            raise failure.CommandFailed(f"correctness: {error}", failure.VIOLATION) from error
        finally:
            progress.clear()
    return Report(etcd, load, rounds, busy, arguments.drain, peak_mib, sweep)


@attrs.frozen
class Report:
    """One run.  Whatever is lost or comes twice ends it, so it is clean."""

    server: Server
    plan: queue_rounds.Load
    rounds: list[figures.Figures]
    load: float  # the machine's, before it began
    drained: int | None = None
    drain_peak_mib: float | None = None
    sweep: dict[int, list[figures.Figures]] = attrs.Factory(dict)  # single puts, by the number of callers
    clean = True

    @property
    def bars(self) -> list[Bar]:
        """What a release must reach."""
        from coordkit.cli.bench import bars, figures

        summary = figures.summary(self.rounds)
        return [bars.Bar(name, summary[figure].median, least) for name, figure, _, _, least in _BARS]

    def show(self) -> None:
        """To standard output, for people."""
        from coordkit.cli.bench import figures, machine

        title = f"queue on etcd {self.server.version}, items of 100 bytes"
        rows = [
            [name, spread.text("{:,.2f}" if name.endswith("_x") else "{:,.0f}")]
            for name, spread in figures.summary(self.rounds).items()
        ]
        terminal.Table(title, ["", "median (lowest to highest)"], rows).show()
        if self.sweep:
            swept = {count: figures.summary(repeats) for count, repeats in self.sweep.items()}
            rows = [[name, *(f"{found[name].median:,.0f}" for found in swept.values())] for name in _SWEPT]
            terminal.Table("single puts, by callers", ["", *map(str, swept)], rows).show()
        print("correctness: nothing lost, nothing twice, all in order")
        if self.drain_peak_mib is not None:
            most = f"{self.drain_peak_mib:.0f} MiB at most"
            print(f"memory: {most}, in a process that drained {self.drained:,} items of 1 KiB")
        for bar in self.bars:
            print(bar)
        if warning := machine.busy(self.load):
            print(warning)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        from coordkit.cli.bench import figures

        summary = figures.summary(self.rounds)
        return {
            **self.server.heading(SCHEMA, "queue", self.load),
            "plan": attrs.asdict(self.plan),
            "summary": {name: attrs.asdict(spread) for name, spread in summary.items()},
            "repeats": self.rounds,
            "scenarios": [
                {"name": f"{count} callers", "callers": count, "repeats": repeats}
                for count, repeats in self.sweep.items()
            ],
            "bars": [bar.as_json() for bar in self.bars],
            "drained": self.drained,
            "drain_peak_mib": self.drain_peak_mib,
            "clean": self.clean,
        }
