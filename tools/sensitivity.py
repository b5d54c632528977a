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
import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent import futures

import answers
from mutations import MUTATIONS, Mutation

from coordkit.testing import etcd_program

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
PAGE = ROOT / "docs" / "verification.md"
BEGIN, END = "<!-- sensitivity: begin -->", "<!-- sensitivity: end -->"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of one mutation."""

    mutation: Mutation
    caught_by: str | None
    operations: int  # completed calls until then, all tries together; of a test: answers to coordkit
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
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", answers.__name__]
    done = subprocess.run(
        [*command, *mutation.arguments],
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{TOOLS}", "COORDKIT_TEST_MODE": "threads"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    failed = next((line for line in lines if line.startswith("FAILED")), "")
    name = failed.removeprefix("FAILED").split(" - ")[0].strip()
    counted = next((line for line in lines if line.startswith(answers.LINE)), f"{answers.LINE}0")
    count = int(counted.removeprefix(answers.LINE))
    return Finding(mutation, f"`{name[name.find('tests/') :]}`" if name else None, count, 1)


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


def row(one: Finding) -> str:
    """Of the page's table."""
    play, count = one.mutation.play or "a test", f"{one.operations:,}"
    if not one.mutation.play:
        count += " answers" if one.operations != 1 else " answer"
    return f"| {one.mutation.name} | {play} | {one.caught_by or '**nothing**'} | {count} |"


def write(findings: list[Finding], circumstances: str) -> None:
    """Put rows into the page, each in the place of the one of that name."""
    head, rest = PAGE.read_text().split(BEGIN)
    old, tail = rest.split(END)
    rows = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("| ")}
    rows |= {one.mutation.name: row(one) for one in findings}
    lines = [
        circumstances,
        "",
        "| rule taken out | play | noticed by | after calls |",
        "| --- | --- | --- | --- |",
        *(rows[each.name] for each in MUTATIONS if each.name in rows),
    ]
    PAGE.write_text("\n".join([head + BEGIN, *lines, END]) + tail)


def circumstances(chosen: argparse.Namespace) -> str:
    """With what, how and when it was tried."""
    etcd = etcd_program.version_of(etcd_program.find_etcd())
    machine = f"{os.cpu_count()} cores of {platform.machine()}, {platform.system()}"
    tried = f"up to {chosen.tries} trials of {chosen.seconds:g} s, with the seeds from 0 on"
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return f"etcd {etcd}, Python {platform.python_version()}, {machine}; {tried}; {today}."


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="mutations whose name or play contains this")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each trial; default 8")
    parser.add_argument("--tries", type=int, default=4, help="trials of a mutation at most; default 4")
    parser.add_argument("--jobs", type=int, default=2, help="mutations tried at the same time; default 2")
    parser.add_argument("--write", action="store_true", help="put what ran into docs/verification.md")
    chosen = parser.parse_args(arguments)

    def tell(mutation: Mutation) -> Finding:
        one = judge(mutation, chosen.seconds, chosen.tries)
        caught = one.caught_by or "NOT NOTICED"
        how = f"{one.operations} calls, {one.tries} trials" if mutation.play else f"{one.operations} answers"
        print(f"{mutation.name}: {caught}, {how}", flush=True)
        return one

    wanted = [each for each in MUTATIONS if chosen.only in each.name or chosen.only in each.play]
    if not wanted:
        parser.error(f"--only: no mutation's name or play contains {chosen.only!r}")
    with futures.ThreadPoolExecutor(chosen.jobs) as pool:
        findings = list(pool.map(tell, wanted))
    if chosen.write:
        write(findings, circumstances(chosen))
    return int(not all(one.caught_by for one in findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
