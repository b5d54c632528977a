"""Explores the model of the waitlist's protocol: every order of every step, breadth first.

usage: explore.py [--all] [--only TEXT] [--write]

First each scope with the protocol as it is: no invariant may break.  Then each rule is taken out, and the
shortest way to a broken invariant is printed; that none is found is an error, too.

--all        the long scopes, too
--only TEXT  the scopes and rules whose names contain it
--write      put the results of what ran into README.md; the other rows stay
"""

from __future__ import annotations

import argparse
import gc
import pathlib
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from protocol import FAULTS, RULES, RULES_OF_OUR_OWN, UNCERTAIN, Moment, Step
from state import Contender, Scope, State
from world import Violation

PAGE = pathlib.Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
GONE = frozenset({"gives_up", "deleted_by_hand"})
NETWORK = frozenset({"lost", "doubled", "gives_up"})


def apart(count: int, turns: int = 1) -> tuple[Contender, ...]:
    """Contenders with a session and a process each."""
    return tuple(Contender("ABC"[n], f"s{n + 1}", f"p{n + 1}", "x", turns) for n in range(count))


TOGETHER = (Contender("A", "s1", "p1"), Contender("B", "s1", "p1"), Contender("C", "s2", "p2"))
TWO_LINES = (Contender("A", "s1", "p1"), Contender("B", "s1", "p1", "y"), Contender("C", "s2", "p2"))
WITH_GO = (Contender("A", "s1", "p1"), Contender("G", "", "", "x", 2))

DUEL = Scope("a duel", apart(2), 1, FAULTS, alike=True)
REMATCH = Scope("two, twice each", apart(2, 2), 1, frozenset({"lost", "deleted_by_hand"}), alike=True)
FAR = Scope("a window of one", apart(3), 1, frozenset({"deleted_by_hand"}), window=1, alike=True)
NEIGHBOURS = Scope("two in one session", TOGETHER, 1, frozenset({"deleted_by_hand"}))
SCOPES = (
    DUEL,
    Scope("a duel, two faults", apart(2), 2, FAULTS, alike=True),
    Scope("three", apart(3), 1, NETWORK, alike=True),
    Scope("three, a member lags", apart(3), 1, frozenset({"falls_behind"}), alike=True),
    REMATCH,
    FAR,
    NEIGHBOURS,
    Scope("two lines", TWO_LINES, 1, NETWORK),
    Scope("beside Go", WITH_GO, 1, FAULTS - {"falls_behind"}),
)
#: With --all.
LONG_SCOPES = (
    Scope("three, twice each", apart(3, 2), 1, frozenset({"doubled", "lost"}), alike=True),
    Scope("three, more faults", apart(3), 1, FAULTS - {"falls_behind"}, alike=True),
    FAR._replace(name="a window of one, more faults", kinds=GONE),
    NEIGHBOURS._replace(name="two in one session, more faults", kinds=GONE),
)
#: Where each rule is missed.
MISSED_IN = dict.fromkeys((*RULES, *RULES_OF_OUR_OWN), DUEL) | {
    "strike by name alone": REMATCH,
    "window mistaken for the whole line": FAR,
    "local hand-over without the head": NEIGHBOURS,
}


class Result(NamedTuple):
    """What an exploration found."""

    states: int
    steps: int
    depth: int
    violation: str = ""
    trace: tuple[Step, ...] = ()
    cpu_s: float = 0.0


def explore(scope: Scope, without: str = "") -> Result:
    """Visit every state that can be reached, the nearest first, until an invariant breaks."""
    started_s = time.process_time()
    gc.disable()  # states have no circles, and to look for some takes long
    try:
        result = _search(scope, without)
        if result.violation:
            if scope.alike:  # names have changed on the way: once more, with names that stay
                result = _search(scope._replace(alike=False), without)
            *_, (_, violation) = replay(scope, without, result)  # with revisions that stay
            result = result._replace(violation=violation)
    finally:
        gc.enable()
    return result._replace(cpu_s=time.process_time() - started_s)


def _search(scope: Scope, without: str) -> Result:
    start = Moment(scope, without)
    came_by: dict[State, tuple[State, Step] | None] = {start.representative(): None}
    level = list(came_by)
    steps = depth = 0
    while level:
        following: list[State] = []
        for state in level:
            here, quiet = start.at(state), True
            for step in [*here.steps(), None]:
                try:
                    if step is None:
                        if quiet:
                            here.judge_quiet()
                        continue
                    after = start.at(state)
                    after.take(step)
                    new = after.representative()
                except Violation as violation:
                    return Result(len(came_by), steps, depth, str(violation), _way(came_by, state, step))
                steps += 1
                quiet = quiet and step[0] in UNCERTAIN
                if new not in came_by:
                    came_by[new] = (state, step)
                    following.append(new)
        level, depth = following, depth + bool(following)
    return Result(len(came_by), steps, depth)


def _way(
    came_by: dict[State, tuple[State, Step] | None], state: State, last: Step | None
) -> tuple[Step, ...]:
    way = [] if last is None else [last]
    before = came_by[state]
    while before is not None:
        way.insert(0, before[1])
        before = came_by[before[0]]
    return tuple(way)


def replay(scope: Scope, without: str, result: Result) -> Iterator[tuple[Moment, str]]:
    """A counterexample step by step: the moment after each, and what is broken then."""
    now = Moment(scope, without)
    for step in result.trace:
        try:
            now.take(step)
        except Violation as violation:
            now.told = [step[0].replace("_", " ")]
            yield now, str(violation)
            return
        yield now, ""
        now = now.at(now.state())
    yield now, result.violation


def story(scope: Scope, without: str, result: Result) -> list[str]:
    """A counterexample, a line a step."""
    told = []
    moments = replay(scope, without, result)
    for number, ((name, *whom), (now, _)) in enumerate(zip(result.trace, moments, strict=False), 1):
        subject = {"chore": "background", "comes_late": "network"}.get(name) or " ".join(whom) or "etcd"
        told.append(f"{number:4}. {subject}: {' '.join(map(str, now.told))}")
    return [*told, f"      {result.violation}"]


def write(rows: dict[str, str]) -> None:
    """Put rows into the tables of README.md, each in the place of the one with its name."""
    head, rest = PAGE.read_text().split(BEGIN)
    old, tail = rest.split(END)
    before = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("| ")}
    now = before | rows

    def table(header: str, names: Iterable[str]) -> list[str]:
        found = [now[name] for name in names if name in now]
        return [header, "| --- " * (header.count("|") - 1) + "|", *found]

    lines = [
        f"Python {platform.python_version()}, one core of {platform.machine()}, in the last run.",
        "",
        *table(
            "| scope | faults | states | steps | depth | CPU s |",
            (scope.name for scope in (*SCOPES, *LONG_SCOPES)),
        ),
        "",
        *table("| rule taken out | scope | steps to it | what breaks |", MISSED_IN),
    ]
    PAGE.write_text("\n".join([head + BEGIN, *lines, END]) + tail)


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--all", action="store_true", help="the long scopes, too")
    parser.add_argument("--only", default="", help="the scopes and rules whose names contain this")
    parser.add_argument("--write", action="store_true", help="put what ran into README.md")
    options = parser.parse_args(arguments)
    scopes = (*SCOPES, *LONG_SCOPES[: None if options.all else 0])
    if not any(options.only in name for name in (*(each.name for each in scopes), *MISSED_IN)):
        parser.error(f"--only: no name of a scope or rule contains {options.only!r}")
    rows: dict[str, str] = {}
    bad = 0
    for scope in scopes:
        if options.only not in scope.name:
            continue
        result = explore(scope)
        print(f"{scope.name}: {_figures(result)}; {result.violation or 'every invariant holds'}", flush=True)
        if result.violation:
            bad += 1
            print("\n".join(story(scope, "", result)))
        kinds = "of any kind" if scope.kinds == FAULTS else ", ".join(sorted(scope.kinds)).replace("_", " ")
        rows[scope.name] = (
            f"| {scope.name} | {scope.budget}: {kinds} | {result.states:,} | {result.steps:,} "
            f"| {result.depth} | {result.cpu_s:.0f} |"
        )
    for rule, scope in MISSED_IN.items():
        if options.only not in rule:
            continue
        result = explore(scope, rule)
        print(f"\nwithout the rule: {rule} ({scope.name}, {_figures(result)})")
        print("\n".join(story(scope, rule, result)) if result.violation else "NOTHING WAS FOUND", flush=True)
        bad += not result.violation
        rows[rule] = f"| {rule} | {scope.name} | {len(result.trace)} | {result.violation or '**nothing**'} |"
    if options.write:
        write(rows)
    return min(bad, 1)


def _figures(result: Result) -> str:
    return f"{result.states:,} states, {result.steps:,} steps, {result.depth} deep, {result.cpu_s:.1f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
