"""Breaks coordkit on purpose, one rule at a time, and shows what notices: the table in docs/verification.md.

usage: sensitivity.py [--only TEXT] [--seconds S] [--tries N] [--jobs N] [--write]

Each mutation is a piece of source that is replaced in a copy of the package; then the trial of the primitive
that the rule protects is played with that copy (`coordkit.testing.trial`): the same play and the same weather
as without it. What no trial can do, as a cluster's member that lags, tests with a stage of their own do: they
are run with the copy instead. A mutation that nothing catches is a missing check: the exit status is 1.

Cost: some seconds a mutation that is caught, a few trials for one that is not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from concurrent import futures

from mutations import MUTATIONS, Mutation

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "verification.md"
BEGIN, END = "<!-- sensitivity: begin -->", "<!-- sensitivity: end -->"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of one mutation."""

    mutation: Mutation
    caught_by: str | None
    operations: int  # completed calls until then, all tries together
    tries: int


def mutate(mutation: Mutation, folder: pathlib.Path) -> None:
    """A copy of the package without that rule."""
    shutil.copytree(ROOT / "coordkit", folder / "coordkit", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "coordkit" / mutation.module
    source = path.read_text()
    found = source.count(mutation.rule)
    if found != 1:
        raise SystemExit(f"{mutation.name}: {mutation.module} says {found} times, not once: {mutation.rule}")
    path.write_text(source.replace(mutation.rule, mutation.instead))


def try_out(mutation: Mutation, folder: pathlib.Path, seconds: float, seed: int) -> dict[str, object]:
    """One trial with the package in that folder; what it reports."""
    command = [sys.executable, "-m", "coordkit.testing.trial", mutation.play, "--seconds", str(seconds)]
    done = subprocess.run(
        [*command, "--seed", str(seed), *mutation.arguments],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds + 120,
    )
    try:
        report: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        words = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        return {"operations": 0, "broken": [f"crash: {words[0]}"]}
    return report


def test(mutation: Mutation, folder: pathlib.Path) -> Finding:
    """The tests that are to notice it, with the package in that folder."""
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pytest_coordkit.py"):
        shutil.copy(ROOT / name, folder)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutation.arguments],
        env={**os.environ, "PYTHONPATH": str(folder), "COORDKIT_TEST_MODE": "threads"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    failed = next((line for line in done.stdout.splitlines() if line.startswith("FAILED")), "")
    name = failed.removeprefix("FAILED").split(" - ")[0].strip()
    return Finding(mutation, f"`{name[name.find('tests/'):]}`" if name else None, 0, 1)


def judge(mutation: Mutation, seconds: float, tries: int) -> Finding:
    """Play with it until something notices."""
    operations = 0
    with tempfile.TemporaryDirectory(prefix="coordkit-mutation-") as name:
        folder = pathlib.Path(name)
        mutate(mutation, folder)
        if not mutation.play:
            return test(mutation, folder)
        for seed in range(tries):
            report = try_out(mutation, folder, seconds, seed)
            operations += int(str(report["operations"]))
            broken = report["broken"]
            if isinstance(broken, list) and broken:
                return Finding(mutation, str(broken[0]).split(":")[0], operations, seed + 1)
    return Finding(mutation, None, operations, tries)


def table(findings: list[Finding]) -> str:
    """For the page."""
    lines = ["| rule taken out | play | noticed by | after calls |", "| --- | --- | --- | --- |"]
    for one in findings:
        found = one.caught_by or "**nothing**"
        calls = f"{one.operations:,}" if one.mutation.play else ""
        lines.append(f"| {one.mutation.name} | {one.mutation.play or 'a test'} | {found} | {calls} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="mutations whose name or play contains this")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each trial; default 8")
    parser.add_argument("--tries", type=int, default=4, help="trials of a mutation at most; default 4")
    parser.add_argument("--jobs", type=int, default=2, help="mutations tried at the same time; default 2")
    parser.add_argument("--write", action="store_true", help="put the table into docs/verification.md")
    chosen = parser.parse_args(arguments)

    def tell(mutation: Mutation) -> Finding:
        one = judge(mutation, chosen.seconds, chosen.tries)
        caught = one.caught_by or "NOT NOTICED"
        print(f"{mutation.name}: {caught}, {one.operations} calls, {one.tries} trials", flush=True)
        return one

    wanted = [each for each in MUTATIONS if chosen.only in each.name or chosen.only in each.play]
    with futures.ThreadPoolExecutor(chosen.jobs) as pool:
        findings = list(pool.map(tell, wanted))
    if chosen.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n{table(findings)}\n{END}{after}")
    return int(not all(one.caught_by for one in findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
