"""The command line as tests run it: in this process, in an environment without settings."""

from __future__ import annotations

import json
import os
from typing import Any

import attrs
import pytest

from coordkit.cli import main


@attrs.frozen
class Told:
    """One run: exit status and everything it printed."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.out)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Told:
    """Run a command in this process."""
    status = main.main(list(words))
    printed = capsys.readouterr()
    return Told(status, printed.out, printed.err)


def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set around the tests must not reach into them."""
    for name in [name for name in os.environ if name.startswith(("COORDKIT_", "ETCDCTL_"))]:
        if name not in ("COORDKIT_ETCD", "COORDKIT_TEST_MODE"):
            monkeypatch.delenv(name)
