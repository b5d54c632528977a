"""Trials: a play in bad weather comes to a good end, and what is wrong is told."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from coordkit.testing import plays

SECONDS = "2"


@pytest.fixture
def skip_gevent(mode: str) -> None:
    if mode == "gevent":
        pytest.skip("a trial is a process of threads; it is run once, in the other mode")


@pytest.mark.parametrize("play", plays.names())
def test_a_play_in_bad_weather_breaks_no_rule(skip_gevent, play):
    """
    Replies are lost, requests late, sessions ended: nothing is granted twice, and nothing is left behind.
    """
    command = [sys.executable, "-m", "coordkit.testing.trial", play, "--seconds", SECONDS, "--seed", "1"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=55)

    report = json.loads(done.stdout)
    print(report)
    assert (report["broken"], done.returncode) == ([], 0), done.stderr
    assert report["operations"] > 20
    assert sum(report["weather"].values()) > 0
