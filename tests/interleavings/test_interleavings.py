"""Each interleaving is survived, and each rule is needed: without it, the same play ends in a violation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from interleavings import scenarios
from interleavings.meddler import Meddler
from interleavings.stage import Stage, Violation, mutate

from coordkit import linewatch, waitlist
from coordkit import session as sessions
from coordkit.etcd import client as clients
from coordkit.etcd import kv

Scenario = Callable[[Stage], None]
Mutation = Callable[[pytest.MonkeyPatch], None]

# Patience for what must happen and for what must not; with a rule taken out it is the other way round.
AS_IT_IS = (15.0, 0.1)
MUTATED = (1.0, 0.5)


@pytest.fixture
def patience(request: pytest.FixtureRequest) -> tuple[float, float]:
    return MUTATED if "mutation" in request.fixturenames else AS_IT_IS


@pytest.fixture
def server(request: pytest.FixtureRequest, etcd: object) -> Iterator[object]:
    """The run's server; one of its own for what raises the alarm."""
    if "out_of_space" not in request.node.name:
        yield etcd
        return
    from coordkit.testing import LocalEtcd

    with LocalEtcd() as own:
        yield own


@pytest.fixture
def stage(
    server, namespace: str, patience: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    monkeypatch.setattr(linewatch, "LINGER_S", 60.0)  # what was watched once is watched for the whole play
    stage = Stage(server.endpoint, namespace, Meddler.installed(monkeypatch), *patience)
    yield stage
    stage.close()


# The rules, each as what the code is without it.


def creates_compare_no_epoch(patch: pytest.MonkeyPatch) -> None:
    mutate(
        patch,
        sessions.Session,
        "create",
        "[kv.create(key) == 0, in_epoch, *when]",
        "[kv.create(key) == 0, *when]",
    )


def withdrawal_without_a_bump(patch: pytest.MonkeyPatch) -> None:
    def withdraw(self: sessions.Session, pause_s: float = 0.0) -> None:
        doubts, self._doubts = self._doubts, []
        request = kv.txn_request([], map(kv.delete, doubts))
        self._try_txn(request, self.client.deadline(None), doubts)

    patch.setattr(sessions.Session, "withdraw", withdraw)


def a_doubt_is_settled_by_a_read(patch: pytest.MonkeyPatch) -> None:
    mutate(
        patch,
        sessions.Session,
        "_look",
        "kv.put(self.key, self._value, lease=self.lease_id)",
        "self.read_key",
    )


def a_refusal_is_taken_for_the_last_word(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, sessions.Session, "create", "if self._see_key(result.found(1).first) == epoch:", "if True:")


def who_finds_the_session_key_gone_goes_on(patch: pytest.MonkeyPatch) -> None:
    def see_key(self: sessions.Session, session_key: kv.KeyValue | None) -> int:
        return session_key.mod_revision if session_key else self._epoch

    patch.setattr(sessions.Session, "_see_key", see_key)


def an_earlier_copy_is_not_recognized(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, sessions.Session, "create", "if mine is not None:", "if False:")


def the_newest_are_read_whoever_they_are(patch: pytest.MonkeyPatch) -> None:
    mutate(
        patch, waitlist.Line, "_look", "max_create_revision=ticket.create_revision", "max_create_revision=0"
    )


def a_join_reads_once(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Line, "_wait", "if ticket.phase is Phase.JOINING:", "if False:")
    no_confirming_read(patch)


def the_reply_to_a_join_is_always_believed(patch: pytest.MonkeyPatch) -> None:
    rule = "self.struck.get(self.key, 0) > self.create_revision"
    mutate(patch, waitlist.Ticket, "created", rule, "False")


def the_session_key_is_read_before_it_is_put(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, sessions.Session, "_watch_stands", "if created and revision > created:", "if True:")


def our_own_release_is_told_as_a_loss(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Line, "release", "ticket.on_gone = None", "pass")


def any_watch_covers(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Line, "watch_stands", "feed is self._feed and ", "")


def strikes_by_name(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Ticket, "strike", "self.ahead.get(key, revision) < revision", "key in self.ahead")


def strikes_by_name_while_joining(patch: pytest.MonkeyPatch) -> None:
    rule = "struck.get(other.key, 0) < other.create_revision"
    mutate(patch, waitlist.Ticket, "take", rule, "other.key not in struck")


def no_confirming_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(waitlist.Line, "covers", lambda self, revision: True)


def no_confirming_read_far_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(linewatch.End, "on_created", lambda self, revision: None)


def hand_over_to_whoever_waits(patch: pytest.MonkeyPatch) -> None:
    def hand_over(self: waitlist.Line, release: kv.TxnResult) -> None:
        for ticket in self._tickets.values():
            if ticket.phase is waitlist.Phase.WAITING:
                ticket.phase = waitlist.Phase.READY
                ticket.waiter.wake()
                return

    patch.setattr(waitlist.Line, "_hand_over", hand_over)


def no_hand_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(waitlist.Line, "_hand_over", lambda self, release: None)


def any_local_waiter_is_first(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, linewatch.Watched, "_next_after", "other.ahead in nobody_else", "True")


def a_window_is_the_line(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Ticket, "take", "if more:", "if False:")


def the_predecessors_end_is_our_turn(patch: pytest.MonkeyPatch) -> None:
    def read(self: waitlist.Line, ticket: waitlist.Ticket, deadline: object) -> None:
        ticket.phase = waitlist.Phase.READY

    patch.setattr(waitlist.Line, "_read", read)


def far_back_our_own_key_is_not_watched(patch: pytest.MonkeyPatch) -> None:
    rule = "(*ticket.predecessors, ticket.key)"
    mutate(patch, waitlist.Line, "_far_ranges", rule, "ticket.predecessors * 2")


def nobody_tells_whoever_reads_far_back(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Line, "_watch_predecessors", "ticket.is_far = False", "pass")


def the_guides_end_is_our_turn(patch: pytest.MonkeyPatch) -> None:
    rule = "other.waiter.wake()"
    mutate(patch, waitlist.Ticket, "tell_followers", rule, f"other.ahead = {{}}; {rule}")


def who_follows_is_not_told_of_its_own_end(patch: pytest.MonkeyPatch) -> None:
    mutate(
        patch,
        linewatch.Watched,
        "strike",
        "not ticket.is_far or ticket.key == event.key",
        "not ticket.is_far",
    )


def a_guides_end_tells_nothing(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, linewatch.Watched, "_turn_comes", "other.come_near(ticket)", "pass")
    patch.setattr(waitlist.Line, "_hand_over", lambda self, release: None)


def who_follows_a_holder_needs_no_watch(patch: pytest.MonkeyPatch) -> None:
    rule = "not self.covers(other.snapshot_revision)"
    mutate(patch, linewatch.Watched, "_turn_comes", rule, "False")


def a_holder_is_followed_to_its_end(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, linewatch.Watched, "_turn_comes", "other.come_near(ticket)", "pass")


def a_read_need_not_show_our_key(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Line, "_read", "if not seen.shows_us:", "if False:")


def our_own_deletion_is_not_told(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Ticket, "strike", "if key == self.key:", "if False:")


def a_gap_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(waitlist.Line, "watch_missed", lambda self, feed: None)


def after_a_gap_nobody_reads(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Line, "watch_missed", "self._covered_from = None", "pass")


def a_gap_far_back_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(linewatch.End, "on_gap", lambda self, compacted: None)


def any_read_will_do(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(clients.Client, "seen_revision", 0)


def a_key_that_is_gone_is_a_loss(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, sessions.Session, "delete_verified", "attempted |= ", "_ = ")


def a_key_that_is_gone_was_released(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, sessions.Session, "delete_verified", "attempted = False", "attempted = True")


def the_session_key_is_not_asked(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, sessions.Session, "delete_verified", "if attempted and alive:", "if attempted:")


def only_one_is_withdrawn(patch: pytest.MonkeyPatch) -> None:
    rule = "deletes = [kv.delete(key) for key in doubts]"
    mutate(patch, sessions.Session, "withdraw", rule, "deletes = [kv.delete(doubts[0])] * len(doubts)")


def out_of_space_ends_a_withdrawal(patch: pytest.MonkeyPatch) -> None:
    rule = "self._try_txn(kv.txn_request([], deletes), limit, doubts)"
    mutate(patch, sessions.Session, "withdraw", rule, f"{rule}; return")


def a_withdrawal_goes_on_alone(patch: pytest.MonkeyPatch) -> None:
    def again(self: sessions.Session, job: Callable[[float], None], pause_s: float) -> None:
        self.lost.wait(pause_s)
        job(pause_s)

    patch.setattr(sessions.Session, "_defer_again", again)


def strikes_grant_readers(patch: pytest.MonkeyPatch) -> None:
    rule = "(self._told_of_us and self.covers(ticket.snapshot_revision))"
    mutate(patch, waitlist.Line, "_settle", rule, "self.covers(ticket.snapshot_revision)")


def nobody_reads_a_new_limit(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Ticket, "resized", "self.phase = Phase.JOINING", "pass")


def a_join_does_not_mind_a_new_limit(patch: pytest.MonkeyPatch) -> None:
    mutate(patch, waitlist.Ticket, "take", "self.resized_revision > revision or ", "")


PLAYS: dict[Scenario, list[Mutation]] = {
    scenarios.late_copy_after_the_caller_gave_up: [creates_compare_no_epoch, withdrawal_without_a_bump],
    scenarios.late_copies_of_many_after_interruptions: [
        creates_compare_no_epoch,
        withdrawal_without_a_bump,
        only_one_is_withdrawn,
    ],
    scenarios.late_copy_after_an_interruption: [creates_compare_no_epoch, withdrawal_without_a_bump],
    scenarios.late_copy_after_acquire_and_release: [creates_compare_no_epoch, a_doubt_is_settled_by_a_read],
    scenarios.join_arrives_twice: [an_earlier_copy_is_not_recognized],
    scenarios.reply_lost_with_many_joined_behind: [the_newest_are_read_whoever_they_are],
    scenarios.reply_lost_and_then_a_stale_read: [a_join_reads_once],
    scenarios.session_key_gone_with_a_create_in_doubt: [who_finds_the_session_key_gone_goes_on],
    scenarios.an_epoch_ends_under_other_creates: [a_refusal_is_taken_for_the_last_word],
    scenarios.a_session_whose_watch_is_faster_than_its_key: [the_session_key_is_read_before_it_is_put],
    scenarios.own_release_told_before_its_reply: [our_own_release_is_told_as_a_loss],
    scenarios.another_watch_speaks_for_ours: [any_watch_covers],
    scenarios.own_key_deleted_before_the_reply_to_its_join: [the_reply_to_a_join_is_always_believed],
    scenarios.a_name_is_created_again_before_the_snapshot: [strikes_by_name_while_joining],
    scenarios.a_name_is_created_again_before_an_old_event: [strikes_by_name],
    scenarios.predecessor_deleted_before_the_watch_stands: [no_confirming_read],
    scenarios.own_key_deleted_before_the_watch_stands: [no_confirming_read, a_read_need_not_show_our_key],
    scenarios.own_key_deleted_before_a_local_release: [hand_over_to_whoever_waits],
    scenarios.a_rival_between_two_of_ours: [any_local_waiter_is_first, hand_over_to_whoever_waits],
    scenarios.a_local_hand_over_needs_no_event: [no_hand_over],
    scenarios.the_window_goes_before_the_head: [a_window_is_the_line],
    scenarios.the_predecessor_goes_far_back: [the_predecessors_end_is_our_turn],
    scenarios.the_predecessor_goes_before_it_is_watched: [no_confirming_read_far_back],
    scenarios.own_key_deleted_far_back: [far_back_our_own_key_is_not_watched],
    scenarios.a_predecessor_goes_while_a_far_read_is_on_its_way: [nobody_tells_whoever_reads_far_back],
    scenarios.the_guide_goes_before_its_turn: [the_guides_end_is_our_turn],
    scenarios.own_key_deleted_while_following: [who_follows_is_not_told_of_its_own_end],
    scenarios.who_follows_needs_no_read: [a_guides_end_tells_nothing],
    scenarios.a_guide_that_holds_goes_and_no_watch_stood: [
        who_follows_a_holder_needs_no_watch,
        a_holder_is_followed_to_its_end,
    ],
    scenarios.a_guide_that_holds_goes_in_compacted_history: [a_holder_is_followed_to_its_end],
    scenarios.compaction_while_near: [a_gap_is_ignored],
    scenarios.own_key_deleted_in_compacted_history: [after_a_gap_nobody_reads],
    scenarios.compaction_while_far: [a_gap_far_back_is_ignored],
    scenarios.a_read_from_the_past: [any_read_will_do],
    scenarios.release_with_its_reply_lost: [a_key_that_is_gone_is_a_loss],
    scenarios.release_lost_and_the_key_gone_with_the_session: [the_session_key_is_not_asked],
    scenarios.release_whose_key_was_deleted_by_somebody: [a_key_that_is_gone_was_released],
    scenarios.a_readers_own_key_is_deleted_untold: [strikes_grant_readers],
    scenarios.the_limit_falls_before_a_holder_leaves: [nobody_reads_a_new_limit],
    scenarios.the_limit_falls_while_a_join_is_on_its_way: [a_join_does_not_mind_a_new_limit],
    scenarios.out_of_space_while_withdrawing: [out_of_space_ends_a_withdrawal],
    scenarios.out_of_space_and_another_waiter_leaves: [a_withdrawal_goes_on_alone],
}


@pytest.mark.parametrize("scenario", PLAYS, ids=lambda scenario: scenario.__name__)
def test_it_is_survived(scenario: Scenario, stage: Stage) -> None:
    """
    The interleaving ends as it must.
    """
    scenario(stage)


@pytest.mark.parametrize(
    ("scenario", "mutation"),
    [(scenario, mutation) for scenario, mutations in PLAYS.items() for mutation in mutations],
    ids=lambda function: function.__name__,
)
def test_the_rule_is_needed(
    scenario: Scenario, mutation: Mutation, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Without the rule the same interleaving ends in a violation.
    """
    mutation(monkeypatch)

    with pytest.raises(Violation) as caught:
        scenario(stage)
    print(f"{mutation.__name__}: {caught.value}")
