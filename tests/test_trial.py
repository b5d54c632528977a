"""Trials: a play in bad weather comes to a good end, and what is wrong is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from coordkit.testing import plays

SECONDS = "2"
PLAYS = plays.names()


@pytest.fixture(scope="module")
def trials(mode: str) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All plays, at the same time: each mostly waits.  Their members are threads, or greenlets."""
    patched = ["gevent.monkey", "--module"] if mode == "gevent" else []
    command = [sys.executable, "-m", *patched, "coordkit.testing.trial"]
    options = ["--seconds", SECONDS, "--seed", "1"]
    started = {
        play: subprocess.Popen(
            [*command, play, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for play in PLAYS
    }
    yield started
    for trial in started.values():
        trial.kill()
        trial.communicate()


@pytest.mark.timeout(100)
@pytest.mark.parametrize("play", PLAYS)
def test_a_play_in_bad_weather_breaks_no_rule(trials, play):
    """
    Replies are lost, requests late, sessions ended: nothing is granted twice, and nothing is left behind.
    """
    output, trouble = trials[play].communicate(timeout=90)

    report = json.loads(output)
    print(report)
    assert (report["broken"], trials[play].returncode) == ([], 0), trouble
    assert report["operations"] > 20
    assert sum(report["weather"].values()) > 0
