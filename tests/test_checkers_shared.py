"""The checkers of readers and writers, permits and hand-overs, on hand-written histories; the recorder."""

from __future__ import annotations

import itertools
import typing
from typing import Any

import pytest

from coordkit import errors
from coordkit.testing import checkers, history
from coordkit.testing.history import Kind, Operation, Result, Rule
from coordkit.testing.recorder import Recorder, Told

_indexes = itertools.count()


def hold(fence: int, held: int, release: int, kind: str = "", number: int | None = None) -> list[Operation]:
    """Somebody's hold from revision `held` to `release`, at the same times by the clock."""
    who, first, second = f"contender-{fence}-{number}", next(_indexes), next(_indexes)
    known: dict[str, Any] = {"process": 1, "contender": who, "subject": kind, "fence": fence}
    return [
        Operation(
            Kind.ACQUIRE, Result.OK, index=first, invoked_ns=held - 1, completed_ns=held, revision=held,
            number=number, **known,
        ),
        Operation(
            Kind.RELEASE, Result.OK, index=second, invoked_ns=release, completed_ns=release + 1,
            revision=release if number is None else None, **known,
        ),
    ]  # fmt: skip


def resize(revision: int | None, number: int, result: Result = Result.OK) -> list[Operation]:
    return [
        Operation(Kind.RESIZE, result, 1, "operator", next(_indexes), 0, 1, number=number, revision=revision)
    ]


def rules(verdict: history.Verdict) -> set[Rule]:
    return {violation.rule for violation in verdict.violations}


class TestReadersAndWriters:
    """check_rwlock."""

    def test_readers_together_and_writers_alone(self):
        """
        Are as it should be.
        """
        story = hold(10, 11, 20, "read") + hold(12, 13, 25, "read") + hold(14, 26, 30, "write")
        verdict = checkers.check_rwlock(story + hold(15, 31, 40, "read"))

        assert verdict.clean
        assert verdict.holds == 4

    @pytest.mark.parametrize(("one", "other"), [("read", "write"), ("write", "read"), ("write", "write")])
    def test_a_writer_beside_another_is_found(self, one, other):
        """
        By revision, and by the clock.
        """
        found = rules(checkers.check_rwlock(hold(10, 11, 20, one) + hold(12, 15, 18, other)))

        assert found >= {Rule.OVERLAP, Rule.CLOCK}

    def test_a_reader_that_overtakes_a_writer_is_found(self):
        """
        It came later and held it before; an older reader may hold it after a younger one.
        """
        late = hold(12, 13, 15, "read")

        assert rules(checkers.check_rwlock(hold(10, 20, 25, "write") + late)) == {Rule.ORDER}
        assert rules(checkers.check_rwlock(hold(10, 20, 25, "read") + late)) == set()


class TestPermits:
    """check_semaphore."""

    def test_as_many_as_the_limit(self):
        """
        Together, and one after the other; a limit that grows lets in more.
        """
        story = hold(10, 11, 20) + hold(12, 13, 25) + hold(14, 21, 30)

        assert checkers.check_semaphore(story, 2).clean
        assert checkers.check_semaphore(story + hold(15, 24, 28) + resize(23, 3), 2).clean

    def test_one_too_many_is_found(self):
        """
        At its revision, and by the clock.
        """
        story = hold(10, 11, 20) + hold(12, 13, 25) + hold(14, 18, 30)

        assert rules(checkers.check_semaphore(story, 2)) == {Rule.LIMIT, Rule.CLOCK}

    def test_a_limit_that_fell_counts_for_who_joins_later(self):
        """
        For who was granted before it nothing changes; a change that nobody answered may have been made.
        """
        before = hold(10, 11, 20) + hold(12, 13, 25)
        late = hold(16, 17, 30)

        assert checkers.check_semaphore(before + resize(14, 1), 2).clean
        assert rules(checkers.check_semaphore(before + resize(14, 1) + late, 3)) == {Rule.LIMIT}
        assert checkers.check_semaphore(before + late + resize(None, 3, Result.UNKNOWN), 2).clean


class TestHandOvers:
    """check_lock, where threads of a process hand on one fence."""

    def test_a_fence_that_is_handed_on(self):
        """
        Is as it should be while one ends before the next begins; the same hand-over twice is not.
        """
        first, second = hold(10, 11, 12, number=0), hold(10, 13, 14, number=1)

        assert checkers.check_lock(first + second + hold(15, 16, 17)).clean
        assert Rule.FENCE in rules(checkers.check_lock(first + hold(10, 13, 14, number=0)))

    def test_two_at_one_moment_are_found(self):
        """
        By the clock.
        """
        overlapping = hold(10, 11, 15, number=0) + hold(10, 13, 14, number=1)

        assert rules(checkers.check_lock(overlapping)) == {Rule.CLOCK}


class TestRecorder:
    """What is written while it happens."""

    def test_calls_are_written_before_and_after(self, tmp_path):
        """
        With what was told, or which error came; a call that does not return stays INVOKED.
        """
        path = tmp_path / "history.jsonl"
        witness = Recorder(path).witness("a", "name")

        told = witness.call(Kind.ACQUIRE, lambda: Told(fence=7, revision=8, number=9), subject="read")
        assert told is not None and told.fence == 7
        assert witness.call(Kind.RELEASE, lambda: fail(errors.LockLost("gone")), fence=7) is None
        assert witness.call(Kind.WRITE, lambda: fail(errors.SessionLost("?"))) is None
        assert witness.call(Kind.WRITE, lambda: Told(done=False)) is not None
        with pytest.raises(ZeroDivisionError):
            witness.call(Kind.ACQUIRE, lambda: fail(ZeroDivisionError()))

        written = history.load(path)
        assert [each.result.value for each in written] == ["ok", "fail", "unknown", "fail", "invoke"]
        assert [each.index for each in written] == list(range(5))
        assert (written[0].fence, written[0].revision, written[0].number) == (7, 8, 9)
        assert (written[0].subject, written[0].name, written[0].contender) == ("read", "name", "a")
        assert "LockLost" in written[1].error

    def test_one_call_that_does_several_things_is_several(self, tmp_path):
        """
        Each has an end of its own; an error ends all of them.
        """
        path = tmp_path / "history.jsonl"
        recorder = Recorder(path)
        witness = recorder.witness("a")
        known = [{"subject": subject} for subject in ("x", "y", "z")]

        witness.calls(Kind.ACK, lambda: [Told(), Told(certain=False), Told(done=False)], known)
        witness.calls(Kind.ACK, lambda: fail(errors.SessionLost("?")), known[:2])

        told = [(each.subject, each.result.value) for each in history.load(path)]
        assert told[:3] == [("x", "ok"), ("y", "unknown"), ("z", "fail")]
        assert told[3:] == [("x", "unknown"), ("y", "unknown")]
        assert recorder.done[Kind.ACK] == 1

    def test_what_comes_by_itself_is_one_line(self, tmp_path):
        """
        It cannot be cut short between its begin and its end.
        """
        path = tmp_path / "history.jsonl"

        Recorder(path).witness("a").saw(Kind.DELIVER, Told(revision=3, number=0), Told(revision=3, number=1))

        assert len(path.read_text().splitlines()) == 2
        assert [(each.index, each.number, each.result.value) for each in history.load(path)] == [
            (0, 0, "ok"),
            (1, 1, "ok"),
        ]


def fail(error: Exception) -> typing.NoReturn:
    raise error
