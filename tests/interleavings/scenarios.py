"""The interleavings that a fair lock on leases and watches must survive, each a play on a `Stage`.

`member` is the coordinator under test; a stranger is a key of another program, and `first` is the holder's.
A scenario raises Violation, in words, when its rule is broken.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from contract.players import expire, wait_until
from interleavings import meddler as meddling
from interleavings.stage import NAME, Stage, Violation

from coordkit import errors, linewatch, waitlist

FAR = waitlist.WINDOW + 2  # so many before a waiter are too many for it to know all


class Interrupt(BaseException):
    """Ctrl-C, a killed greenlet: whatever may strike while a caller waits."""


# Requests that arrive late, twice or never.


def late_copy_after_the_caller_gave_up(stage: Stage) -> None:
    """A join is held up; its caller's time runs out; the background withdraws; the join arrives."""
    member = stage.enter()
    stage.stranger("first")
    plan = stage.meddler.hold_back(meddling.both(meddling.of(member), puts(stage)), patient=True)
    attempt = stage.attempt(stage.lock(member), timeout=0.2)
    assert attempt.end().result is False
    wait_until(lambda: withdrawn(stage, member), what="the withdrawal")

    plan.deliver()

    if len(stage.keys()) != 1:
        raise Violation("a key stands in line for which nobody waits")


def late_copy_after_an_interruption(stage: Stage) -> None:
    """The same, when the caller was interrupted."""
    member = stage.enter()
    stage.stranger("first")
    match = meddling.both(meddling.of(member), puts(stage))
    plan = stage.meddler.hold_back(match, error=Interrupt())
    try:
        stage.lock(member).acquire()
        raise AssertionError("it was not interrupted")
    except Interrupt:
        wait_until(lambda: withdrawn(stage, member), what="the withdrawal")

    plan.deliver()

    if len(stage.keys()) != 1:
        raise Violation("a key stands in line for which nobody waits")


def late_copies_of_many_after_interruptions(stage: Stage) -> None:
    """Of three joins two are applied unheard, and one comes late: one transaction withdraws them all."""
    member = stage.enter()
    stage.stranger("first")
    gate = threading.Event()
    member.session.defer(lambda: bool(gate.wait()))  # the background is busy until all are in doubt
    match = meddling.both(meddling.of(member), puts(stage))
    plans = []
    for _ in range(3):
        plans.append(stage.meddler.hold_back(match, error=Interrupt()))
        assert isinstance(stage.attempt(stage.lock(member)).end().error, Interrupt)
    *unheard, late = plans
    for plan in unheard:
        plan.deliver()
    bumping = meddling.both(meddling.of(member), bumps(member))
    before = stage.meddler.count_ended(bumping)
    gate.set()
    stage.must(lambda: len(stage.keys()) == 1, "a key stands in line for which nobody waits")
    wait_until(lambda: not member.session._chores._running, what="the background")

    late.deliver()

    if len(stage.keys()) != 1:
        raise Violation("a key stands in line for which nobody waits")
    if stage.meddler.count_ended(bumping) - before > 1:
        raise Violation("the epoch was ended more than once")


def late_copy_after_acquire_and_release(stage: Stage) -> None:
    """A join is held up, sent again, granted and released; then the first copy arrives."""
    member = stage.enter()
    lock = stage.lock(member)
    plan = stage.meddler.hold_back(meddling.both(meddling.of(member), puts(stage)))
    stage.must_be_held(stage.attempt(lock), "the line was empty")
    lock.release()

    plan.deliver()

    if stage.keys():
        raise Violation("a key stands in line for which nobody waits")


def join_arrives_twice(stage: Stage) -> None:
    """Both copies of a join arrive, and the reply to the second is a refusal that shows our own key."""
    member = stage.enter()
    first = stage.stranger("first")
    stage.meddler.send_twice(meddling.both(meddling.of(member), puts(stage)))
    attempt = stage.join(stage.lock(member))

    settle(stage, attempt)
    stage.must_wait(attempt, "an older key is there")
    if len(stage.keys()) != 2:
        raise Violation(f"{len(stage.keys()) - 1} keys for one acquire")

    stage.delete(first)
    stage.must_be_held(attempt)
    attempt.lock.release()


def reply_lost_with_many_joined_behind(stage: Stage) -> None:
    """The reply to a join is lost, and 17 more join behind it: those before it must be found."""
    member = stage.enter()
    first = stage.stranger("first")
    plan = stage.meddler.drop_reply_at_gate(meddling.both(meddling.of(member), puts(stage)))
    attempt = stage.join(stage.lock(member))
    mine = stage.keys()[1]
    for number in range(waitlist.WINDOW + 1):
        stage.stranger(f"behind-{number:02}")
    plan.gate.set()

    settle(stage, attempt)
    stage.must_wait(attempt, "an older key is there")
    stage.delete(first)
    stage.must_be_held(attempt, "all before it are gone")

    if attempt.lock.key != mine:
        raise Violation("it lost its place to those who joined behind it")
    attempt.lock.release()


def reply_lost_and_then_a_stale_read(stage: Stage) -> None:
    """The reply to a join is lost, and the read behind it is answered from the past: it reads again."""
    member = stage.enter()
    first = stage.stranger("first")
    stage.meddler.drop_reply(meddling.both(meddling.of(member), puts(stage)))
    stage.meddler.rewrite_reply(meddling.both(meddling.of(member), reads(stage)), lag)
    attempt = stage.join(stage.lock(member))

    stage.must(lambda: count_reads(stage, member) >= 2, "it did not read again")
    stage.must_wait(attempt, "an older key is there")
    stage.delete(first)
    stage.must_be_held(attempt)
    attempt.lock.release()


def session_key_gone_with_a_create_in_doubt(stage: Stage) -> None:
    """A join is held up, and the session key, though not the lease, goes before the doubt is settled."""
    member = stage.enter()
    session = member.session
    stage.meddler.withhold_events(session.link.watcher)
    match = meddling.both(meddling.of(member), puts(stage))
    plan = stage.meddler.hold_back(match)
    bump = stage.meddler.stop_request(meddling.both(meddling.of(member), bumps(member)))
    attempt = stage.attempt(stage.lock(member))
    bump.wait_until_met()
    stage.delete(session.key)
    bump.gate.set()

    stage.must(lambda: not attempt.waiting, "the acquire did not end with its session")
    if not isinstance(attempt.error, errors.SessionLost):
        raise Violation(f"the acquire ended with {attempt.result} {attempt.error!r}, not with SessionLost")
    try:
        plan.deliver()
    except Exception as error:
        assert "lease not found" in str(error)  # the loss revoked it
    if stage.keys():
        raise Violation("a key stands in line for which nobody waits")


def an_epoch_ends_under_other_creates(stage: Stage) -> None:
    """While one join of a session ends the epoch, a try that compares it is on its way: it must try again."""
    member = stage.enter()
    stage.stranger("first")
    other = member.lock("other")
    others = stage.prefix.replace(b"/stage/", b"/other/")
    late = stage.meddler.stop_request(meddling.both(meddling.of(member), lambda call: call.puts(others)))
    trying = stage.attempt(other, blocking=False)
    late.wait_until_met()
    stage.meddler.lose(meddling.both(meddling.of(member), puts(stage)))
    waiting = stage.join(stage.lock(member))  # by now the epoch has ended
    late.gate.set()

    stage.must_be_held(trying, "its line is empty")
    other.release()
    waiting.lock.cancel()
    waiting.end()


def a_session_whose_watch_is_faster_than_its_key(stage: Stage) -> None:
    """The watch on a new session key stands, and only then the key is put: that is not its end."""
    member = stage.enter()
    watcher = member.session.link.watcher
    before = stage.meddler.begun[watcher]
    match = meddling.both(meddling.of(member), lambda call: call.puts(b"/") and not call.puts(stage.prefix))
    put, puts_before = stage.meddler.stop_request(match), stage.meddler.count(match)
    opening = _Aside(member.new_session)
    put.wait_until_met()
    wait_until(lambda: stage.meddler.begun[watcher] > before, what="the watch")
    opening.over.wait(0.1)
    put.gate.set()

    session = opening.end()
    stage.keys()
    if isinstance(session, BaseException) or not session.alive:
        raise Violation(f"it was lost when it was opened: {session!r}")
    if stage.meddler.count(match) - puts_before > 1:
        raise Violation("it was lost when it was opened, and another one was opened in its place")


# What a watch tells, and what it does not.


def own_release_told_before_its_reply(stage: Stage) -> None:
    """The watch tells of our own release before the reply does: that is no loss."""
    member = stage.enter()
    stage.watch_early(member)
    lock = stage.lock(member)
    assert lock.acquire()
    lost, key = lock.lost, lock.key
    told = threading.Event()
    stage.meddler.on_events(member.session.link.watcher, lambda keys: key in keys and told.set())
    plan = stage.meddler.stop_reply(meddling.both(meddling.of(member), deletes(stage)))
    releasing = _Aside(lock.release)
    plan.wait_until_met()
    assert told.wait(15)
    plan.gate.set()

    error = releasing.end()
    if error is not None:
        raise Violation(f"the release ended with {error!r}")
    if lost.is_set() or lock.lost.is_set():
        raise Violation("a good release was told as a loss")


def another_watch_speaks_for_ours(stage: Stage) -> None:
    """A watch that was dropped says once more that it stands; our own key goes before the new one does."""
    member = stage.enter()
    first = stage.stranger("first")
    stage.meddler.hold_watches(stage.prefix)
    attempt = stage.join(stage.lock(member))
    wait_until(lambda: stage.meddler.held_watches, what="asking for a watch")
    line = stage.line(member)
    linewatch.Feed(line).on_created(1)
    rival = stage.stranger("rival")
    stage.delete(stage.keys()[1])
    stage.meddler.let_watches_go()
    settle(stage, attempt)

    stage.delete(first)

    settle(stage, attempt)
    stage.must_wait(attempt, "the rival holds it, and our key was gone")
    stage.delete(rival)
    stage.must_be_held(attempt)
    attempt.lock.release()


def own_key_deleted_before_the_reply_to_its_join(stage: Stage) -> None:
    """Our key is deleted, and the watch tells it, before we see the reply that says that it is there."""
    member = stage.enter()
    stage.watch_early(member)
    first = stage.stranger("first")
    plan = stage.meddler.stop_reply(meddling.both(meddling.of(member), puts(stage)))
    attempt = stage.join(stage.lock(member))
    plan.wait_until_met()
    mine = stage.keys()[1]
    rival = stage.stranger("rival")
    stage.delete(mine)
    wait_until(lambda: told_gone(stage, member, mine), what="the news of the deletion")
    plan.gate.set()
    settle(stage, attempt)

    stage.delete(first)

    settle(stage, attempt)
    stage.must_wait(attempt, "the rival holds it, and our key was gone")
    stage.delete(rival)
    stage.must_be_held(attempt)
    attempt.lock.release()


def a_name_is_created_again_before_the_snapshot(stage: Stage) -> None:
    """Go reuses key names: the deletion of an older key of that name is told while our join is on the way."""
    _an_old_deletion(stage, told_while_joining=True)


def a_name_is_created_again_before_an_old_event(stage: Stage) -> None:
    """The same, told when we wait already."""
    _an_old_deletion(stage, told_while_joining=False)


def _an_old_deletion(stage: Stage, told_while_joining: bool) -> None:
    member = stage.enter()
    stage.watch_early(member)
    stage.meddler.withhold_events(member.session.link.watcher)
    stage.delete(stage.stranger("5ead"))
    first = stage.stranger("5ead")  # the same name, another key
    plan = stage.meddler.stop_reply(meddling.both(meddling.of(member), puts(stage)))
    attempt = stage.join(stage.lock(member))
    plan.wait_until_met()

    if told_while_joining:
        stage.meddler.tell_events(member.session.link.watcher)
        plan.gate.set()
    else:
        plan.gate.set()
        wait_until(lambda: waits(stage, member))
        stage.meddler.tell_events(member.session.link.watcher)

    settle(stage, attempt)
    stage.must_wait(attempt, "the key that has the name now is older than ours")
    stage.delete(first)
    stage.must_be_held(attempt)
    attempt.lock.release()


def predecessor_deleted_before_the_watch_stands(stage: Stage) -> None:
    """Whoever is before us goes after our snapshot and before our watch begins: a read must find that."""
    member = stage.enter()
    first = stage.stranger("first")
    stage.meddler.hold_watches(stage.prefix)
    attempt = stage.join(stage.lock(member))
    wait_until(lambda: stage.meddler.held_watches, what="asking for a watch")
    stage.delete(first)

    stage.meddler.let_watches_go()

    stage.must_be_held(attempt, "nobody is before it")
    attempt.lock.release()


def own_key_deleted_before_the_watch_stands(stage: Stage) -> None:
    """Our own key goes after our snapshot and before our watch begins; then those before us go."""
    member = stage.enter()
    first = stage.stranger("first")
    stage.meddler.hold_watches(stage.prefix)
    attempt = stage.join(stage.lock(member))
    wait_until(lambda: stage.meddler.held_watches, what="asking for a watch")
    rival = stage.stranger("rival")
    stage.delete(stage.keys()[1])
    stage.meddler.let_watches_go()
    wait_until(lambda: stage.line(member)._covered_from, what="the watch")

    stage.delete(first)

    settle(stage, attempt)
    stage.must_wait(attempt, "the rival holds it, and our key was gone")
    stage.delete(rival)
    stage.must_be_held(attempt)
    attempt.lock.release()


def own_key_deleted_before_a_local_release(stage: Stage) -> None:
    """The next local waiter's key is gone, untold, when the local holder releases: others stand first now."""
    member = stage.enter()
    holder, waiter = stage.lock(member), stage.lock(member)
    assert holder.acquire()
    attempt = stage.join(waiter)
    wait_until(lambda: stage.line(member)._covered_from, what="the watch")
    rival = stage.stranger("rival")
    stage.meddler.withhold_events(member.session.link.watcher)
    stage.delete(stage.keys()[1])

    holder.release()

    settle(stage, attempt)
    stage.must_wait(attempt, "the rival holds it, and our key was gone")
    stage.meddler.tell_events(member.session.link.watcher)
    stage.must(lambda: len(stage.keys()) == 2, "it did not join again")
    stage.delete(rival)
    stage.must_be_held(attempt)
    waiter.release()


def a_rival_between_two_of_ours(stage: Stage) -> None:
    """The next local waiter is not the next in line."""
    member = stage.enter()
    holder, waiter = stage.lock(member), stage.lock(member)
    assert holder.acquire()
    rival = stage.stranger("rival")
    attempt = stage.join(waiter)
    wait_until(lambda: stage.line(member)._covered_from, what="the watch")

    holder.release()

    settle(stage, attempt)
    stage.must_wait(attempt, "the rival holds it")
    stage.delete(rival)
    stage.must_be_held(attempt)
    waiter.release()


def a_local_hand_over_needs_no_event(stage: Stage) -> None:
    """The release's own answer names the local waiter: it is granted while no event gets through."""
    member = stage.enter()
    holder, waiter = stage.lock(member), stage.lock(member)
    assert holder.acquire()
    attempt = stage.join(waiter)
    wait_until(lambda: stage.line(member)._covered_from, what="the watch")
    stage.meddler.withhold_events(member.session.link.watcher)

    holder.release()

    stage.must_be_held(attempt)
    stage.meddler.tell_events(member.session.link.watcher)
    waiter.release()


# Far back in the line.


def the_window_goes_before_the_head(stage: Stage) -> None:
    """Far back: all whom our first read showed go, but those whom it did not show are still there."""
    member = stage.enter()
    before = [stage.stranger(f"before-{number:02}") for number in range(FAR)]
    attempt = stage.join(stage.lock(member))
    settle(stage, attempt)

    for key in before[2:]:
        stage.delete(key)

    settle(stage, attempt)
    stage.must_wait(attempt, "two older keys are there")
    stage.delete(*before[:2])
    stage.must_be_held(attempt)
    attempt.lock.release()


def the_predecessor_goes_far_back(stage: Stage) -> None:
    """Far back: our predecessor goes; that is not yet our turn."""
    member = stage.enter()
    before = [stage.stranger(f"before-{number:02}") for number in range(FAR)]
    attempt = stage.join(stage.lock(member))
    wait_until(lambda: far_watches(member) == 2, what="watches on the predecessor and on our own key")

    stage.delete(before[-1])

    settle(stage, attempt)
    stage.must_wait(attempt, "older keys are there")
    stage.delete(*before[:-1])
    stage.must_be_held(attempt)
    attempt.lock.release()


def the_predecessor_goes_before_it_is_watched(stage: Stage) -> None:
    """Far back: our predecessor, and all others, go after our snapshot and before the watch on it begins."""
    member = stage.enter()
    before = [stage.stranger(f"before-{number:02}") for number in range(FAR)]
    stage.meddler.hold_watches(stage.prefix)
    attempt = stage.join(stage.lock(member))
    wait_until(lambda: stage.meddler.held_watches, what="asking for a watch")
    stage.delete(*before)

    stage.meddler.let_watches_go()

    stage.must_be_held(attempt, "nobody is before it")
    attempt.lock.release()


def own_key_deleted_far_back(stage: Stage) -> None:
    """Far back: our own key goes; we must join again before the line moves past us."""
    member = stage.enter()
    before = [stage.stranger(f"before-{number:02}") for number in range(FAR)]
    attempt = stage.join(stage.lock(member))
    wait_until(lambda: far_watches(member) == 2, what="watches on the predecessor and on our own key")
    mine = stage.keys()[-1]

    stage.delete(mine)

    stage.must(lambda: len(stage.keys()) == FAR + 1, "it did not join again")
    stage.delete(*before)
    stage.must_be_held(attempt)
    attempt.lock.release()


def a_predecessor_goes_while_a_far_read_is_on_its_way(stage: Stage) -> None:
    """Far back: a read shows us near; one whom it shows goes, and that is told before the read's reply comes.

    The process's watch on the line stands all the while, for another of its waiters.
    """
    member = stage.enter()
    stage.watch_early(member)
    other = stage.join(stage.lock(member))
    stage.must_be_held(other)
    before = [stage.stranger(f"before-{number:02}") for number in range(FAR)]
    stage.meddler.hold_watches(before[-1])  # the watch on the predecessor
    attempt = stage.join(stage.lock(member))
    wait_until(lambda: stage.meddler.held_watches, what="asking for a watch")
    stage.delete(*before[:4])
    plan = stage.meddler.stop_reply(meddling.both(meddling.of(member), reads(stage)))
    told = threading.Event()
    stage.meddler.on_events(member.session.link.watcher, lambda keys: before[5] in keys and told.set())
    stage.meddler.let_watches_go()
    plan.wait_until_met()
    stage.delete(before[5])
    wait_until(told.is_set, what="the event")
    plan.gate.set()
    settle(stage, attempt)
    stage.meddler.stop_request(meddling.both(meddling.of(member), reads(stage)), times=math.inf)

    other.lock.release()
    stage.delete(before[4], *before[6:])

    stage.must_be_held(attempt, "nobody is before it, and it was told of all of them")
    attempt.lock.release()


# Far back, behind another one of the same process.


def the_guide_goes_before_its_turn(stage: Stage) -> None:
    """Far back: the one before us is of our own process, and its key goes; that is not yet our turn."""
    _, before, guide, attempt = guided_far_back(stage)

    stage.delete(stage.keys()[-2])

    settle(stage, attempt)
    stage.must_wait(attempt, "older keys are there")
    stage.delete(*before)
    stage.must_be_held(attempt)
    attempt.lock.release()
    stage.must_be_held(guide)
    guide.lock.release()


def own_key_deleted_while_following(stage: Stage) -> None:
    """Far back, behind one of our own process: our own key goes, and later it is the other one's turn."""
    member, before, guide, attempt = guided_far_back(stage)
    withheld = stage.meddler.stop_request(meddling.both(meddling.of(member), puts(stage)), times=math.inf)
    stage.delete(stage.keys()[-1])
    rival = stage.stranger("rival")
    stage.delete(*before)
    stage.must_be_held(guide)
    held, told = guide.lock.key, threading.Event()
    stage.meddler.on_events(member.session.link.watcher, lambda keys: held in keys and told.set())
    reply = stage.meddler.stop_reply(meddling.both(meddling.of(member), deletes(stage)))

    releasing = _Aside(guide.lock.release)
    reply.wait_until_met()
    assert told.wait(15)  # the event comes before the release's own reply

    settle(stage, attempt)
    stage.must_wait(attempt, "the rival holds it, and our key was gone")
    reply.gate.set()
    assert releasing.end() is None
    withheld.gate.set()
    stage.delete(rival)
    stage.must_be_held(attempt)
    attempt.lock.release()


def who_follows_needs_no_read(stage: Stage) -> None:
    """Far back, behind one of our own process: its release is enough, while no read gets through."""
    member, before, guide, attempt = guided_far_back(stage)
    stage.delete(*before)
    stage.must_be_held(guide)
    stage.meddler.stop_request(meddling.both(meddling.of(member), reads(stage)), times=math.inf)

    guide.lock.release()

    stage.must_be_held(attempt)
    attempt.lock.release()


def a_guide_that_holds_goes_and_no_watch_stood(stage: Stage) -> None:
    """Its key is deleted by hand, and its holder, who waits for nothing, may not hear of that for long."""
    _, before, guide, attempt = guided_far_back(stage, watched=False)
    stage.delete(*before)
    stage.must_be_held(guide)

    stage.delete(guide.lock.key)

    stage.must_be_held(attempt, "nobody is before it")
    attempt.lock.release()


def a_guide_that_holds_goes_in_compacted_history(stage: Stage) -> None:
    """The same, and the watch that stood has missed it."""
    member, before, guide, attempt = guided_far_back(stage)
    stage.delete(*before)
    stage.must_be_held(guide)
    cut_stream(stage, member)
    stage.delete(guide.lock.key)
    stage.compact()

    stage.meddler.let_watches_go()

    stage.must_be_held(attempt, "nobody is before it")
    attempt.lock.release()


# History is compacted.


def compaction_while_near(stage: Stage) -> None:
    """The stream breaks; while it is down those before us go, and history with them."""
    member = stage.enter()
    first = stage.stranger("first")
    second = stage.stranger("second")
    attempt = stage.join(stage.lock(member))
    wait_until(lambda: stage.line(member)._covered_from, what="the watch")
    cut_stream(stage, member)
    stage.delete(second, first)
    stage.compact()

    stage.meddler.let_watches_go()

    stage.must_be_held(attempt, "nobody is before it")
    attempt.lock.release()


def own_key_deleted_in_compacted_history(stage: Stage) -> None:
    """The same, and it is our own key that goes unseen; those before us go later, and that is told."""
    member = stage.enter()
    first = stage.stranger("first")
    attempt = stage.join(stage.lock(member))
    wait_until(lambda: stage.line(member)._covered_from, what="the watch")
    cut_stream(stage, member)
    rival = stage.stranger("rival")
    stage.delete(stage.keys()[1])
    stage.compact()
    stage.meddler.let_watches_go()
    settle(stage, attempt)

    stage.delete(first)

    settle(stage, attempt)
    stage.must_wait(attempt, "the rival holds it, and our key was gone")
    stage.delete(rival)
    stage.must_be_held(attempt)
    attempt.lock.release()


def compaction_while_far(stage: Stage) -> None:
    """Far back: the stream breaks; while it is down all before us go, and history with them."""
    member = stage.enter()
    before = [stage.stranger(f"before-{number:02}") for number in range(FAR)]
    attempt = stage.join(stage.lock(member))
    wait_until(lambda: far_watches(member) == 2, what="watches on the predecessor and on our own key")
    cut_stream(stage, member)
    stage.delete(*before)
    stage.compact()

    stage.meddler.let_watches_go()

    stage.must_be_held(attempt, "nobody is before it")
    attempt.lock.release()


# Reads from the past.


def a_read_from_the_past(stage: Stage) -> None:
    """A confirming read is answered from before the holder's key: by a member that was restored, say."""
    member = stage.enter()
    first = stage.stranger("first")
    stage.meddler.hold_watches(stage.prefix)
    attempt = stage.join(stage.lock(member))
    wait_until(lambda: stage.meddler.held_watches, what="asking for a watch")
    mine = stage.keys()[1]
    created = stage.witness.kv.get(mine).create_revision
    stage.witness.kv.put("/newer", b"")

    def forget_the_holder(reply) -> None:
        reply.header.revision = created
        del reply.kvs[1:]

    plan = stage.meddler.rewrite_reply(meddling.both(meddling.of(member), reads(stage)), forget_the_holder)
    stage.meddler.let_watches_go()
    plan.wait_until_met()

    settle(stage, attempt)
    stage.must_wait(attempt, "an older key is there")
    stage.delete(first)
    stage.must_be_held(attempt)
    attempt.lock.release()


# Releases whose answer is lost.


def release_with_its_reply_lost(stage: Stage) -> None:
    """The release is applied, its reply is lost, and the retry finds the key gone: released."""
    member = stage.enter()
    lock = stage.lock(member)
    assert lock.acquire()
    stage.meddler.drop_reply(meddling.both(meddling.of(member), deletes(stage)))

    try:
        lock.release()
    except errors.LockLost as error:
        raise Violation(f"a good release was reported as a loss: {error}") from error
    if stage.keys():
        raise Violation("it was reported released, and is not")
    if lock.released_revision is not None:
        raise Violation("it tells a revision of the release that nobody told it")


def release_lost_and_the_key_gone_with_the_session(stage: Stage) -> None:
    """The release never arrives, and the retry finds the key gone, but so is the session key: lost."""
    member = stage.enter()
    lock = stage.lock(member)
    assert lock.acquire()
    stage.meddler.withhold_events(member.session.link.watcher)
    match = meddling.both(meddling.of(member), deletes(stage))
    stage.meddler.lose(match)
    retry = stage.meddler.stop_request(match)
    attempt = _Aside(lock.release)
    retry.wait_until_met()
    expire(member.session, stage.witness)
    retry.gate.set()

    error = attempt.end()
    if not isinstance(error, errors.LockLost):
        raise Violation(f"the key was lost with its lease, and the release ended with {error!r}")


def release_whose_key_was_deleted_by_somebody(stage: Stage) -> None:
    """The key is gone, and no earlier attempt of ours can have deleted it: lost."""
    member = stage.enter()
    lock = stage.lock(member)
    assert lock.acquire()
    stage.delete(lock.key)
    try:
        lock.release()
    except errors.LockLost:
        return
    raise Violation("somebody deleted the key, and the release did not say so")


# Out of space.


def out_of_space_while_withdrawing(stage: Stage) -> None:
    """No put passes, so the epoch cannot end; the join arrives when there is space again."""
    member = stage.enter()
    stage.stranger("first")
    match = meddling.both(meddling.of(member), puts(stage))
    plan = stage.meddler.hold_back(match, error=Interrupt(), gated=True)
    attempt = stage.attempt(stage.lock(member))
    plan.wait_until_met()
    stage.alarm(on=True)
    plan.gate.set()
    assert isinstance(attempt.end().error, Interrupt)
    bumping = meddling.both(meddling.of(member), bumps(member))
    wait_until(lambda: stage.meddler.count_ended(bumping), what="the withdrawal")
    wait_until(lambda: not member.session._chores._running, what="its first attempt")
    next_bumps = stage.meddler.stop_request(bumping, times=math.inf)
    stage.alarm(on=False)
    plan.deliver()
    next_bumps.gate.set()

    stage.must(lambda: len(stage.keys()) == 1, "a key stands in line for which nobody waits")


def out_of_space_and_another_waiter_leaves(stage: Stage) -> None:
    """A withdrawal that cannot end does not keep another waiter, whose time is up, in the line."""
    member = stage.enter()
    first = stage.stranger("first")
    leaving = stage.lock(member)
    waiting = stage.join(leaving)
    match = meddling.both(meddling.of(member), puts(stage))
    plan = stage.meddler.hold_back(match, error=Interrupt(), gated=True)
    attempt = stage.attempt(stage.lock(member))
    plan.wait_until_met()
    stage.alarm(on=True)
    plan.gate.set()
    assert isinstance(attempt.end().error, Interrupt)
    bumping = meddling.both(meddling.of(member), bumps(member))
    wait_until(lambda: stage.meddler.count_ended(bumping), what="the withdrawal")

    leaving.cancel()
    waiting.end()

    try:
        stage.must(lambda: stage.keys() == [first], "who left is still in line")
    finally:
        stage.alarm(on=False)


# What is looked at.


# Lines in which several may hold at once.


def a_readers_own_key_is_deleted_untold(stage: Stage) -> None:
    """A reader's watch does not tell of its own key: it goes, a rival comes, and the writer before leaves."""
    stage.prefix = stage.prefix.replace(b"/lock/", b"/rwlock/")
    member = stage.enter()
    first = stage.stranger("write/first")
    attempt = stage.attempt(member.rwlock(NAME).read)
    wait_until(lambda: len(stage.found()) == 2 and attempt.lock._latest_line._covered_from, what="the watch")
    rival = stage.stranger("write/rival")
    stage.delete(next(key for key in stage.found() if b"/read/" in key))

    stage.delete(first)

    settle(stage, attempt)
    stage.must_wait(attempt, "the rival holds it, and our key was gone")
    stage.delete(rival)
    stage.must_be_held(attempt)
    attempt.lock.release()


def the_limit_falls_before_a_holder_leaves(stage: Stage) -> None:
    """Told in this order: one place is free no more."""
    _a_limit_that_falls(stage, while_joining=False)


def the_limit_falls_while_a_join_is_on_its_way(stage: Stage) -> None:
    """The reply to a join comes after the news that its limit is no more, and a holder leaves."""
    _a_limit_that_falls(stage, while_joining=True)


def _a_limit_that_falls(stage: Stage, while_joining: bool) -> None:
    stage.prefix = stage.prefix.replace(b"/lock/", b"/semaphore/")
    member = stage.enter()
    stage.witness.semaphore(NAME).resize(2)
    first, second = stage.stranger("holders/1"), stage.stranger("holders/2")
    early = stage.attempt(member.semaphore(NAME))  # so that the watch stands
    wait_until(lambda: early.lock._latest_line and early.lock._latest_line._covered_from, what="the watch")
    line = early.lock._latest_line
    early.lock.cancel()
    early.end()
    wait_until(lambda: len(stage.found()) == 3, what="the withdrawal")
    plan = stage.meddler.stop_reply(meddling.both(meddling.of(member), puts(stage)))
    attempt = stage.attempt(member.semaphore(NAME))
    plan.wait_until_met()
    if not while_joining:
        plan.gate.set()
        wait_until(lambda: attempt.lock._waits, what="the reply")

    stage.witness.semaphore(NAME).resize(1)
    wait_until(lambda: any(each.resized_revision for each in line._tickets.values()), stage.settle_s * 10)
    stage.delete(first)
    stage.keys()
    plan.gate.set()

    settle(stage, attempt)
    stage.must_wait(attempt, "one is before it, and there is one place")
    stage.delete(second)
    stage.must_be_held(attempt)
    attempt.lock.release()


def puts(stage: Stage) -> meddling.Match:
    return lambda call: call.puts(stage.prefix)


def deletes(stage: Stage) -> meddling.Match:
    return lambda call: call.deletes(stage.prefix)


def reads(stage: Stage) -> meddling.Match:
    return lambda call: call.reads(stage.prefix)


def bumps(member) -> meddling.Match:
    """Transactions that end the session's epoch."""
    session = member.session
    return lambda call: call.puts(session.key)


def lag(reply) -> None:
    """An answer as old as can be."""
    reply.header.revision = 1
    del reply.kvs[:]


def count_reads(stage: Stage, member) -> int:
    return stage.meddler.count(meddling.both(meddling.of(member), reads(stage)))


def withdrawn(stage: Stage, member) -> bool:
    """Whether the create, and what the background made of the doubt about it, are over."""
    mine = meddling.both(
        meddling.of(member), lambda call: call.deletes(stage.prefix) or call.puts(stage.prefix)
    )
    return stage.meddler.count_ended(mine) >= 2


def tickets(stage: Stage, member) -> list[waitlist.Ticket]:
    return list(stage.line(member)._tickets.values())


def waits(stage: Stage, member) -> bool:
    """Whether a ticket of this member has seen the answer to its join."""
    return any(ticket.phase is waitlist.Phase.WAITING for ticket in tickets(stage, member))


def told_gone(stage: Stage, member, key: bytes) -> bool:
    """Before its reply a join does not know which use of the name a deletion ended: it is remembered."""
    return any(
        ticket.key == key and (ticket.phase is waitlist.Phase.GONE or key in (ticket.struck or {}))
        for ticket in tickets(stage, member)
    )


def far_watches(member) -> int:
    """How many watches on single keys of the line stand."""
    watcher = member.session.link.watcher
    return sum(
        b"/lock/" in watch.request.key and not watch.request.range_end
        for watch in list(watcher._live.values())
    )


def guided_far_back(stage: Stage, watched: bool = True) -> tuple[Any, list[bytes], Any, Any]:
    """A member whose watch stands; strangers' keys; behind them two of its waiters: guide and follower."""
    member = stage.enter()
    before = [stage.stranger(f"before-{number:02}") for number in range(FAR)]
    guide = stage.join(stage.lock(member))
    if watched:
        wait_until(lambda: far_watches(member) == 2, what="watching far back")
        stage.line(member).listen()  # as a cohort does; a waiter that is alone here, and far back, ends it
        wait_until(lambda: stage.line(member)._covered_from, what="the watch")
    attempt = stage.join(stage.lock(member))
    wait_until(lambda: follows(stage, member), what="following")
    return member, before, guide, attempt


def follows(stage: Stage, member) -> bool:
    """Whether a waiter of the member waits for the end of another one."""
    return any(ticket.followers for ticket in list(stage.line(member)._tickets.values()))


def settle(stage: Stage, attempt) -> None:
    """Give a wrong grant the time to happen; a right one is never waited for like this."""
    stage.keys()
    attempt.over.wait(stage.settle_s)


def cut_stream(stage: Stage, member) -> None:
    """Break the connection; watches on the line stay on the way until they are let go."""
    stage.meddler.hold_watches(stage.prefix)
    member.client.drop_channel("cut")
    wait_until(lambda: stage.meddler.held_watches, what="asking for the watch again")


class _Aside:
    """A call on a thread of its own: its result, or its error."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._result: Any = None
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except errors.CoordError as error:
            self._result = error
        self.over.set()

    def end(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self._result
