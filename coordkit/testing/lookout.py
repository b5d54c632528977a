"""Lookout: an undisturbed witness that writes down what is put under a prefix, and when.

What a history's members are told is not all that happened: a claim whose caller had gone was made, too.

Cost: a watch, and a thread that sleeps.
"""

from __future__ import annotations

import threading
import types

from coordkit import coordinator, errors
from coordkit.etcd import watch
from coordkit.testing.history import Kind
from coordkit.testing.recorder import Told, Witness

STANDS_S = 30.0


class Lookout:
    """Each put is an OBSERVE, `subject` the key without the prefix; where a GAP stands, some are missing."""

    def __init__(self, coord: coordinator.Coordinator, prefix: bytes, witness: Witness) -> None:
        self._watcher = coord.session.link.watcher
        self._prefix = prefix
        self._witness = witness
        self._stands = threading.Event()
        self._news = threading.Event()  # the watch was ended, or we were closed
        self._closed = False
        self._missed = False  # what happened since the last watch ended
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)

    def __enter__(self) -> Lookout:
        self._thread.start()
        if not self._stands.wait(STANDS_S):
            self.close()
            raise errors.DeadlineExceeded(f"no watch of {self._prefix!r} stood within {STANDS_S:g} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Look no more."""
        self._closed = True
        self._news.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            told = self._watcher.watch_prefix(self._prefix, self, filters=(watch.NO_DELETES,))
            self._news.wait()
            self._news.clear()
            told.cancel()

    # What the watch tells.

    def on_created(self, revision: int) -> None:
        if self._missed:
            self._missed = False
            self._witness.saw(Kind.GAP, Told(revision=revision))
        self._stands.set()

    def on_events(self, events: list[watch.Event]) -> None:
        size = len(self._prefix)
        told = (Told(subject=each.key[size:].decode(), revision=each.mod_revision) for each in events)
        self._witness.saw(Kind.OBSERVE, *told)

    def on_gap(self, compacted: int) -> None:
        self._missed = True
        self._news.set()

    def on_refused(self, error: errors.CoordError) -> None:
        self.on_gap(0)
