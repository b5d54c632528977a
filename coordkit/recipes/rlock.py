"""RLock: the lock of that name, which whoever holds it may acquire again; `threading.RLock`'s contract.

Status: stable.
Source: `threading.RLock`; Curator's InterProcessMutex.
Keys: those of `lock`: one key, however often it is acquired; it is the same lock.
Cost: the outermost acquire and release are the lock's; the others cost nothing.
Fence: the lock's.
Invariant: `_depth` of a hold is how many releases its owner still owes.
"""

from __future__ import annotations

import threading

from coordkit import errors
from coordkit.recipes import lock, locklike


class RLock(lock.Lock):
    """A fair mutex, reentrant for each thread or greenlet: only its owner may release it."""

    _kind = "rlock"

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Stand in line until it is our turn; at once when this thread holds it already.

        Raises:
            LockLost: This thread held it and lost it: nothing inside may go on as if it were held.
            SessionLost, Unavailable, Cancelled: As for a lock.

        Cost: that of a lock; nothing when it is held already.
        """
        held = self._own()
        if held is None:
            return super().acquire(blocking, timeout)
        _ = locklike.limit(blocking, timeout)  # silly arguments are refused here, too
        held.hold.check()
        held.depth += 1
        return True

    def release(self) -> None:
        """Undo one acquire of this thread; the last one gives the lock back, verified.

        Raises:
            NotHeld: This thread does not hold it through this object.
            LockLost: It was lost before.

        Cost: 1 commit for the last one.
        """
        held = self._own()
        if held is None:
            raise errors.NotHeld(f"{self} is not held by this thread through this object")
        if held.depth == 1:
            super().release()
            return
        held.depth -= 1
        held.hold.check()

    def _own(self) -> locklike.Held | None:
        me = threading.current_thread()
        return next((held for held in reversed(self._holds) if held.hold.owner is me), None)
