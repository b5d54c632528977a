"""Rounds of contention, peer after peer in each, so that all share the machine's moods.

Every round of a peer is judged: see `kinds`. A peer that breaks a rule, dies or falls silent is out from then
on, with the reason: only completed work counts.
"""

from __future__ import annotations

import collections
import contextlib
import pathlib
import secrets
import tempfile
from collections.abc import Callable

import attrs

from benchmarks.peers import fillers
from benchmarks.peers.kinds import Compared, Match
from benchmarks.peers.lineup import Peer, go_program, interpreter
from coordkit.cli import terminal
from coordkit.cli.bench import contention, figures, primitives
from coordkit.cli.bench.crew import Crew, Worker, WorkerDied
from coordkit.testing.history import clock_ns

_HEAD_START_NS = 100_000_000
_PATIENCE_S = 40.0
_OURS = ("contenders", "benchmarks.peers.queues:Ours")


@attrs.define
class Standing:
    """What one peer has done in one scenario."""

    peer: Peer
    rounds: list[figures.Figures] = attrs.Factory(list)
    holds: int = 0
    failure: str | None = None

    def summary(self) -> dict[str, figures.Spread]:
        return figures.summary(self.rounds)


class Contest:
    """All peers of one scenario, each with its workers, which wait between their rounds."""

    def __init__(
        self,
        kind: Compared,
        peers: list[Peer],
        where: dict[str, str],
        scenario: primitives.Scenario,
        plan: contention.Plan,
        own: bool = False,
    ) -> None:
        """Args:
        kind: What is compared.
        peers: Who takes part, where the scenario is one of theirs; else their standing says why not.
        where: `host:port` by kind of server.
        scenario: Who contends.
        plan: For how long.
        own: Whether each contender has a lock of its own, and nobody waits for anybody.
        """
        self._kind = kind
        self._matches: dict[str, Match] = {}
        self._where, self._scenario, self._plan, self._own = where, scenario, plan, own
        self.standings = [Standing(peer, failure=peer.unfit(scenario)) for peer in peers]
        self._stack = contextlib.ExitStack()
        self._folder = pathlib.Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="coordkit-peers-"))
        )
        self._crews: dict[str, tuple[Crew, list[Worker]]] = {}

    def run(self, progress: terminal.Progress) -> list[Standing]:
        """Every repeat of every peer."""
        with self._stack:
            for standing in self.standings:
                if standing.failure is None:
                    progress.begin(f"{self._scenario.name}: {standing.peer.name}, starting")
                    self._attempt(standing, self._hire)
            for number in range(self._plan.repeats):
                for standing in self.standings:
                    if standing.failure is None:
                        expected_s = self._plan.warm_up_s + self._plan.seconds
                        progress.begin(f"{self._scenario.name}: {standing.peer.name}", expected_s)
                        self._attempt(standing, lambda one, number=number: self._round(one, number))
                progress.end(f"round {number + 1} of {self._plan.repeats}")
        return self.standings

    def _attempt(self, standing: Standing, action: Callable[[Standing], None]) -> None:
        try:
            action(standing)
        except WorkerDied as error:
            standing.failure = str(error).splitlines()[0]

    def _hire(self, standing: Standing) -> None:
        peer = standing.peer
        folder = self._folder / peer.name.replace(" ", "-")
        folder.mkdir()
        crew = self._stack.enter_context(Crew(folder))
        where = self._where["url" if peer.role in _OURS else peer.server]
        name = f"bench-{secrets.token_hex(4)}"
        settings = {
            "url": where, "name": name, "hold_s": self._plan.hold_s, "own": self._own,
            "primitive": peer.primitive,
        }  # fmt: skip
        match = Match(peer, where, name, self._scenario.contenders)
        program: tuple[str, ...] = ()
        if peer.go:
            program = (go_program(),)
            match.name = f"/{name}/" if self._kind.held else f"/{name}"
            settings |= {"endpoint": where, "name": match.name, "size": len(fillers.BODY)}
            settings["write_every"] = self._plan.write_every
        else:
            settings["terms"] = {
                "contenders": match.contenders, "limit": match.limit, "write_every": self._plan.write_every
            }  # fmt: skip
        if peer.environment:
            program = (interpreter(peer), "-m", "coordkit.cli.bench.worker")
            settings["patched"] = False
        patched = self._scenario.mode == "greenlets"
        workers = [
            crew.hire(f"{number}", peer.role, {**settings, "labels": labels}, patched, program)
            for number, labels in enumerate(self._scenario.teams())
        ]
        crew.ready()
        self._crews[peer.name] = crew, workers
        self._matches[peer.name] = match

    def _round(self, standing: Standing, number: int) -> None:
        peer = standing.peer
        crew, workers = self._crews[peer.name]
        match = self._matches[peer.name]
        if self._kind.fills:
            match.filled |= fillers.fill(peer.store, match.where, match.name, self._enough(peer))
        start_ns = clock_ns() + _HEAD_START_NS
        measure_ns = start_ns + round(self._plan.warm_up_s * 1e9)
        window = figures.Window(measure_ns, measure_ns + round(self._plan.seconds * 1e9))
        paths = {worker: self._folder / f"{number}-{id(worker)}.jsonl" for worker in workers}
        moments = {"start_ns": start_ns, "measure_ns": measure_ns, "until_ns": window.end_ns}
        moments["number"] = number
        orders = {worker: {**moments, "history_path": str(path)} for worker, path in paths.items()}
        spent: collections.Counter[str] = collections.Counter()
        for answer in crew.work(orders, self._plan.warm_up_s + self._plan.seconds + _PATIENCE_S):
            spent.update(answer)

        judged = self._kind.judge(match, contention.load_all(paths.values()), window)
        if judged.broken:
            standing.failure = judged.broken
            return
        found = judged.found
        costs = figures.costs(spent, found["acquisitions"], judged.count)
        standing.rounds.append({**found, **costs})
        standing.holds = judged.count + (standing.holds if self._kind.held else 0)

    def _enough(self, peer: Peer) -> int:
        """More than can be taken in a round; what takes in batches may run out, and is told so."""
        seconds = self._plan.warm_up_s + self._plan.seconds
        return round(seconds * (6_000 if peer.primitive == "take_many" else 1_200))
