"""Who plays in the tests of the queue: what is in etcd, and callers on threads of their own."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Any

from contract.players import PATIENCE_S

import coordkit


def stored(queue: coordkit.Queue) -> dict[str, int]:
    """How many keys there are of each kind: {"items": 3, "claims": 1}."""
    site = queue._site
    prefix = site.layout.prefix
    keys = [each.key[len(prefix) :].split(b"/")[0].decode() for each in site.link.client.kv.range(prefix)]
    return dict(collections.Counter(keys))


def drain(queue: coordkit.Queue) -> list[Any]:
    """All that is free, acked."""
    values: list[Any] = []
    while jobs := take(queue):
        values.extend(job.value for job in jobs)
        assert queue.ack_many(jobs) == []
    return values


def take(queue: coordkit.Queue, count: int = 100) -> list[coordkit.Job]:
    """What is free now; nothing is waited for."""
    import queue as standard

    try:
        return queue.claim_many(count, block=False)
    except standard.Empty:
        return []


class Call:
    """A call on a thread of its own."""

    def __init__(self, action: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.over = threading.Event()
        self._call = lambda: action(*arguments, **options)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error
        self.over.set()

    @property
    def waiting(self) -> bool:
        return not self.over.is_set()

    def end(self, within_s: float = PATIENCE_S) -> Any:
        """Its result; its error is raised."""
        assert self.over.wait(within_s), f"a call did not end within {within_s:g} s"
        self._thread.join()
        if self.error is not None:
            raise self.error
        return self.result
