"""A pytest plugin: how much coordkit had been answered when the tests ended, as a line of their summary.

Usage: pytest -p answers, with this folder on the path.  What is counted are the replies of etcd, and those of
what stands in its place in the tests that `sensitivity.py` runs: there messages of a watch, too.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import pytest

LINE = "answers: "
#: By the last part of a module's name: what answers there, each time that it is called.
ANSWERING = {
    "channel": ("Channel.call",),
    "world": ("Client.txn", "Client.read"),  # of tests/interleavings
    "test_watch": ("Stream.say",),
    "test_observation": ("World.read", "World.watch_prefix"),
}


class Answers:
    """Counts them."""

    def __init__(self) -> None:
        self._count = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        modules = {id(each): each for each in sys.modules.values()}
        modules |= {
            id(item.module): item.module for item in session.items if isinstance(item, pytest.Function)
        }
        for module in modules.values():
            for path in ANSWERING.get(module.__name__.rpartition(".")[2], ()):
                owner_name, _, name = path.partition(".")
                owner = getattr(module, owner_name, None)
                if owner is not None:
                    setattr(owner, name, self._counting(getattr(owner, name)))

    def _counting(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(answer)
        def counting(*arguments: Any, **options: Any) -> Any:
            answered = answer(*arguments, **options)
            self._count += 1
            return answered

        return counting

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_line(f"{LINE}{self._count}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Answers(), "answers-counted")
