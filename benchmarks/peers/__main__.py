"""`python -m benchmarks.peers`: locks, elections, counters and queues of others beside ours, interleaved.

Writes a JSON document and a plot for each kind into a folder, prints tables; nothing is left out in silence.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import signal
import sys

import attrs

from benchmarks.peers import kinds, lineup, packages, report
from benchmarks.peers.rounds import Contest
from coordkit.cli import options, terminal
from coordkit.cli.bench import comparison, machine, server
from coordkit.cli.bench.contention import MODES, Plan
from coordkit.cli.bench.primitives import Scenario

OWN = "own"  # the mode of threads that have a lock each
WHAT = {"queue": ("put", "take")}
_ALL = "lock,rwlock,semaphore,election,counter,queue"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--what", default=_ALL, metavar="KIND,...", help="default all: %(default)s")
    parser.add_argument(
        "--scenarios", type=_scenarios, metavar="MODE:N,...",
        help="MODE is processes, threads, greenlets, or own: threads with a lock each",
    )  # fmt: skip
    parser.add_argument("--only", default="", metavar="NAME,...", help="peers whose names begin so, and ours")
    parser.add_argument("--seconds", type=options.positive, default=1.0, help="of a round; default 1")
    parser.add_argument("--repeats", type=options.count, default=5, help="rounds; default 5")
    parser.add_argument(
        "--twice", action="store_true", help="each kind twice, the second run beside the first"
    )
    parser.add_argument(
        "--strict", action="store_true", help="with --twice: exit with 1 when quartiles do not overlap"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"),
        help="the folder for documents and plots, which replace those that are there; default %(default)s",
    )  # fmt: skip
    chosen = parser.parse_args(arguments)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the servers end with us
    names = [each for what in chosen.what.split(",") for each in WHAT.get(what, (what,))]
    if unknown := [name for name in names if name not in kinds.KINDS]:
        parser.error(f"{unknown[0]!r} is none of {', '.join([*kinds.KINDS, *WHAT])}")
    peers = {peer.name for name in names for peer in lineup.PEERS[name]}
    for only in filter(None, chosen.only.split(",")):
        if not any(peer.startswith(only) for peer in peers):
            parser.error(f"no peer's name begins with {only!r}: there are {', '.join(sorted(peers))}")
    if chosen.strict and not chosen.twice:
        parser.error("--strict judges two runs: give --twice, too")
    packages.offer()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with server.serving(None) as etcd, contextlib.ExitStack() as stack:
        wanted = {peer for name in names for peer in lineup.PEERS[name] if _is_wanted(peer.name, chosen.only)}
        missing: dict[str, str] = {}
        skipped = {peer.name: why for peer in wanted if (why := lineup.why_not(peer))}
        where = lineup.served(stack, {peer.server for peer in wanted if peer.name not in skipped}, missing)
        where |= {"etcd": etcd.endpoint or "", "url": etcd.url}
        skipped |= {peer.name: missing[peer.server] for peer in wanted if peer.server in missing}
        failed = [_compare(kinds.KINDS[name], etcd, where, skipped, chosen) for name in names]
    return int(any(failed))


def _compare(
    kind: kinds.Compared,
    etcd: server.Server,
    where: dict[str, str],
    skipped: dict[str, str],
    chosen: argparse.Namespace,
) -> bool:
    """One kind, once or twice: tables, files; whether ours failed or, where that counts, changed."""
    reports = [_run(kind, etcd, where, skipped, chosen)]
    reports[0].show()
    document = reports[0].as_json()
    compared: list[comparison.Compared] = []
    if chosen.twice:
        reports.append(_run(kind, etcd, where, skipped, chosen))
        reports[1].show()
        compared = report.compare(*reports)
        comparison.show(compared)
        told = [attrs.asdict(each) for each in compared]
        document = {**reports[1].as_json(), "comparison": told, "first": document}
    (chosen.out / f"{kind.name}-peers.json").write_text(json.dumps(document, indent=1) + "\n")
    report.plot(reports[-1], chosen.out / f"{kind.name}-peers.svg")
    apart = chosen.strict and not all(each.overlap for each in compared)
    return apart or any(one.failure for found in reports for one in found.ours)


def _run(
    kind: kinds.Compared,
    etcd: server.Server,
    where: dict[str, str],
    skipped: dict[str, str],
    chosen: argparse.Namespace,
) -> report.Report:
    plan = Plan(chosen.seconds, chosen.repeats, warm_up_s=0.3)
    scenarios = chosen.scenarios or _scenarios(kind.scenarios)
    lined_up = [peer for peer in lineup.PEERS[kind.name] if _is_wanted(peer.name, chosen.only)]
    peers = [peer for peer in lined_up if peer.name not in skipped]
    load = machine.load()
    progress = terminal.Progress(len(scenarios) * plan.repeats)
    try:
        results = {
            f"{scenario.name}, a lock each" if own else scenario.name: Contest(
                kind, peers, where, scenario, plan, own
            ).run(progress)
            for scenario, own in scenarios
        }
    finally:
        progress.clear()
    absent = {peer.name: skipped[peer.name] for peer in lined_up if peer.name in skipped}
    return report.Report(kind.name, kind.unit, etcd, plan, results, absent, load)


def _scenarios(text: str) -> list[tuple[Scenario, bool]]:
    """`threads:8,own:64`: scenarios, and whether each contender has a lock of its own."""
    return [_scenario(each) for each in text.split(",")]


def _scenario(text: str) -> tuple[Scenario, bool]:
    mode, _, contenders = text.partition(":")
    modes = (*MODES, OWN)
    try:
        if mode not in modes:
            raise argparse.ArgumentTypeError(f"the modes are {', '.join(modes)}")
        return Scenario("threads" if mode == OWN else mode, options.count(contenders)), mode == OWN
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no scenario as processes:8: {error}") from None


def _is_wanted(name: str, only: str) -> bool:
    return not only or name == lineup.OURS or any(name.startswith(each) for each in only.split(","))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
