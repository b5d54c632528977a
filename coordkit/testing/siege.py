"""`python -m coordkit.testing.siege`: all plays at once on a cluster of three, one fault after the other.

    report = siege.Siege(cluster, seed=1).run(faults=20)
    assert not report.violations

Members are threads, two to a coordinator, one coordinator of each play behind a proxy that cuts connections.
The seed decides which faults come, and whom they hit.  What everybody was told is judged in the end by the
checkers; besides, no call may have taken longer than any caller's deadline, and no key may be left that
nobody has any use for.  On a `NetnsCluster` members are cut off from each other, too.

In the end the members are asked for all keys, each alone.  Where they do not agree, etcd itself has lost its
consistency, as 3.5.0 to 3.5.2 do in a crash, and whatever else was found says nothing of coordkit.

With `volumes` the plays that they name have larger camps, the others rest between their turns, as those do of
which enough was done, and the faults go on until as much was done of all: see `soak`.

Cost: some seconds a fault; two processes for each member of the cluster.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import pathlib
import platform
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import attrs

from coordkit import deadline, errors
from coordkit.testing import besieger, camp, direct, netns, plays, proxy
from coordkit.testing import cluster as clusters
from coordkit.testing.history import Result
from coordkit.wire import messages

#: Those whose rules hold whatever happens to the servers.  That of sessions promises how soon a loss is told,
#: which nobody can while there is no server; the crowd and the brief ones are locks once more.
PLAYS = tuple(name for name in plays.names() if name not in ("session", "crowd", "brief"))
CALM_S = 1.5  # between two faults
#: Of the plays whose volume counts: how many members each of their camps has.
CROWDS = {"lock": (24,) * 4, "queue": (12,) * 3, "topic": (4,)}
REST_S = 1.0  # between two turns of those that are in no hurry, at most
SHOWN = 10  # violations of a play, to people
SETTLE_S = 10.0  # how long a member may be behind the others when nothing happens any more
RANGE = "/etcdserverpb.KV/Range"


@attrs.frozen
class Report:
    """What was done, and what came of it."""

    version: str
    seed: int
    seconds: float
    machine: str
    #: How many faults there were of each kind.
    faults: dict[str, int]
    #: By play: how many calls ended in which way.
    outcomes: dict[str, dict[str, int]]
    #: By play: what is wrong.
    violations: dict[str, list[str]]
    #: Whether all members had the same keys in the end, at the same revisions.
    members_agree: bool
    #: Lock cycles, items of queues that were acked, messages of topics that were published.
    volumes: dict[str, int]
    #: By play: waits that were in vain, and nobody is to blame.
    excused: dict[str, list[str]] = attrs.field(factory=dict)
    #: By play: for how long it was somebody's turn and nobody held, while the cluster answered, at most.
    idle_s: dict[str, float] = attrs.field(factory=dict)

    @property
    def operations(self) -> int:
        """How many calls have ended."""
        return sum(sum(each.values()) for each in self.outcomes.values())

    def as_json(self) -> str:
        """All of it."""
        return json.dumps({**attrs.asdict(self), "operations": self.operations}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """What `as_json` has written."""
        fields = json.loads(text)
        known = {field.name for field in attrs.fields(cls)}
        return cls(**{name: value for name, value in fields.items() if name in known})

    def as_markdown(self) -> str:
        """For people."""
        struck = ", ".join(f"{count} x {name}" for name, count in sorted(self.faults.items()))
        lines = [
            f"etcd {self.version}, three members; seed {self.seed}; {self.seconds:.0f} s; {self.machine}.",
            f"{self.operations:,} calls; {sum(self.faults.values())} faults: {struck}.",
            "",
            "| play | calls that ended well | that did not, for certain | unknown | violations |",
            "| --- | --- | --- | --- | --- |",
        ]
        for play, told in sorted(self.outcomes.items()):
            counts = [f"{told.get(result.value, 0):,}" for result in (Result.OK, Result.FAIL, Result.UNKNOWN)]
            lines.append(f"| {play} | {' | '.join(counts)} | {len(self.violations.get(play, []))} |")
        words = {"lock": "lock cycles", "queue": "items acked", "topic": "messages published"}
        if self.volumes:
            lines += ["", ", ".join(f"{count:,} {words[name]}" for name, count in self.volumes.items()) + "."]
        if self.idle_s:
            longest = ", ".join(f"{play} {seconds:.1f} s" for play, seconds in sorted(self.idle_s.items()))
            lines += ["", f"The longest that it was somebody's turn and nobody held: {longest}."]
        if not self.members_agree:
            lines += ["", "**The members do not agree with each other**: it is etcd that failed."]
        wrong = [f"- {play}: {why}" for play, all_of in self.violations.items() for why in all_of[:SHOWN]]
        waits = [f"- {play}: {why}" for play, all_of in self.excused.items() for why in all_of[:SHOWN]]
        wrong = ["", *wrong] if wrong else []
        waits = ["", "Waits in vain for which nobody is to blame:", "", *waits] if waits else []
        return "\n".join([*lines, *wrong, *waits]) + "\n"


class Siege:
    """All plays on one cluster, and what is done to it.

    Args:
        on: The cluster, started.
        seed: Decides which faults come.
        names: Of the plays.
        calm_s: Between two faults.
        volumes: How much must be done of some plays, whatever the number of faults: names of `camp.COUNTED`.
        keep: Where to put the histories when something is wrong.
    """

    def __init__(
        self,
        on: clusters.EtcdCluster,
        seed: int = 0,
        names: tuple[str, ...] = PLAYS,
        *,
        calm_s: float = CALM_S,
        volumes: Mapping[str, int] | None = None,
        keep: pathlib.Path | None = None,
    ) -> None:
        self._cluster = on
        self._seed = seed
        self._names = names
        self._calm_s = calm_s
        self._volumes = dict(volumes or {})
        self._keep = keep
        self._chance = random.Random(seed)
        self._camps: list[camp.Camp] = []
        self._proxies = [proxy.FaultProxy(each) for each in on.endpoints]
        self._counts: collections.Counter[str] = collections.Counter()

    def run(self, faults: int | None = None, seconds: float | None = None) -> Report:
        """So many faults and so much volume, or as much as there is time for."""
        begun_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="coordkit-siege-") as folder:
            for each in self._proxies:
                each.start()
            try:
                self._camps = list(self._pitch(pathlib.Path(folder)))
                coords = [coord for each in self._camps for coord in each.coords]
                enemy = besieger.Besieger(self._cluster, self._proxies, coords, self._chance)
                while seconds is None or time.monotonic() - begun_s < seconds:
                    enough = faults is not None and self._counts.total() >= faults
                    if enough and all(self._done(name) >= least for name, least in self._volumes.items()):
                        break
                    time.sleep(self._calm_s)
                    self._counts.update(filter(None, [enemy.strike()]))
                time.sleep(self._calm_s)
                self._end()
                agree = agreed(self._cluster)
                outcomes, wrong = self._judge()
                if self._keep is not None and (wrong or not agree):
                    shutil.copytree(folder, self._keep, dirs_exist_ok=True)
            finally:
                for each in self._proxies:
                    each.stop()
        return Report(
            version=self._cluster.version,
            seed=self._seed,
            seconds=time.monotonic() - begun_s,
            machine=f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
            faults=dict(self._counts),
            outcomes=outcomes,
            violations=wrong,
            members_agree=agree,
            volumes={name: self._done(name) for name in camp.COUNTED if name in self._names},
            excused=self._by_play(lambda each: each.excused),
            idle_s={
                name: round(max(each.idle_s for each in self._camps if each.name == name), 3)
                for name in self._names
                if name in camp.LINED
            },
        )

    def _pitch(self, folder: pathlib.Path) -> Iterator[camp.Camp]:
        """The camps, half of the coordinators behind proxies."""
        urls = [self._cluster.url, "etcd://" + ",".join(each.endpoint for each in self._proxies)]
        for name in self._names:
            sizes = CROWDS[name] if name in self._volumes else (camp.MEMBERS,)
            for number, members in enumerate(sizes, 1):
                rest_s = functools.partial(self._rest_s, name)
                yield camp.Camp(name, urls, folder, number, members, rest_s)

    def _rest_s(self, name: str) -> float:
        """How long a turn of a play may be waited for: not at all, while there is much of it to be done."""
        hurries = self._done(name) < self._volumes[name] if name in self._volumes else not self._volumes
        return 0.0 if hurries else REST_S

    def _done(self, name: str) -> int:
        return sum(each.volume for each in self._camps if each.name == name)

    def _by_play(self, words: Callable[[camp.Camp], list[str]]) -> dict[str, list[str]]:
        """Sentences of all camps, of the plays of which there are any."""
        found: dict[str, list[str]] = collections.defaultdict(list)
        for each in self._camps:
            found[each.name] += words(each)
        return {name: told for name, told in found.items() if told}

    def _judge(self) -> tuple[dict[str, dict[str, int]], dict[str, list[str]]]:
        """By play: how calls ended, and what is wrong."""
        outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        wrong: dict[camp.Camp, list[str]] = {}
        for each in self._camps:
            told, wrong[each] = each.judge()
            outcomes[each.name].update(told)
        return {name: dict(told) for name, told in outcomes.items()}, self._by_play(wrong.__getitem__)

    def _end(self) -> None:
        endings = [threading.Thread(target=each.end, args=(self._cluster.url,)) for each in self._camps]
        for thread in endings:
            thread.start()
        for thread in endings:
            thread.join()


def any_cluster() -> clusters.EtcdCluster:
    """Three members, with a network of their own if they can have one here; if not, people are told why."""
    why = netns.lacking()
    if why is None:
        return netns.NetnsCluster(3)
    sys.stderr.write(f"No member will be cut off from the others: {why}\n")
    return clusters.EtcdCluster(3)


def agreed(on: clusters.EtcdCluster) -> bool:
    """Whether all members have the same keys at the same revisions, once all is calm."""
    limit = deadline.Deadline.after(SETTLE_S)
    everything = messages.RangeRequest(key=b"\0", range_end=b"\0", serializable=True, keys_only=True)
    while True:
        try:
            seen = set()
            for member in on.members:
                found = direct.ask(member, RANGE, everything, messages.RangeResponse)
                seen.add(tuple((each.key, each.create_revision, each.mod_revision) for each in found.kvs))
        except errors.CoordError:
            if limit.expired:
                raise
        else:
            if len(seen) == 1 or limit.expired:
                return len(seen) == 1
        time.sleep(0.2)


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m coordkit.testing.siege", description=__doc__)
    parser.add_argument("--faults", type=int, help="how many")
    parser.add_argument("--seconds", type=float, help="for how long, if not by faults; default 60")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plays", nargs="+", default=PLAYS, choices=PLAYS)
    parser.add_argument("--json", type=pathlib.Path, help="where to write the report as JSON")
    chosen = parser.parse_args(arguments)

    seconds = 60.0 if chosen.faults is None and chosen.seconds is None else chosen.seconds
    with any_cluster() as cluster:
        report = Siege(cluster, chosen.seed, tuple(chosen.plays)).run(chosen.faults, seconds)
    if chosen.json is not None:
        chosen.json.write_text(report.as_json())
    sys.stdout.write(report.as_markdown())
    return int(bool(report.violations))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
