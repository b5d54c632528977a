"""`coordkit bench`: measured beside a floor, and judged by a checker, in one run."""

from __future__ import annotations

from typing import Any

from coordkit.cli import options
from coordkit.cli.bench import contend, queue, topic, wire


def register(commands: Any) -> None:
    """Add `bench` and the benchmarks below it."""
    benchmarks = options.group(commands, "bench", "measure coordkit on a private etcd, or on yours")
    contend.register(benchmarks)
    queue.register(benchmarks)
    topic.register(benchmarks)
    wire.register(benchmarks)
