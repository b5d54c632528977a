"""Fencing in other stores: a SQL table (sqlite3) and a file."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import sqlite3
import tempfile
import threading

import hypothesis
import hypothesis.strategies as st
import pytest

import coordkit
from coordkit import fencing
from coordkit.fencing import FileFence, StaleFence, TableFence

FENCES = st.lists(st.integers(1, 9), max_size=8)
NO_FENCES = [0, -1, True, 1.5, "7", None, 2**63]


@pytest.fixture
def database(tmp_path):
    """The path of a database with an empty table of fences."""
    path = tmp_path / "database"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        TableFence("any").create_table(connection.cursor())
    return path


@pytest.fixture
def connect(database):
    """Connections that do not wait for each other."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(sqlite3.connect(database, timeout=0)))


@pytest.fixture
def target(tmp_path):
    """The path of a file that nobody has written yet."""
    return tmp_path / "report.txt"


def accepted(fences: list[int], admit) -> list[int]:
    passed = []
    for fence in fences:
        with contextlib.suppress(StaleFence):
            admit(fence)
            passed.append(fence)
    return passed


def rising(fences: list[int]) -> list[int]:
    """Those that are no smaller than any before them."""
    largest = itertools.accumulate(fences, max)
    return [fence for fence, seen in zip(fences, largest, strict=True) if fence == seen]


class Scripted:
    """A cursor whose statements are rewritten, followed by something, or not counted."""

    def __init__(self, cursor, rewrite=lambda sql: sql, follow=lambda sql: None, counts=True):
        self._cursor, self._rewrite, self._follow, self._counts = cursor, rewrite, follow, counts
        self.rowcount = -1

    def execute(self, sql, parameters=()):
        self._cursor.execute(self._rewrite(sql), parameters)
        self.rowcount = self._cursor.rowcount if self._counts else -1
        self._follow(sql)

    def fetchone(self):
        return self._cursor.fetchone()


class TestTableFence:
    def test_a_smaller_fence_than_the_largest_seen_is_refused(self, connect):
        """
        The refusal is a LockLost, and names both fences.
        """
        cursor = connect().cursor()
        fence = TableFence("report")
        fence.check(cursor, 57)

        with pytest.raises(StaleFence, match=r"fence 41.*57") as refusal:
            fence.check(cursor, 41)

        assert isinstance(refusal.value, coordkit.LockLost)
        assert (refusal.value.fence, refusal.value.largest) == (41, 57)
        assert fence.largest(cursor) == 57

    @hypothesis.given(FENCES)
    def test_what_passes_never_falls(self, fences):
        """
        Of any sequence exactly those pass that are no smaller than all before them.
        """
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            cursor = connection.cursor()
            fence = TableFence("report")
            fence.create_table(cursor)

            assert accepted(fences, lambda each: fence.check(cursor, each)) == rising(fences)
            assert fence.largest(cursor) == max(fences, default=0)

    def test_names_do_not_share_their_fences(self, connect):
        """
        A larger fence of one lock says nothing about another's.
        """
        cursor = connect().cursor()
        TableFence("one").check(cursor, 9)

        TableFence("other").check(cursor, 3)

        assert TableFence("other").largest(cursor) == 3

    def test_an_older_holder_is_kept_out_until_the_newer_one_commits(self, connect):
        """
        Between the check and the commit no other holder's write can come in.
        """
        newer, older = connect(), connect()
        fence = TableFence("report")
        fence.check(newer.cursor(), 9)

        with pytest.raises(sqlite3.OperationalError, match="locked"):
            fence.check(older.cursor(), 8)
        newer.commit()

        with pytest.raises(StaleFence):
            fence.check(older.cursor(), 8)

    def test_the_first_check_ever_keeps_others_out_too(self, connect):
        """
        So it is although there was no row to be locked.
        """
        first, second = connect(), connect()
        fence = TableFence("report")
        fence.check(first.cursor(), 1)

        with pytest.raises(sqlite3.OperationalError, match="locked"):
            fence.check(second.cursor(), 2)

    def test_a_rolled_back_check_leaves_nothing(self, connect):
        """
        The fence is remembered with the work, or not at all.
        """
        connection = connect()
        fence = TableFence("report")
        fence.check(connection.cursor(), 4)
        connection.commit()

        fence.check(connection.cursor(), 9)
        connection.rollback()

        assert fence.largest(connection.cursor()) == 4

    @pytest.mark.parametrize(("seen", "refused"), [(3, False), (5, False), (7, True)])
    def test_a_row_that_appears_during_the_check_counts(self, connect, seen, refused):
        """
        Whoever writes first between two statements of ours is judged by its fence, not by its existence.
        """
        cursor = connect().cursor()
        rows = iter([("report", seen, 1)])

        def appear(sql):
            if sql.startswith("UPDATE"):
                cursor.connection.executemany("INSERT INTO coordkit_fences VALUES (?, ?, ?)", rows)

        racing = Scripted(cursor, follow=appear)

        if refused:
            with pytest.raises(StaleFence):
                TableFence("report").check(racing, 5)
        else:
            TableFence("report").check(racing, 5)

        assert TableFence("report").largest(cursor) == max(seen, 5)

    @pytest.mark.parametrize("paramstyle", ["format", "pyformat"])
    def test_drivers_that_mark_parameters_with_percent_s_are_served(self, connect, paramstyle):
        """
        The statements then hold %s and nothing else that such a driver would take for a mark.
        """
        cursor = Scripted(connect().cursor(), rewrite=lambda sql: sql % (("?",) * sql.count("%")))
        fence = TableFence("report", paramstyle=paramstyle)

        fence.check(cursor, 5)

        assert fence.largest(cursor) == 5

    def test_a_driver_that_does_not_count_rows_is_refused(self, connect):
        """
        Without the count nothing would be checked.
        """
        cursor = Scripted(connect().cursor(), counts=False)

        with pytest.raises(coordkit.UsageError, match="how many rows"):
            TableFence("report").check(cursor, 5)

    @pytest.mark.parametrize("table", ["", "a b", "fences; DROP TABLE t", "1a", "a.b.c", "fences\n"])
    def test_a_table_must_have_a_plain_name(self, table):
        """
        The name goes into statements as it is.
        """
        with pytest.raises(coordkit.InvalidName):
            TableFence("report", table=table)

    def test_an_unknown_paramstyle_is_refused(self):
        """
        The message names those that are known.
        """
        with pytest.raises(coordkit.InvalidValue, match="qmark, format, pyformat"):
            TableFence("report", paramstyle="numeric")

    @pytest.mark.parametrize("fence", NO_FENCES)
    def test_what_is_no_revision_is_no_fence(self, connect, fence):
        """
        Fences are positive whole numbers of 63 bits.
        """
        with pytest.raises(coordkit.InvalidValue):
            TableFence("report").check(connect().cursor(), fence)


class TestFileFence:
    def test_a_smaller_fence_than_the_largest_seen_is_refused(self, target):
        """
        The file keeps what the newer holder wrote.
        """
        file = FileFence(target)
        file.replace(b"newer", 57)

        with pytest.raises(StaleFence, match=r"fence 41.*57"):
            file.replace(b"older", 41)

        assert target.read_bytes() == b"newer"
        assert file.largest() == 57

    @hypothesis.given(FENCES)
    @hypothesis.settings(max_examples=30)
    def test_what_passes_never_falls(self, fences):
        """
        Of any sequence exactly those pass that are no smaller than all before them; the last one stands.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "report")
            passed = accepted(fences, lambda each: FileFence(path).replace(b"%d" % each, each))

            assert passed == rising(fences)
            assert not passed or path.read_bytes() == b"%d" % passed[-1]

    def test_a_fence_is_remembered_although_the_write_failed(self, target):
        """
        Remembered before the write, it can only refuse too much; the same holder may try again.
        """
        file = FileFence(target)
        with pytest.raises(ZeroDivisionError), file.admit(9):
            raise ZeroDivisionError

        with pytest.raises(StaleFence):
            file.replace(b"older", 8)

        file.replace(b"again", 9)
        assert target.read_bytes() == b"again"

    def test_one_writer_at_a_time(self, target):
        """
        Threads that read, change and write under the same fence lose no change.
        """
        target.write_text("0")
        file = FileFence(target)

        def add():
            for _ in range(10):
                file.update(lambda content: b"%d" % (int(content) + 1), 7, timeout=-1)

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert target.read_text() == "40"

    def test_no_former_holder_comes_between_reading_and_writing(self, target):
        """
        Whoever updates has been admitted before it reads; a file that is not there reads as empty.
        """
        file = FileFence(target)

        def change(content):
            with pytest.raises(coordkit.DeadlineExceeded):
                file.replace(b"older", 4, timeout=0)
            return content + b"newer"

        file.update(change, 5)

        assert target.read_bytes() == b"newer"
        with pytest.raises(StaleFence):
            file.update(lambda content: content, 4)

    def test_an_update_that_fails_changes_nothing(self, target):
        """
        The content stays, and so does the fence.
        """
        file = FileFence(target)
        file.replace(b"kept", 5)

        with pytest.raises(ZeroDivisionError):
            file.update(lambda content: b"%d" % (1 // 0), 6)

        assert target.read_bytes() == b"kept"
        assert file.largest() == 6

    def test_a_writer_that_is_half_way_keeps_others_out(self, target):
        """
        Even a newer holder waits for it, no longer than its timeout.
        """
        file = FileFence(target)

        with file.admit(5), pytest.raises(coordkit.DeadlineExceeded), file.admit(6, timeout=0.05):
            pytest.fail("two writers at once")

        assert file.largest() == 5

    def test_a_writer_that_is_killed_lets_others_in(self, target, child):
        """
        Its fence stays: what is older than the dead writer is refused.
        """
        dying = child(
            """
            import sys
            from coordkit import fencing
            with fencing.FileFence(sys.argv[1]).admit(5):
                print("in")
                sys.stdin.read()
            """,
            str(target),
        )
        assert dying.stdout.readline() == "in\n"
        dying.kill()
        dying.wait()

        with pytest.raises(StaleFence):
            FileFence(target).replace(b"older", 4)

        FileFence(target).replace(b"newer", 6)
        assert target.read_bytes() == b"newer"

    def test_what_is_no_fence_admits_nobody(self, target):
        """
        A damaged record could stand for any fence.
        """
        FileFence(target).replace(b"kept", 5)
        pathlib.Path(f"{target}.fence").write_bytes(b"000\n")

        with pytest.raises(coordkit.CoordError, match="holds no fence"):
            FileFence(target).replace(b"lost", 2**62)

        assert target.read_bytes() == b"kept"

    def test_mode_and_links_are_kept(self, target, tmp_path):
        """
        A replacement has the mode of what it replaces; a link goes on pointing to it.
        """
        target.write_bytes(b"old")
        target.chmod(0o640)
        link = tmp_path / "link"
        link.symlink_to(target)

        FileFence(link).replace(b"new", 3)

        assert link.is_symlink()
        assert target.read_bytes() == b"new"
        assert target.stat().st_mode & 0o777 == 0o640

    def test_a_file_that_nobody_wrote_has_seen_nothing(self, target):
        """
        Asking leaves nothing behind.
        """
        assert FileFence(target).largest() == 0
        assert list(target.parent.iterdir()) == []

    @pytest.mark.parametrize("fence", NO_FENCES)
    def test_what_is_no_revision_is_no_fence(self, target, fence):
        """
        Nothing is written for it.
        """
        with pytest.raises(coordkit.InvalidValue):
            FileFence(target).replace(b"x", fence)

        assert list(target.parent.iterdir()) == []


class TestWithALock:
    def test_the_fence_of_an_earlier_hold_is_refused(self, coord, connect, target):
        """
        Whoever holds the lock later has the larger fence, and both stores go by it.
        """
        file, row, cursor = FileFence(target), TableFence("report"), connect().cursor()
        with coord.lock("report") as lock:
            earlier = lock.fence
        with coord.lock("report") as lock:
            file.replace(b"later", lock.fence)
            row.check(cursor, lock.fence)

        with pytest.raises(fencing.StaleFence):
            file.replace(b"earlier", earlier)
        with pytest.raises(fencing.StaleFence):
            row.check(cursor, earlier)

        assert target.read_bytes() == b"later"
