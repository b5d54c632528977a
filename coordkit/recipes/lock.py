"""Lock: `threading.Lock`'s contract across processes, first come, first served.

Status: stable.
Source: Hunt et al., ZooKeeper (USENIX ATC 2010), section 2.4; etcd's concurrency/mutex.go.
Keys: `/<namespace>/lock/<name>/<lease>-<nonce>`, see `waitlist.py`.
Cost: uncontended 1 commit to acquire and 1 to release; a hand-over is the release's commit and 1 event; a try
that finds it busy is 1 transaction that writes nothing.
Fence: the create revision of the held key; it strictly grows from holder to holder.
Invariant: whoever holds it has the oldest key of the line, and a session that lives.
"""

from __future__ import annotations

from coordkit.recipes import hold as holds
from coordkit.recipes import locklike


class Lock(locklike.LineLock):
    """A fair mutex.  Threads that share a Lock queue like strangers; it is not reentrant."""

    _kind = "lock"
    _segment = "lock"

    @classmethod
    def at(cls, session: holds.Source, prefix: str) -> Lock:
        """The lock of a prefix that is taken as it is, with a slash behind it, as Go and etcdctl do.

        `Lock.at(session, "foo")` and `etcdctl lock foo` contend.
        """
        lock = cls(session, "at")
        lock._set_prefix(prefix)
        return lock
