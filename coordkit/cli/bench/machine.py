"""Where a benchmark ran: what a reader needs to judge its figures.

Cost: a tenth of a second, for twenty synced writes.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import tempfile
import time
from typing import Any

import coordkit

_SYNCS = 20


def version() -> str:
    """Of this coordkit."""
    try:
        return importlib.metadata.version("coordkit")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a checkout that was never installed


def load() -> float:
    """The average number of running processes in the last minute; to be asked before a run begins."""
    return round(os.getloadavg()[0], 2)


def busy(load: float) -> str | None:
    """A warning, when others have kept the machine busy; None when they have not."""
    processors = os.cpu_count() or 1
    if load < processors / 2:
        return None
    return f"note: the machine was busy before this began: load {load:g} on {processors} processors"


def facts(load: float) -> dict[str, Any]:
    """For a report's `machine`; `load` as it was before the run."""
    return {
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "processor": _processor(),
        "load": load,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sync_us": round(_sync_us(), 1),
        "coordkit": version(),
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (FileNotFoundError, StopIteration):
        return platform.processor() or platform.machine()


def _sync_us() -> float:
    """The median time to write 2 KiB, about a small transaction in etcd's log, and sync it."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(_SYNCS):
            start = time.perf_counter()
            file.write(b"\0" * 2048)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def _commit() -> str | None:
    """Of the checkout that this runs from; None for an installed package."""
    folder = os.path.dirname(coordkit.__path__[0])
    if not os.path.exists(os.path.join(folder, ".git")):
        return None
    command = ["git", "-C", folder, "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
