"""`python -m coordkit.testing.trial PLAY`: one primitive, some members, bad weather; judged, in one process.

Members are threads, two to a coordinator.  Meanwhile sessions are ended, history is compacted, and keys that
wait are deleted by hand.  When all is calm again, and what was late has come, nothing may be left behind by
those who still live.

Prints one JSON line: what was done, how often the weather struck, and what is wrong.  Exit status 1 when
something is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import random
import sys
import tempfile
import threading
import time

import coordkit
from coordkit import errors
from coordkit.testing import faults, history, plays, weather
from coordkit.testing.history import Result
from coordkit.testing.local_etcd import LocalEtcd
from coordkit.testing.recorder import Recorder

NAMESPACE = "trial"
MEMBERS = 6
TTL_S = 2
SETTLE_S = 12.0  # within which what was left behind must be gone
PAUSE_S = 0.3  # between two strokes of fate
LEAST = 25  # calls that must have ended; a slow machine is given MORE_S for them
MORE_S = 30.0


class Trial:
    """One run."""

    def __init__(self, url: str, play: plays.Play, seed: int, seconds: float, members: int) -> None:
        self._url, self._play, self._seconds, self._members = url, play, seconds, members
        self._chance = random.Random(seed)
        self._enough = threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="coordkit-trial-")
        self._path = pathlib.Path(self._folder.name, "history.jsonl")
        self._recorder = Recorder(self._path)
        self._teams: list[coordkit.Coordinator] = []
        self._outside = contextlib.ExitStack()
        self.broken: list[str] = []
        self.strokes = 0

    def run(self) -> None:
        """Let them play."""
        outside = self._outside.enter_context(coordkit.connect(self._url))
        self._outside.enter_context(plays.look_on(self._play, outside, self._recorder.witness(plays.LOOKOUT)))
        ttl_s = getattr(self._play, "TTL_S", TTL_S)
        self._teams = [coordkit.connect(self._url, ttl=ttl_s) for _ in range((self._members + 1) // 2)]
        crew = [
            threading.Thread(
                target=self._take_part, args=(self._teams[number // 2], str(number)), daemon=True
            )
            for number in range(self._members)
        ]
        fate = threading.Thread(target=self._fate, args=(self._teams,), daemon=True)
        for thread in (*crew, fate):
            thread.start()
        self._enough.wait(self._seconds)
        end_s = time.monotonic() + MORE_S
        while completed(self.operations()) < LEAST and time.monotonic() < end_s:
            self._enough.wait(PAUSE_S)
        self._enough.set()
        end_s = time.monotonic() + 40
        for thread in (*crew, fate):
            thread.join(max(0.0, end_s - time.monotonic()))
        if any(thread.is_alive() for thread in crew):
            self.broken.append("hang: a member did not come to an end")

    def settle(self) -> None:
        """When the weather is fine again: the end of the play, and a look at what is left."""
        with coordkit.connect(self._url, ttl=TTL_S) as coord:
            plays.finish(self._play, coord, self._recorder.witness(plays.END))
            self.broken += left_behind(coord, NAMESPACE, self._play)
        for each in self._teams:
            each.close()
        self._outside.close()

    def operations(self) -> list[history.Operation]:
        """What they were told."""
        return history.load(self._path)

    def _take_part(self, coord: coordkit.Coordinator, label: str) -> None:
        witness = self._recorder.witness(label)
        while not self._enough.is_set():
            try:
                self._play.cycle(coord, witness)
            except errors.CoordError:
                continue  # the play does not mind, and goes on
            except plays.Broken as broken:
                self.broken.append(str(broken))
                return
            except Exception as error:
                self.broken.append(f"error: {type(error).__name__}: {error}")
                return

    def _fate(self, teams: list[coordkit.Coordinator]) -> None:
        """What others do to them."""
        with coordkit.connect(self._url) as outside:
            while not self._enough.wait(PAUSE_S * self._chance.uniform(0.5, 1.5)):
                self.strokes += 1
                try:
                    self._strike(outside, teams)
                except (errors.CoordError, OSError):
                    continue

    def _strike(self, outside: coordkit.Coordinator, teams: list[coordkit.Coordinator]) -> None:
        pick = self._chance.random()
        if pick < 0.3:
            faults.compact(outside)
        elif pick < 0.4:
            faults.expire(self._chance.choice(teams).session)
        else:
            leased = [each for each in outside.kv.range(f"/{NAMESPACE}/") if each.lease]
            kept = [part.encode() for part in ("/session/", *self._play.PERSISTENT)]
            others = [each for each in leased if not any(part in each.key for part in kept)]
            # Not the oldest: where that one is nobody's, the others are to wait in vain.
            others = sorted(others, key=lambda each: each.create_revision)[1:]
            if others and pick > 0.8:
                outside.kv.delete(self._chance.choice(others).key)


def completed(operations: list[history.Operation]) -> int:
    """How many calls have ended."""
    return sum(each.result is not Result.INVOKED for each in operations)


def left_behind(
    coord: coordkit.Coordinator, namespace: str, play: plays.Play, settle_s: float = SETTLE_S
) -> list[str]:
    """Keys that nobody who lives has any use for; those of dead sessions go with their leases."""
    end_s = time.monotonic() + settle_s
    pause = threading.Event()
    while True:
        kept = ("/session/", *play.PERSISTENT)
        found = coord.kv.range(f"/{namespace}/")
        left = [each for each in found if not any(part.encode() in each.key for part in kept)]
        if not left or time.monotonic() > end_s:
            alive = {each.lease for each in found if b"/session/" in each.key}
            words = {True: "whose session lives", False: "of no session"}
            return [
                f"left behind: {each.key.decode(errors='replace')}, {words[each.lease in alive]}"
                for each in left[:3]
            ]
        pause.wait(0.1)


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m coordkit.testing.trial", description=__doc__)
    parser.add_argument("play", choices=plays.names())
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--members", type=int, help="threads; default 6, or what the play is made for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fair", action="store_true", help="nothing is lost on the way")
    chosen = parser.parse_args(arguments)

    play = plays.find(chosen.play)
    forecast = weather.FAIR if chosen.fair else weather.FOUL
    with LocalEtcd() as etcd:
        url = f"etcd://{etcd.endpoint}/{NAMESPACE}"
        members = chosen.members or getattr(play, "MEMBERS", MEMBERS)
        trial = Trial(url, play, chosen.seed, chosen.seconds, members)
        with weather.Weather(forecast, chosen.seed) as sky:
            trial.run()
        trial.settle()
        operations = trial.operations()
    broken = trial.broken + play.judge(operations)
    report = {
        "play": chosen.play,
        "seed": chosen.seed,
        "operations": completed(operations),
        "weather": dict(sky.counts),
        "strokes": trial.strokes,
        "broken": broken,
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
