"""`coordkit lock`: hold a lock while a command runs; see who holds one, break it, read its history."""

from __future__ import annotations

from typing import Any

from coordkit.cli import options
from coordkit.cli.lock import breaking, history, listing, run


def register(commands: Any) -> None:
    """Add `lock` and what belongs to it."""
    group = options.group(commands, "lock", "hold a lock while a command runs; see who holds one")
    run.register(group)
    listing.register(group)
    breaking.register(group)
    history.register(group)
