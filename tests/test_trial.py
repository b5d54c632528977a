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


@pytest.fixture
def skip_gevent(mode: str) -> None:
    if mode == "gevent":
        pytest.skip("a trial is a process of threads; it is run once, in the other mode")


@pytest.fixture(scope="module")
def trials(mode: str) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All plays, at the same time: each mostly waits."""
    command = [sys.executable, "-m", "coordkit.testing.trial"]
    options = ["--seconds", SECONDS, "--seed", "1"]
    wanted = PLAYS if mode == "threads" else []
    started = {
        play: subprocess.Popen(
            [*command, play, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for play in wanted
    }
    yield started
    for trial in started.values():
        trial.kill()
        trial.communicate()


@pytest.mark.timeout(100)
@pytest.mark.parametrize("play", PLAYS)
def test_a_play_in_bad_weather_breaks_no_rule(skip_gevent, trials, play):
    """
    Replies are lost, requests late, sessions ended: nothing is granted twice, and nothing is left behind.
    """
    output, trouble = trials[play].communicate(timeout=90)

    report = json.loads(output)
    print(report)
    assert (report["broken"], trials[play].returncode) == ([], 0), trouble
    assert report["operations"] > 20
    assert sum(report["weather"].values()) > 0
