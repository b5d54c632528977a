"""`python -m benchmarks.peers`: fair and unfair locks of other clients beside ours, in one interleaved run.

Writes a JSON document and a plot into a folder, prints tables; nothing is left out in silence.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import sys

from benchmarks.peers import lineup, packages, report
from benchmarks.peers.rounds import Contest
from coordkit.cli import options, terminal
from coordkit.cli.bench import machine, server
from coordkit.cli.bench.contention import Plan
from coordkit.cli.bench.primitives import Scenario

SCENARIOS = "processes:1,processes:2,processes:8,threads:2,threads:8,threads:32,greenlets:8,own:64"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument(
        "--scenarios", default=SCENARIOS, metavar="MODE:N,...",
        help=f"default {SCENARIOS}; `own` are threads with a lock each",
    )  # fmt: skip
    parser.add_argument("--only", default="", metavar="NAME,...", help="peers whose names begin so, and ours")
    parser.add_argument("--seconds", type=options.positive, default=1.0, help="of a round; default 1")
    parser.add_argument("--repeats", type=options.count, default=5, help="rounds; default 5")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    chosen = parser.parse_args(arguments)

    packages.offer()
    plan = Plan(chosen.seconds, chosen.repeats, warm_up_s=0.3)
    scenarios = [_scenario(text) for text in chosen.scenarios.split(",")]
    wanted = [peer for peer in lineup.LOCKS if _is_wanted(peer.name, chosen.only)]
    skipped = {peer.name: why for peer in wanted if (why := lineup.why_not(peer))}
    load = machine.load()
    progress = terminal.Progress(len(scenarios) * plan.repeats)
    with contextlib.ExitStack() as stack:
        etcd = stack.enter_context(server.serving(None))
        missing: dict[str, str] = {}
        where = lineup.served(stack, {peer.server for peer in wanted if peer.name not in skipped}, missing)
        where |= {"etcd": etcd.endpoint or "", "url": etcd.url}
        skipped |= {peer.name: missing[peer.server] for peer in wanted if peer.server in missing}
        peers = [peer for peer in wanted if peer.name not in skipped]
        try:
            results = {
                f"{scenario.name}, a lock each" if own else scenario.name: Contest(
                    peers, where, scenario, plan, own
                ).run(progress)
                for scenario, own in scenarios
            }
        finally:
            progress.clear()
    found = report.Report("lock", etcd.version, plan, results, skipped, load)
    found.show()
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "lock-peers.json").write_text(json.dumps(found.as_json(), indent=1) + "\n")
    report.plot(found, chosen.out / "lock-peers.svg")
    ours = [one for standings in results.values() for one in standings if one.peer.name == lineup.OURS]
    return int(any(one.failure for one in ours))


def _scenario(text: str) -> tuple[Scenario, bool]:
    """`threads:8`, or `own:64` for threads with a lock each."""
    mode, _, contenders = text.partition(":")
    own = mode == "own"
    return Scenario("threads" if own else mode, int(contenders)), own


def _is_wanted(name: str, only: str) -> bool:
    return not only or name == lineup.OURS or any(name.startswith(each) for each in only.split(","))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
