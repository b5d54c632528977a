"""Explores the model of the waitlist's protocol: every order of every step, breadth first.

usage: explore.py [--all] [--only TEXT] [--write]

First each scope with the protocol as it is: no invariant may break.  Then each rule is taken out, and the
shortest way to a broken invariant is printed; that none is found is an error, too.

--all        the long scopes, too
--only TEXT  the scopes and rules whose names contain it
--write      put the results into README.md
"""

from __future__ import annotations

import argparse
import gc
import pathlib
import platform
import sys
import time
from typing import NamedTuple

from protocol import FAULTS, RULES, RULES_OF_OUR_OWN, UNCERTAIN, Moment, Step
from world import Contender, Scope, State, Violation

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
#: With --all: minutes each.
LONG_SCOPES = (
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
        if result.violation and scope.alike:  # names have changed on the way: once more, with names that stay
            result = _search(scope._replace(alike=False), without)
    finally:
        gc.enable()
    return result._replace(cpu_s=time.process_time() - started_s)


def _search(scope: Scope, without: str) -> Result:
    start = Moment(scope, without)
    came_by: dict[State, tuple[State, Step] | None] = {start.state(): None}
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
                    new = after.state()
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


def story(scope: Scope, without: str, result: Result) -> list[str]:
    """A counterexample, a line a step."""
    told = []
    now = Moment(scope._replace(alike=False), without)
    for number, (name, *whom) in enumerate(result.trace, 1):
        try:
            now.take((name, *whom))
        except Violation:
            now.told = [name.replace("_", " ")]
        subject = {"chore": "background", "comes_late": "network"}.get(name) or " ".join(whom) or "etcd"
        told.append(f"{number:4}. {subject}: {' '.join(map(str, now.told))}")
        now = now.at(now.state())
    return [*told, f"      {result.violation}"]


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--all", action="store_true", help="the long scopes, too")
    parser.add_argument("--only", default="", help="the scopes and rules whose names contain this")
    parser.add_argument("--write", action="store_true", help="write the table in README.md")
    options = parser.parse_args(arguments)
    rows = ["| scope | faults | states | steps | depth | CPU s |", "| --- | --- | --- | --- | --- | --- |"]
    bad = 0
    for scope in (*SCOPES, *LONG_SCOPES[: None if options.all else 0]):
        if options.only not in scope.name:
            continue
        result = explore(scope)
        print(f"{scope.name}: {_figures(result)}; {result.violation or 'every invariant holds'}", flush=True)
        if result.violation:
            bad += 1
            print("\n".join(story(scope, "", result)))
        kinds = "of any kind" if scope.kinds == FAULTS else ", ".join(sorted(scope.kinds)).replace("_", " ")
        rows.append(
            f"| {scope.name} | {scope.budget}: {kinds} | {result.states:,} | {result.steps:,} "
            f"| {result.depth} | {result.cpu_s:.0f} |"
        )
    rows += ["", "| rule taken out | scope | steps to it | what breaks |", "| --- | --- | --- | --- |"]
    for rule, scope in MISSED_IN.items():
        if options.only not in rule:
            continue
        result = explore(scope, rule)
        print(f"\nwithout the rule: {rule} ({scope.name}, {_figures(result)})")
        print("\n".join(story(scope, rule, result)) if result.violation else "NOTHING WAS FOUND", flush=True)
        bad += not result.violation
        rows.append(f"| {rule} | {scope.name} | {len(result.trace)} | {result.violation or '**nothing**'} |")
    if options.write:
        head, rest = PAGE.read_text().split(BEGIN)
        here = f"Python {platform.python_version()}, one core of {platform.machine()}."
        PAGE.write_text(head + "\n".join([BEGIN, here, "", *rows, END]) + rest.split(END)[1])
    return min(bad, 1)


def _figures(result: Result) -> str:
    return f"{result.states:,} states, {result.steps:,} steps, {result.depth} deep, {result.cpu_s:.1f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
