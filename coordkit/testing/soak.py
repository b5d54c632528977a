"""`python -m coordkit.testing.soak`: one siege after the other, until as much was done as is asked for.

    python -m coordkit.testing.soak --faults 200 --volume 100000 --reports build/soak

Each part is a siege of a cluster of its own, for so many minutes at most, and leaves a report in the folder.
Who calls it again goes on behind the last part that is there, with the next seed.  After each part the sum
of all is in `soak.md` and `soak.json`.  The histories of a part that broke a rule are kept beside its report,
and no other part follows.

Cost: as `siege`; a part that is interrupted is lost.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import sys

from coordkit.testing import camp, etcd_program, siege

CALM_S = 4.0  # between two faults: what is to be reached is mostly volume
ENDING_S = 180.0  # of a part's time, to come to an end and to judge


def parts(folder: pathlib.Path) -> list[siege.Report]:
    """What was done so far, in order."""
    paths = sorted(folder.glob("part-*.json"))
    return [siege.Report.from_json(path.read_text()) for path in paths]


def total(reports: list[siege.Report]) -> siege.Report:
    """All of them, as if they were one; the seed is that of the first."""
    counts: collections.Counter[str] = collections.Counter()
    volumes: collections.Counter[str] = collections.Counter()
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    violations: dict[str, list[str]] = collections.defaultdict(list)
    excused: dict[str, list[str]] = collections.defaultdict(list)
    idle_s: dict[str, float] = collections.defaultdict(float)
    for report in reports:
        counts.update(report.faults)
        volumes.update(report.volumes)
        for play, told in report.outcomes.items():
            outcomes[play].update(told)
        for play, wrong in report.violations.items():
            violations[play] += [f"seed {report.seed}: {why}" for why in wrong]
        for play, waits in report.excused.items():
            excused[play] += [f"seed {report.seed}: {why}" for why in waits]
        for play, longest_s in report.idle_s.items():
            idle_s[play] = max(idle_s[play], longest_s)
    return siege.Report(
        version=", ".join(sorted({report.version for report in reports})),
        seed=reports[0].seed,
        seconds=sum(report.seconds for report in reports),
        machine="; ".join(sorted({report.machine for report in reports})),
        faults=dict(counts),
        outcomes={play: dict(told) for play, told in outcomes.items()},
        violations=dict(violations),
        members_agree=all(report.members_agree for report in reports),
        volumes=dict(volumes),
        excused=dict(excused),
        idle_s=dict(idle_s),
    )


def missing(reports: list[siege.Report], faults: int, volume: int) -> tuple[int, dict[str, int]]:
    """How many faults are still to come, and how much of each volume."""
    done = total(reports) if reports else None
    struck = sum(done.faults.values()) if done else 0
    volumes = {name: volume - (done.volumes.get(name, 0) if done else 0) for name in camp.COUNTED}
    return max(0, faults - struck), {name: left for name, left in volumes.items() if left > 0}


def _clean(report: siege.Report) -> bool:
    return report.members_agree and not report.violations


def write(folder: pathlib.Path, reports: list[siege.Report]) -> str:
    """Add up, and say so in the folder, too; what people read."""
    done = total(reports)
    seeds = f"Parts: {len(reports)}, with the seeds {', '.join(str(report.seed) for report in reports)}.\n\n"
    (folder / "soak.json").write_text(done.as_json())
    (folder / "soak.md").write_text(seeds + done.as_markdown())
    return seeds + done.as_markdown()


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m coordkit.testing.soak", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="how many, in all")
    parser.add_argument(
        "--volume", type=int, default=100_000, help="lock cycles, items of queues and messages of topics"
    )
    parser.add_argument("--minutes", type=float, default=25.0, help="of a part, at most")
    parser.add_argument("--seed", type=int, default=1, help="of the first part")
    parser.add_argument("--reports", type=pathlib.Path, default=pathlib.Path("build", "soak"))
    chosen = parser.parse_args(arguments)

    folder: pathlib.Path = chosen.reports
    folder.mkdir(parents=True, exist_ok=True)
    reports = parts(folder)
    while all(map(_clean, reports)):
        faults, volumes = missing(reports, chosen.faults, chosen.volume)
        if not faults and not volumes:
            break
        seed = chosen.seed + len(reports)
        name = f"part-{len(reports) + 1:03}"
        with siege.any_cluster() as cluster:
            if cluster.version in etcd_program.INCONSISTENT:
                sys.stdout.write(
                    f"etcd {cluster.version} can lose its consistency when members crash, and a soak crashes "
                    "them: name a newer one in COORDKIT_ETCD.\n"
                )
            besieged = siege.Siege(cluster, seed, calm_s=CALM_S, volumes=volumes, keep=folder / name)
            reports.append(besieged.run(faults, max(1.0, chosen.minutes * 60 - ENDING_S)))
        (folder / f"{name}.json").write_text(reports[-1].as_json())
        sys.stdout.write(f"{name}:\n{reports[-1].as_markdown()}\n")
        sys.stdout.flush()
        write(folder, reports)
    sys.stdout.write(write(folder, reports))
    return int(not all(map(_clean, reports)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
