"""`coordkit queue`: put items, take them, look at them, from a shell."""

from __future__ import annotations

from typing import Any

from coordkit.cli import options, stock
from coordkit.cli.queue import looking, put, take


def register(commands: Any) -> None:
    """Add `queue` and what belongs to it."""
    group = options.group(commands, "queue", "put items into a queue, take them, look at them")
    put.register(group)
    take.register(group)
    looking.register(group)
    stock.register_queues(group)
