"""Runs of `coordkit lock run`, as processes of their own."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import attrs

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "coordkit", "lock", "run"]

#: Says its process id and that of its child, and neither of the two minds a polite request.
STUBBORN = ["sh", "-c", "trap '' TERM INT HUP; sleep 1000 & echo $$ $!; wait"]


def environment(url: str) -> dict[str, str]:
    """Nothing of ours, but for where etcd is and where coordkit.

    Nor what makes Python write at once: users have no such variable, and it hides what is left in buffers.
    """
    meant_for_others = ("COORDKIT", "ETCD", "PYTHONUNBUFFERED")
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(meant_for_others)}
    return {**inherited, "PYTHONPATH": str(ROOT), "COORDKIT_URL": url}


@attrs.frozen
class Ended:
    """One run that has ended."""

    status: int
    out: str
    err: str


class Run:
    """One run; of the lock "a", unless another name comes first."""

    def __init__(self, url: str, *words: str, env: dict[str, str] | None = None, **given: Any) -> None:
        name = () if words and not words[0].startswith("-") else ("a",)
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(
            [*COMMAND, *name, *words],
            env={**environment(url), **(env or {})},
            text=True,
            **{**streams, **given},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> str:
        """The next line of standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def numbers(self) -> list[int]:
        """Those of the next line."""
        return [int(word) for word in self.line().split()]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, text: str | None = None) -> Ended:
        """Wait for its end; `text` is what is typed."""
        out, err = self.process.communicate(text, timeout=40)
        return Ended(self.process.returncode, out, err)

    def close(self) -> None:
        """Whatever it does: no more."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
