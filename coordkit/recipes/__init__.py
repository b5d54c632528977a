"""The recipes: one module each.  They see a session and a line, never the client's insides.

A module is imported when somebody first asks for it: all together take longer than the rest of coordkit.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from coordkit.recipes import (
        barrier,
        cohort,
        counter,
        double_barrier,
        election,
        gate,
        latch,
        lock,
        multilock,
        once,
        queue,
        rlock,
        rwlock,
        semaphore,
        standing,
        topic,
        value,
    )


def __getattr__(name: str) -> typing.Any:
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"there is no recipe {name!r}") from error


__all__ = [
    "barrier",
    "cohort",
    "counter",
    "double_barrier",
    "election",
    "gate",
    "latch",
    "lock",
    "multilock",
    "once",
    "queue",
    "rlock",
    "rwlock",
    "semaphore",
    "standing",
    "topic",
    "value",
]
