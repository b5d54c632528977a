"""`coordkit lock run`: a command runs for exactly as long as the lock is held."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _threads_only(mode: str) -> None:
    """The command is a process of its own, and never patched."""
    if mode != "threads":
        pytest.skip("a process of its own, the same in both modes: tested in threads")


@pytest.fixture
def lock_run(etcd, namespace: str, tmp_path: pathlib.Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`lock_run("-n", "--", "true")` starts it for the lock "a"; it is killed when the test ends."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("COORDKIT_")}
    environment |= {"PYTHONPATH": str(ROOT), "COORDKIT_URL": f"etcd://{etcd.endpoint}/{namespace}"}
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, env: dict[str, str] | None = None, **given: Any) -> subprocess.Popen[str]:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "coordkit", "lock", "run", "a", *words],
                env={**environment, **(env or {})},
                cwd=tmp_path,
                text=True,
                **{**streams, **given},
            )
        )
        return started[-1]

    yield start

    for each in started:
        each.kill()
        each.communicate()


class TestStatus:
    def test_the_commands_own(self, lock_run):
        """
        As a shell has it.
        """
        running = lock_run("--", "sh", "-c", "exit 7")

        running.communicate()

        assert running.returncode == 7
