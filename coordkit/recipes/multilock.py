"""MultiLock: several locks, all or none, in an order in which nobody can wait in a circle.

Status: stable.
Source: Havender, "Avoiding deadlock in multitasking systems" (IBM Systems Journal, 1968): resources are asked
for in one order that is the same for all; Curator's InterProcessMultiLock.
Keys: those of `lock`, for each name once; they are the same locks.
Cost: 1 commit for each lock to acquire, and 1 to release.
Fence: each lock's own, in `fences`.  `fence` is that of the lock that was acquired last, the largest: among
holders of the same names it strictly grows.
Invariant: whoever waits for a lock holds only locks whose keys come before that lock's.
"""

from __future__ import annotations

import typing

from coordkit import errors, keys, outages
from coordkit import ticket as tickets
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv
from coordkit.recipes import hold as holds
from coordkit.recipes import lock as locks
from coordkit.recipes import locklike


class Together(holds.Hold):
    """The holds of several locks, as one: lost when one of them is."""

    def __init__(self, name: str, parts: dict[str, locklike.InLine]) -> None:
        self.parts = parts
        last = max((part.hold for part in parts.values()), key=lambda hold: hold.fence)
        super().__init__(last.session, name, last.key, last.fence)
        for part in parts.values():
            part.line.hold(part.ticket, self.lose)

    def guard(self) -> list[kv.Compare]:
        """True exactly as long as all of their keys exist."""
        return [compare for part in self.parts.values() for compare in part.hold.guard()]


class AllHeld(locklike.Held):
    """All of them."""

    def __init__(self, hold: Together) -> None:
        self.hold = hold
        self.parts = hold.parts

    def give_back(self) -> int | None:
        """Release each, the last one first.  Cost: 1 commit each."""
        self.hold.end()
        revision, loss = None, None
        for part in reversed(list(self.parts.values())):
            try:
                revision = part.give_back()
            except errors.LockLost as error:
                loss = error  # the others are to be given back all the same
        if loss is not None:
            self.hold.lose(loss.since)
            raise loss
        return revision

    def give_up(self) -> None:
        """See `Held`."""
        _give_up(self.hold, self.parts)


class MultiLock(locklike.LockLike):
    """Several locks as one.  Threads that share a MultiLock queue like strangers; it is not reentrant."""

    _kind = "multilock"

    def __init__(self, session: holds.Source, names: typing.Iterable[str]) -> None:
        """Args:
        session: Whose life they hang on; or a function that gives the current one.
        names: Of the locks; one that comes twice counts once.  No I/O happens yet.
        """
        if isinstance(names, str):
            raise errors.InvalidName("a multilock takes names in a list, not one name")
        by_key = {keys.segment(name).encode(): name for name in names}
        if not by_key:
            raise errors.InvalidName("a multilock needs the name of a lock at least")
        #: In the order in which they are acquired: that of their keys.
        self.names = tuple(name for _, name in sorted(by_key.items()))
        super().__init__(session, ", ".join(self.names))

    @property
    def fences(self) -> dict[str, int]:
        """Each lock's fencing token.  Raises NotHeld."""
        together = self._mine().hold
        assert isinstance(together, Together)
        return {name: part.hold.fence for name, part in together.parts.items()}

    def locked(self) -> bool:
        """Whether anybody holds or awaits one of them.  Cost: 1 round trip for each lock."""
        return any(lock.locked() for lock in self._locks(NEVER))

    def contenders(self) -> list[tickets.Contender]:
        """Who holds or awaits them, lock by lock, each line in order.  Cost: 1 round trip for each lock."""
        return [place for lock in self._locks(NEVER) for place in lock.contenders()]

    def _locks(self, deadline: Deadline) -> list[locks.Lock]:
        # All on one session: they are lost together.
        session = holds.current(self._source, deadline)
        return [locks.Lock(session, name) for name in self.names]

    def _take(self, deadline: Deadline) -> locklike.Held:
        members = outages.outlast(lambda: self._locks(deadline), deadline)

        def wait(lock: locks.Lock) -> locklike.InLine:
            # HOLDING SOME: all those before this one, in the order that is the same for everybody.
            self._waits[lock] = lock.cancel
            try:
                return lock._take(deadline)
            finally:
                self._waits.pop(lock, None)

        while True:
            try:
                held = self._gather(members, wait)
                assert held is not None
                return held
            except errors.LockLost:
                pass  # somebody deleted one of our keys while we waited for another: from the beginning

    def _try(self) -> locklike.Held | None:
        return self._gather(self._locks(NEVER), lambda lock: lock._try())

    def _gather(
        self, members: list[locks.Lock], take: typing.Callable[[locks.Lock], locklike.InLine | None]
    ) -> AllHeld | None:
        """All of them; None, and none of them, when one was refused."""
        parts: dict[str, locklike.InLine] = {}
        together: Together | None = None
        try:
            for lock in members:
                part = take(lock)
                if part is None:
                    break
                parts[lock.name] = part
            else:
                # HELD: all of them, if none was lost while others were waited for.
                together = Together(str(self), parts)
                together.check()
                return AllHeld(together)
        except BaseException:
            _give_up(together, parts)
            raise
        _give_up(None, parts)
        return None


def _give_up(together: holds.Hold | None, parts: dict[str, locklike.InLine]) -> None:
    if together is not None:
        together.end()
    for part in parts.values():
        part.give_up()
