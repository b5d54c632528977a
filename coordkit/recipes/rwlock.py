"""RWLock: many readers or one writer, in one line; no reader overtakes a writer that waits.

Status: stable.
Source: Courtois et al. (CACM 1971); etcd's recipes/rwmutex.go, whose keys these are and which stand in the
same line.  There a waiter whose own key is gone is granted all the same (etcd #16221); here none is.
Keys: `/<namespace>/rwlock/<name>/read/<lease>-<nonce>` and `.../write/<lease>-<nonce>`, see `sharedline.py`.
Cost: uncontended 1 commit to acquire and 1 to release; a writer is handed it by 1 event, a reader by 1 event
and 1 read; a try that finds it busy is 1 transaction that writes nothing.
Fence: the create revision of the held key.  A writer's is above those of all holders before it.  Readers
overlap: theirs identifies the hold, and "refuse a smaller one" holds between writers only.
Invariant: who writes has the oldest key of all; who reads has no write key before its own.
"""

from __future__ import annotations

from coordkit import sharedline
from coordkit.recipes import hold as holds
from coordkit.recipes import locklike


class ReadLock(locklike.LineLock):
    """The side for those who only look: many at once."""

    _kind = "read lock"
    _segment = "rwlock"
    _line_kind = sharedline.ReadersLine


class WriteLock(locklike.LineLock):
    """The side for those who change something: one, and nobody beside it."""

    _kind = "write lock"
    _segment = "rwlock"
    _line_kind = sharedline.WritersLine


class RWLock:
    """Two lock-likes, `read` and `write`, on one line.  Neither is reentrant, and a reader cannot become a
    writer: release first."""

    def __init__(self, session: holds.Source, name: str) -> None:
        """Args:
        session: Whose life it hangs on; or a function that gives the current one.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        """
        #: For those who only look.
        self.read = ReadLock(session, name)
        #: For those who change something.
        self.write = WriteLock(session, name)

    @classmethod
    def at(cls, session: holds.Source, prefix: str) -> RWLock:
        """The one of a prefix that is taken as it is, with a slash behind it, as Go's RWMutex does."""
        made = cls(session, "at")
        made.read._set_prefix(prefix)
        made.write._set_prefix(prefix)
        return made

    @property
    def name(self) -> str:
        """Its name, or its prefix."""
        return self.read.name

    def cancel(self) -> None:
        """End all waits on both sides: they raise Cancelled."""
        self.read.cancel()
        self.write.cancel()

    def __repr__(self) -> str:
        return f"<RWLock {self.name!r} {self.read!r} {self.write!r}>"
