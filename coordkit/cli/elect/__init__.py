"""`coordkit elect`: lead while a command runs; see who leads, and who wants to; let a leader resign."""

from __future__ import annotations

from typing import Any

from coordkit.cli import options
from coordkit.cli.elect import looking, observe, run


def register(commands: Any) -> None:
    """Add `elect` and what belongs to it."""
    group = options.group(commands, "elect", "lead while a command runs; see who leads")
    run.register(group)
    observe.register(group)
    looking.register(group)
