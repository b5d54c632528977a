"""The lock's checker on hand-written histories, good and bad."""

from __future__ import annotations

import contextlib
import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit.testing import checkers, history
from coordkit.testing.history import Kind, Operation, Result, Rule


class Script:
    """Writes a history as a story: every hold takes its own times, fences and revisions."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._calls: dict[str, itertools.count[int]] = {}

    def hold(
        self,
        who: str,
        clock: tuple[int, int],
        *,
        fence: int,
        grant: int | None = None,
        release: int | None = None,
        told: Result = Result.OK,
    ) -> Script:
        """`who` was granted at clock[0] and called release at clock[1]."""
        self.call(Kind.ACQUIRE, who, clock[0] - 5, clock[0], fence=fence, revision=grant)
        return self.call(Kind.RELEASE, who, clock[1], clock[1] + 3, told, fence=fence, revision=release)

    def call(
        self,
        kind: Kind,
        who: str,
        invoked_ns: int,
        completed_ns: int | None,
        result: Result = Result.OK,
        **fields: int | None,
    ) -> Script:
        index = next(self._calls.setdefault(who, itertools.count()))
        self.operations.append(
            Operation(kind, result, 1, who, index, invoked_ns, completed_ns, name="report", **fields)
        )
        return self


@pytest.fixture
def script():
    return Script()


def rules(script: Script) -> list[Rule]:
    return [violation.rule for violation in checkers.check_lock(script.operations).violations]


class TestGoodHistories:
    def test_holds_in_turn_are_clean(self, script):
        """
        A grant at the very revision of the release before it is not an overlap.
        """
        script.hold("a", (10, 20), fence=2, grant=2, release=5)
        script.hold("b", (23, 30), fence=3, grant=5, release=6)
        script.hold("a", (33, 40), fence=7, grant=7, release=8)

        verdict = checkers.check_lock(script.operations)

        assert verdict.clean and verdict.sound
        assert verdict.holds == 3

    def test_an_empty_history_is_clean_and_holds_nothing(self):
        """
        Nothing that happened breaks no rule.
        """
        assert checkers.check_lock([]) == history.Verdict(0, ())

    def test_locks_of_different_names_may_be_held_together(self, script):
        """
        Rules apply to one lock at a time.
        """
        script.hold("a", (10, 50), fence=2, grant=2, release=9)
        script.hold("b", (20, 30), fence=3, grant=3, release=4)
        other = [attrs.evolve(o, name="other") if o.contender == "b" else o for o in script.operations]

        assert checkers.check_lock(other).clean
        assert not checkers.check_lock(script.operations).clean

    def test_the_order_of_the_lines_does_not_matter(self, script):
        """
        Histories of several processes may be joined in any order.
        """
        script.hold("a", (10, 20), fence=2, grant=2, release=5)
        script.hold("b", (23, 30), fence=3, grant=5, release=6)
        script.hold("a", (33, 40), fence=7, grant=7, release=8)

        for operations in itertools.permutations(script.operations):
            assert checkers.check_lock(operations).clean

    def test_a_waiter_that_was_never_granted_breaks_no_order(self, script):
        """
        An older key whose owner gave up may be overtaken.
        """
        script.call(Kind.ACQUIRE, "old", 1, 40, Result.FAIL, fence=2)
        script.hold("a", (10, 20), fence=3, grant=4, release=5)

        assert rules(script) == []


class TestOverlaps:
    def test_two_holders_at_one_revision_are_found(self, script):
        """
        A grant below the release revision of another hold is an overlap.
        """
        script.hold("a", (10, 20), fence=2, grant=2, release=6)
        script.hold("b", (25, 30), fence=3, grant=5, release=8)

        assert rules(script) == [Rule.OVERLAP]

    def test_an_overlap_with_a_hold_that_ended_long_after_its_neighbour_is_found(self, script):
        """
        Every hold is compared with the one that ends last, not only with the one before it.
        """
        script.hold("long", (10, 90), fence=2, grant=2, release=50)
        script.hold("b", (20, 30), fence=3, grant=10, release=11)
        script.hold("c", (40, 50), fence=4, grant=20, release=21)

        verdict = checkers.check_lock(script.operations)

        assert verdict.count(Rule.OVERLAP) == 2
        assert verdict.count(Rule.CLOCK) == 2
        assert {o.contender for o in verdict.violations[1].operations} == {"long", "c"}

    def test_without_grant_revisions_the_clock_still_sees_an_overlap(self, script):
        """
        A grant before another's call to release is found by the clock, and is no proof by revision.
        """
        script.hold("a", (10, 20), fence=2, release=6)
        script.hold("b", (15, 30), fence=3, release=8)

        verdict = checkers.check_lock(script.operations)

        assert [v.rule for v in verdict.violations] == [Rule.CLOCK]
        assert verdict.sound and not verdict.clean


class TestOrder:
    def test_a_younger_key_that_is_granted_first_is_found(self, script):
        """
        Grants follow create revisions.
        """
        script.hold("young", (10, 20), fence=3, grant=4, release=5)
        script.hold("old", (30, 40), fence=2, grant=5, release=6)

        assert set(rules(script)) == {Rule.ORDER, Rule.CLOCK}

    def test_an_inversion_shows_in_the_release_revisions_alone(self, script):
        """
        Who held an older key until a later revision was granted it too late, or beside another.
        """
        script.hold("young", (10, 20), fence=3, release=5)
        script.hold("old", (30, 40), fence=2, release=9)

        assert Rule.ORDER in rules(script)

    def test_two_holds_with_one_fence_are_found(self, script):
        """
        Fences strictly rise: the same one twice is a violation even when the holds are apart.
        """
        script.hold("a", (10, 20), fence=2, grant=2, release=5)
        script.hold("b", (23, 30), fence=2, grant=6, release=7)

        assert rules(script) == [Rule.FENCE]

    def test_a_fence_that_falls_by_the_clock_is_witnessed(self, script):
        """
        Without any revision the order of grants is the clock's.
        """
        script.hold("a", (10, 20), fence=9)
        script.hold("b", (23, 30), fence=4)

        assert rules(script) == [Rule.CLOCK]


class TestUncertainty:
    def test_an_acquire_with_unknown_outcome_is_no_hold(self, script):
        """
        Nobody ran a critical section after an acquire that was never answered.
        """
        script.call(Kind.ACQUIRE, "a", 5, 10, Result.UNKNOWN, fence=2, revision=2)
        script.call(Kind.ACQUIRE, "b", 5, None, Result.INVOKED)
        script.hold("c", (10, 20), fence=3, grant=3, release=4)

        verdict = checkers.check_lock(script.operations)

        assert verdict.clean and verdict.holds == 1

    @pytest.mark.parametrize("told", [Result.UNKNOWN, Result.FAIL, Result.INVOKED])
    def test_a_hold_that_was_lost_ends_nobody_knows_when(self, script, told):
        """
        A release that was not verified proves nothing about the time after the grant.
        """
        script.hold("a", (10, 90), fence=2, grant=2, release=30, told=told)
        script.hold("b", (50, 60), fence=3, grant=7, release=8)

        assert rules(script) == []

    def test_a_hold_without_any_release_counts_at_its_grant(self, script):
        """
        A process that died in its critical section still held when it was granted.
        """
        script.hold("a", (10, 20), fence=2, grant=2, release=9)
        script.call(Kind.ACQUIRE, "dead", 1, 15, fence=3, revision=6)

        assert set(rules(script)) == {Rule.OVERLAP, Rule.CLOCK}

    def test_an_unverified_release_does_not_end_the_next_hold(self, script):
        """
        Each hold is paired with the call that follows it, and with no later one.
        """
        script.hold("a", (10, 20), fence=2, grant=2, release=None, told=Result.FAIL)
        script.call(Kind.ACQUIRE, "a", 25, 30, fence=5, revision=5)
        script.call(Kind.ACQUIRE, "a", 35, 40, fence=8, revision=8)
        script.call(Kind.RELEASE, "a", 45, 50, fence=8, revision=9)

        first, second, third = checkers.holds_of(script.operations)

        assert (first.revisions, second.revisions, third.revisions) == ((2, 3), (5, 6), (8, 9))


class TestWrites:
    def test_a_stale_write_that_was_accepted_is_found(self, script):
        """
        No write with fence f is accepted after one with a larger fence.
        """
        script.call(Kind.WRITE, "b", 20, 21, fence=5, revision=11)
        script.call(Kind.WRITE, "a", 10, 31, fence=2, revision=12)

        assert rules(script) == [Rule.WRITE]

    @pytest.mark.parametrize("told", [Result.FAIL, Result.UNKNOWN])
    def test_a_stale_write_that_was_refused_is_as_it_should_be(self, script, told):
        """
        Only what was accepted counts.
        """
        script.call(Kind.WRITE, "b", 20, 21, fence=5, revision=11)
        script.call(Kind.WRITE, "a", 10, 31, told, fence=2, revision=12)

        assert rules(script) == []


@st.composite
def turns(draw):
    """A legal history: contenders join in some order and hold one after the other."""
    script, clock, revision = Script(), 100, 1
    for who in draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=12)):
        fence = revision + draw(st.integers(1, 3))
        grant = fence + draw(st.integers(0, 2))
        revision = grant + draw(st.integers(1, 4))
        start = clock + draw(st.integers(6, 20))
        clock = start + draw(st.integers(0, 20))
        known = draw(st.booleans())
        script.hold(who, (start, clock), fence=fence, grant=grant if known else None, release=revision)
        clock += 3
    return script.operations


class TestLegalAndBroken:
    @given(turns())
    def test_legal_turns_are_clean(self, operations):
        """
        The checker has no false alarm.
        """
        assert checkers.check_lock(operations).clean

    @given(turns(), st.data())
    def test_a_release_that_comes_after_the_next_grant_is_found(self, operations, data):
        """
        One hold that outlasts the grant of the next breaks a rule wherever it stands.
        """
        acquires = [i for i, o in enumerate(operations) if o.kind is Kind.ACQUIRE]
        at = data.draw(st.sampled_from(acquires[:-1]))
        nxt = operations[at + 2]
        operations[at + 1] = attrs.evolve(operations[at + 1], invoked_ns=nxt.completed_ns + 1)

        assert not checkers.check_lock(operations).clean


class TestFiles:
    def test_a_history_and_its_violations_come_back_as_they_were(self, script, tmp_path):
        """
        What is kept after a failed run can be judged again.
        """
        script.hold("a", (10, 20), fence=2, grant=2, release=6)
        script.hold("b", (25, 30), fence=3, grant=5, told=Result.UNKNOWN)
        violations = checkers.check_lock(script.operations).violations

        history.save(tmp_path / "kept.jsonl", [*script.operations, *violations])

        assert history.load(tmp_path / "kept.jsonl") == script.operations
        assert history.load_violations(tmp_path / "kept.jsonl") == list(violations)

    def test_the_end_of_a_call_replaces_its_beginning(self, script, tmp_path):
        """
        A recorder may write invoke before the call and the outcome after it.
        """
        script.hold("a", (10, 20), fence=2, grant=2, release=6)
        acquire, release = script.operations
        begun = attrs.evolve(acquire, result=Result.INVOKED, completed_ns=None, fence=None, revision=None)

        history.save(tmp_path / "log.jsonl", [begun, acquire, release])

        assert history.load(tmp_path / "log.jsonl") == [acquire, release]

    def test_a_line_that_was_cut_short_is_left_out(self, script, tmp_path):
        """
        A process that is killed while it writes costs its last line, not its history.
        """
        script.hold("a", (10, 20), fence=2, grant=2, release=6)
        path = tmp_path / "log.jsonl"
        history.save(path, script.operations)

        path.write_text(path.read_text()[:-10])

        assert history.load(path) == script.operations[:1]

    def test_a_line_that_is_written_right_now_is_left_out_with_its_rest(self, script, tmp_path, monkeypatch):
        """
        A reader is at the end in the middle of it, and finds the rest when it looks again.
        """
        script.call(Kind.ACQUIRE, "a", 1, 2).call(Kind.RELEASE, "a", 3, 4)
        path = tmp_path / "log.jsonl"
        history.save(path, script.operations)
        first, second = path.read_text().splitlines(keepends=True)
        pieces = contextlib.nullcontext(iter([first, second[:40], second[40:]]))
        monkeypatch.setattr(history, "open", lambda *_, **__: pieces, raising=False)

        assert history.load(path) == script.operations[:1]


def test_the_clock_is_shared_by_all_processes_and_only_grows():
    """
    Two readings never go backwards.
    """
    first = history.clock_ns()

    assert history.clock_ns() >= first > 0
