"""Fencing outside of etcd: refuse a write whose fence is smaller than the largest that was seen.

A holder that was paused does not know that its lock has passed on; only the place that it writes to can
refuse it.  State in etcd has `lock.guard()` and `lock.txn()` for that.  Other stores need what is here: the
fence travels with the write, and the store keeps the largest one, by name.

    with coord.lock("report") as lock:
        fence.check(cursor, lock.fence)        # a SQL table, in the transaction of the write
        report.replace(content, lock.fence)    # a file

The check means something only where fences grow from holder to holder, and where every writer goes through
it.  Until the newer holder has been admitted, the older one can still write: be admitted first, then read.

Source: Kleppmann, "How to do distributed locking" (2016); Gray and Cheriton, "Leases" (SOSP 1989).
Cost: for a table 1 statement, 3 at most; for a file 1 lock, and 1 sync for each new fence.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import typing

from coordkit import errors
from coordkit.deadline import Deadline

LARGEST_FENCE = 2**63 - 1  # etcd's revisions have 64 bits, with a sign
_DIGITS = len(str(LARGEST_FENCE))
_LOOK_S = 0.005  # between two looks at a lock that another writer has


class StaleFence(errors.LockLost):
    """The store has seen a larger fence: the lock has had a newer holder.  Nothing was written.

    Attributes:
        fence: The one that was refused.
        largest: The largest one seen.
    """

    def __init__(self, what: str, fence: int, largest: int) -> None:
        super().__init__(f"{what} refuses fence {fence}, for it has seen {largest}", f"fence {largest}")
        self.fence = fence
        self.largest = largest


class Cursor(typing.Protocol):
    """A cursor of any DB-API driver (PEP 249)."""

    @property
    def rowcount(self) -> int:
        """How many rows the last statement changed."""

    def execute(self, operation: str, parameters: typing.Any = ..., /) -> typing.Any:
        """Run a statement."""

    def fetchone(self) -> typing.Any:
        """The next row, or None."""


class TableFence:
    """The check by a row of a SQL table, which locks out older holders until the transaction ends.

    Call `check` in the transaction that does the work.  In a connection that commits each statement by itself
    the check and the work are two transactions, and a newer holder can come in between.
    """

    def __init__(self, name: str, *, table: str = "coordkit_fences", paramstyle: str = "qmark") -> None:
        """Args:
        name: What is fenced; the lock's name will do.
        table: The table that keeps the fences; `create_table` makes it.
        paramstyle: The driver module's `paramstyle`: "qmark" (sqlite3), "format" or "pyformat" (most).
        """
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", table, re.ASCII):
            raise errors.InvalidName(f"{table!r} is no name of a table")
        if paramstyle not in _MARKS:
            raise errors.InvalidValue(f"paramstyle must be one of {', '.join(_MARKS)}, not {paramstyle!r}")
        self.name = name
        mark = _MARKS[paramstyle]
        self._create = (
            f"CREATE TABLE IF NOT EXISTS {table} "
            "(name VARCHAR(255) PRIMARY KEY, fence BIGINT NOT NULL, writes BIGINT NOT NULL)"
        )
        # `writes` makes each update a change: some drivers count only rows that differ afterwards.
        self._update = (
            f"UPDATE {table} SET fence = {mark}, writes = writes + 1 WHERE name = {mark} AND fence <= {mark}"
        )
        self._insert = f"INSERT INTO {table} (name, fence, writes) VALUES ({mark}, {mark}, 1)"
        self._select = f"SELECT fence FROM {table} WHERE name = {mark}"

    def create_table(self, cursor: Cursor) -> None:
        """Make the table, unless it is there."""
        cursor.execute(self._create)

    def check(self, cursor: Cursor, fence: int) -> None:
        """Refuse a fence smaller than the largest seen; else remember it.  Others are kept out until commit.

        Raises:
            StaleFence: Roll back: the lock is another's.
            Exception: The driver's IntegrityError when two holders come first at once: roll back, try again.
        """
        _check_number(fence)
        if self._advance(cursor, fence):
            return
        largest = self.largest(cursor)
        if not largest:
            cursor.execute(self._insert, (self.name, fence))
        elif not self._advance(cursor, fence):
            raise StaleFence(f"the table's row {self.name!r}", fence, largest)

    def largest(self, cursor: Cursor) -> int:
        """The largest fence seen; 0 when there was none."""
        cursor.execute(self._select, (self.name,))
        row = cursor.fetchone()
        return int(row[0]) if row else 0

    def _advance(self, cursor: Cursor, fence: int) -> bool:
        cursor.execute(self._update, (fence, self.name, fence))
        if cursor.rowcount < 0:
            raise errors.UsageError("this driver does not tell how many rows an UPDATE changed")
        return cursor.rowcount > 0


_MARKS = {"qmark": "?", "format": "%s", "pyformat": "%s"}


class FileFence:
    """The check for one file of a local file system; `<path>.fence` beside it keeps the largest fence.

    POSIX only, for it uses flock.  A writer that is stopped half way keeps others out until it goes on, or
    ends.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Args:
        path: The file that is fenced.  No I/O happens yet.
        """
        self.path = os.path.realpath(path)  # a link's target is replaced, not the link
        self._fence_path = self.path + ".fence"

    @contextlib.contextmanager
    def admit(self, fence: int, timeout: float | None = 5.0) -> typing.Iterator[None]:
        """Refuse a fence smaller than the largest seen; else remember it, and keep all other writers out.

        For what is no replacement, as appending.  What the block has written when its process is killed stays
        as it is.

        Args:
            fence: The lock's.
            timeout: Seconds to wait for another writer; -1 waits for ever.

        Raises:
            StaleFence: The lock is another's.
            DeadlineExceeded: Another writer is still at it.
        """
        _check_number(fence)
        limit = Deadline.after(timeout)
        descriptor = os.open(self._fence_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _flock(descriptor, self._fence_path, limit)
            largest = self._read(descriptor)
            if fence < largest:
                raise StaleFence(self.path, fence, largest)
            if fence > largest:
                # Remembered before anything is written: a crash in between can only refuse too much.
                os.pwrite(descriptor, b"%0*d\n" % (_DIGITS, fence), 0)
                os.fsync(descriptor)
            if not largest:
                _sync_folder(self.path)
            yield
        finally:
            _unlock(descriptor)

    def replace(self, content: bytes, fence: int, timeout: float | None = 5.0) -> None:
        """Put new content in the file's place, whole or not at all.  The same terms as `admit`."""
        with self.admit(fence, timeout):
            self._write(content)

    def update(
        self, change: typing.Callable[[bytes], bytes], fence: int, timeout: float | None = 5.0
    ) -> None:
        """Replace the content by what `change` makes of it; nobody writes between reading and writing.

        Args:
            change: Gets the content, empty when there is no file, and returns the new one.
            fence: As for `admit`.
            timeout: As for `admit`.
        """
        with self.admit(fence, timeout):
            self._write(change(self._content()))

    def _content(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def _write(self, content: bytes) -> None:
        fresh = self.path + ".new"  # nobody else writes it: we have been admitted
        with open(fresh, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(self.path):
            shutil.copymode(self.path, fresh)
        os.replace(fresh, self.path)
        _sync_folder(self.path)

    def largest(self) -> int:
        """The largest fence seen; 0 when there was none."""
        try:
            descriptor = os.open(self._fence_path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            return self._read(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int) -> int:
        kept = os.pread(descriptor, _DIGITS + 2, 0)
        if not kept:
            return 0  # made a moment ago
        if not re.fullmatch(rb"[0-9]{%d}\n" % _DIGITS, kept):
            raise errors.CoordError(f"{self._fence_path} holds no fence: nothing is admitted")
        return int(kept)


def _check_number(fence: int) -> None:
    if isinstance(fence, bool) or not isinstance(fence, int) or not 0 < fence <= LARGEST_FENCE:
        raise errors.InvalidValue(f"a fence is a revision, an int above 0, not {fence!r}")


def _flock(descriptor: int, path: str, limit: Deadline) -> None:
    """Wait by looking again: a blocking flock would block a gevent hub."""
    import fcntl  # POSIX only; the rest of the module is not

    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if limit.expired:
                raise errors.DeadlineExceeded(f"{path}: another writer is still at it") from None
        time.sleep(_LOOK_S)


def _unlock(descriptor: int) -> None:
    """Before the close, which gevent may put off."""
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _sync_folder(path: str) -> None:
    """Make a new name survive a crash of the machine."""
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
