"""A namespace read as primitives and sessions, and what became of them: as pure logic, and from real etcd."""

from __future__ import annotations

import datetime
import json
import threading

import pytest
from contract.players import Attempt, expire, queue_up, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

import coordkit
from coordkit import keys
from coordkit.deadline import Deadline
from coordkit.etcd import watch
from coordkit.etcd.changes import Event
from coordkit.etcd.results import KeyValue
from coordkit.inspection import archive, census, chronicle, follower, kinds, narrator, reading, tenures, words
from coordkit.inspection.chronicle import What
from coordkit.recipes.slots import Slot, SlotState
from coordkit.testing import compact

ROOT = b"/shop/"
SEGMENTS = [b"lock", b"rwlock", b"semaphore", b"session", b"limit", b"read", b"%ff"]
SEGMENTS += [b"once", b"barrier", b"generation", b"1", b"queue", b"claims"]
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.timezone.utc)


def stored(path: str, revision: int, value: bytes = b"", lease: int = 0, mod: int = 0) -> KeyValue:
    return KeyValue(ROOT + path.encode(), value, revision, mod or revision, 1, lease)


def place(path: str, revision: int, who: str = "", lease: int = 1, since: str = "") -> KeyValue:
    return stored(path, revision, json.dumps({"identity": who, "since": since}).encode(), lease)


def session(lease: int, revision: int, who: str) -> KeyValue:
    value = json.dumps({"identity": who, "host": "h", "pid": 7, "start": NOON.isoformat()}).encode()
    return stored(f"session/{lease:016x}", revision, value, lease)


def put(path: str, revision: int, who: str = "", since: str = "", created: int = 0, lease: int = 1) -> Event:
    value = json.dumps({"identity": who, "since": since}).encode()
    return Event(ROOT + path.encode(), value, False, created or revision, revision, lease)


def deleted(path: str, revision: int) -> Event:
    return Event(ROOT + path.encode(), b"", True, 0, revision, 0)


def taken(*found: KeyValue, revision: int = 100) -> census.Census:
    return census.take("shop", found, revision)


def only(found: census.Census) -> census.Primitive:
    (primitive,) = found.primitives
    return primitive


def names(places) -> list[str]:
    return [each.identity for each in places]


class TestKinds:
    def test_the_oldest_key_holds_an_exclusive_line(self):
        """
        By create revision, whatever the keys are called; keys of other programs count.
        """
        lock = only(taken(place("lock/x/2", 9, "b"), place("lock/x/9-1", 5, "a"), stored("lock/x/go", 12)))

        assert names(lock.standing.holders) == ["a"]
        assert names(lock.standing.waiters) == ["b", ""]

    @pytest.mark.parametrize(
        ("line", "holding"),
        [("rrwr", 2), ("wrr", 1), ("rr", 2), ("w", 1), ("wwr", 1), ("", 0)],
    )
    def test_readers_hold_up_to_the_first_writer(self, line, holding):
        """
        And a writer holds only as the oldest.
        """
        role = {"r": "read", "w": "write"}
        found = [place(f"rwlock/x/{role[each]}/{n}", n, str(n)) for n, each in enumerate(line, 5)]

        standing = kinds.read_shared([kinds.Entry(census.parse(ROOT, each.key).rest, each) for each in found])

        assert names(standing.holders) == [str(n) for n in range(5, 5 + holding)]
        assert len(standing.waiters) == len(line) - holding

    def test_a_semaphore_is_held_up_to_its_limit(self):
        """
        Without a limit nobody can say who holds it.
        """
        places = [place(f"semaphore/x/holders/{n}", n, str(n)) for n in (7, 5, 6)]

        known = only(taken(*places, stored("semaphore/x/limit/0000000002", 4)))
        unknown = only(taken(*places, stored("semaphore/x/limit/many", 4)))

        assert names(known.standing.holders) == ["5", "6"]
        assert names(known.standing.waiters) == ["7"]
        assert (known.standing.note, known.key_count) == ("limit 2", 4)
        assert names(unknown.standing.members) == ["5", "6", "7"]

    def test_an_item_of_a_queue_is_held_by_whose_claim_is_on_it(self):
        """
        The others are counted.
        """
        found = taken(
            session(3, 2, "a"),
            stored("queue/q/attempts/7", 5),
            stored("queue/q/claims/7", 5, b"nonce", lease=3),
            stored("queue/q/items/000/7", 4),
        )

        (claim,) = only(found).standing.holders
        assert (found.who(claim), claim.role, claim.fence) == ("a", "7", 5)
        assert only(found).standing.note == "attempts 1, items 1"

    def test_a_slot_that_runs_is_held_by_the_session_it_names(self):
        """
        It hangs on another lease, and outlives that session: then it is abandoned.
        """
        slots = [Slot("1", SlotState.DONE, "a"), Slot("2", SlotState.RUNNING, "a", session=3)]
        slots += [Slot("3", SlotState.RUNNING, "b", session=4)]
        keys_ = [stored(f"once/x/{each.name}", 5, each.encode(), lease=9, mod=8) for each in slots]

        found = taken(session(3, 2, "a"), *keys_, stored("once/x/4", 6, b"what", lease=9))

        (running,) = only(found).standing.holders
        assert (found.who(running), running.role, running.fence) == ("a", "2", 8)
        assert [(each.how, each.kind) for each in found.sessions[0].stakes] == [("holds", "once")]
        assert only(found).standing.note == "abandoned 1, done 1, slots 1"

    @pytest.mark.parametrize(
        ("kind", "members", "verdict"), [("barrier", "", "verdict"), ("double_barrier", "waiters/", "ready")]
    )
    def test_who_arrived_at_a_barrier_waits_for_the_others(self, kind, members, verdict):
        """
        Until it is decided; how many must come is part of what all agree on.
        """
        generation = stored(f"{kind}/x/generation", 4, b"2/3")
        there = place(f"{kind}/x/0000000002/{members}3-1", 6, "a", lease=3)
        old = place(f"{kind}/x/0000000001/{members}4-1", 3, "b", lease=4)
        ends = [stored(f"{kind}/x/0000000002/{verdict}", 7, text) for text in (b"{}", b'{"broken":"late"}')]

        waiting = only(taken(generation, there, old)).standing
        over, broken = (only(taken(generation, there, each)).standing for each in ends)

        assert names(waiting.waiters) == ["a"]
        assert names((*waiting.holders, *waiting.members)) == ["b"]
        assert waiting.note.startswith("generation 2, 1 of 3 have arrived")
        assert (names(over.waiters), names(over.members)) == ([], ["a"])
        assert (over.note, broken.note) == ("generation 2, all have arrived", "generation 2, broken")

    def test_who_is_inside_of_a_double_barrier_holds(self):
        """
        Those whom `ready` names, as long as their keys are there; also after `ready` is forgotten.  Who was
        too many is there, and does not hold.
        """
        keys_ = [
            place(f"double_barrier/x/000000000{n}/waiters/{n}-{m}", 10 * n + m, f"{n}.{m}", lease=m)
            for n, m in ((1, 1), (2, 1), (2, 2), (2, 3), (3, 1))
        ]
        ready = stored("double_barrier/x/0000000002/ready", 29, b'{"passed":["2-1","2-2","2-9"]}')

        found = only(taken(stored("double_barrier/x/generation", 4, b"3/2"), *keys_, ready)).standing

        assert names(found.holders) == ["1.1", "2.1", "2.2"]
        assert (names(found.waiters), names(found.members)) == (["3.1"], ["2.3"])
        assert found.note == "generation 3, 1 of 2 have arrived, 3 inside"

    def test_a_latch_tells_how_many_are_to_come(self):
        """
        Its receipts are somebody's; what is no count of ours is shown as keys.
        """
        receipt = place("latch/x/receipts/3-1", 5, lease=3)

        values = [stored("latch/x/value", 4, value) for value in (b"2/5", b"?")]
        known, strange = (only(taken(receipt, each)).standing for each in values)

        assert known.note == "2 of 5 still to come"
        assert [each.lease for each in known.members] == [3]
        assert strange.note == "receipts 1"

    def test_a_gate_is_there_while_it_is_closed(self):
        """
        With who closed it, and since which revision: it is nobody's, and no time is known.
        """
        found = only(taken(stored("gate/x", 7, b"anna"), session(3, 2, "a"))).standing

        assert found.note == "closed at revision 7 by anna"
        assert [(each.identity, each.fence, each.lease, each.since) for each in found.members] == [
            ("anna", 7, 0, None)
        ]
        assert not found.holders
        assert only(taken(stored("gate/x", 7, b""))).standing.note == "closed at revision 7"

    def test_a_kind_that_nobody_knows_shows_up(self):
        """
        With its keys counted; those that hang on a lease are somebody's.
        """
        found = only(taken(place("tree/x/leaf/1", 5, "a", lease=3), stored("tree/x/root", 4)))

        assert (found.kind, found.name, found.key_count) == ("tree", "x", 2)
        assert [(each.role, each.lease) for each in found.standing.members] == [("leaf", 3)]
        assert found.standing.note == "leaf 1"

    def test_a_kind_can_be_registered(self, monkeypatch):
        """
        Then its keys are read as its author says.
        """
        monkeypatch.setattr(kinds, "_KINDS", dict(kinds._KINDS))
        kinds.register(kinds.Kind("tree", kinds.read_exclusive, lined=True, lock=True))

        found = taken(place("tree/x/1", 5, "a"))

        assert names(only(found).standing.holders) == ["a"]
        assert found.locks() == [only(found)]


class TestCensus:
    def test_a_session_has_what_hangs_on_its_lease(self):
        """
        What it holds, awaits, and has besides.
        """
        found = taken(
            session(1, 2, "a"),
            session(2, 3, "b"),
            place("lock/x/1-1", 4, "a", lease=1),
            place("lock/x/2-1", 5, "b", lease=2),
            place("lock/y/2-1", 6, "b", lease=2),
            stored("queue/q/claims/1", 7, b"nonce", lease=1),
        )

        first, second = found.sessions
        assert (first.identity, first.host, first.pid, first.start) == ("a", "h", "7", NOON)
        assert [(each.how, each.kind, each.name) for each in first.stakes] == [
            ("holds", "lock", "x"),
            ("holds", "queue", "q"),
        ]
        assert [each.how for each in second.stakes] == ["awaits", "holds"]
        assert found.counts() == {"lock": (2, 3), "queue": (1, 1), "session": (2, 2)}

    def test_who_somebody_is_comes_from_the_session_where_the_value_is_silent(self):
        """
        As of elections, which hold what is proclaimed, and of keys read without their values.
        """
        found = taken(session(1, 2, "a"), stored("election/x/1-1", 4, b"http://me", lease=1))

        assert found.who(only(found).standing.holders[0]) == "a"

    def test_names_are_decoded(self):
        """
        As they were encoded; and one is never taken for another.
        """
        strange = "a/b \x1b[31m\u00e9"
        found = taken(place(f"lock/{keys.segment(strange)}/1-1", 4), place("lock/a/1-1", 5))

        assert [each.name for each in found.primitives] == ["a", strange]

    @settings(max_examples=40)
    @given(
        st.lists(
            st.tuples(
                st.lists(
                    st.one_of(
                        st.sampled_from(SEGMENTS),
                        st.binary(max_size=6),
                    ),
                    max_size=5,
                ),
                st.one_of(
                    st.binary(max_size=20),
                    st.recursive(
                        st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5)),
                        lambda inner: st.dictionaries(
                            st.sampled_from(
                                ["identity", "since", "start", "host", "pid", "state", "session"]
                            ),
                            inner,
                            max_size=4,
                        ),
                        max_leaves=5,
                    ).map(lambda value: json.dumps(value).encode()),
                ),
                st.integers(0, 2**63 - 1),
            ),
            max_size=8,
        )
    )
    def test_nothing_that_others_wrote_makes_it_raise(self, found):
        """
        Keys and values of any bytes; and what comes out can be encoded.
        """
        rows = [KeyValue(ROOT + b"/".join(path), value, 5, 5, 1, lease) for path, value, lease in found]

        seen = census.take("shop", rows, 9)
        story = narrator.Narrator(ROOT, rows, 9, sees_sessions=True)
        notes = story.take(
            [Event(each.key, each.value, n % 2 == 0, 10, 10 + n, 1) for n, each in enumerate(rows)]
        )

        assert sum(each.key_count for each in seen.primitives) + len(seen.sessions) == len(rows)
        for text in [repr(seen), *(each.identity for each in seen.sessions), repr(notes)]:
            text.encode()

    @pytest.mark.parametrize(
        "value",
        [b"[" * 100_000, b'{"identity": "\\ud800"}', b'{"since": "9999-12-31T23:59:59-23:59"}', b"\xff"],
        ids=["deep", "surrogate", "overflow", "bytes"],
    )
    def test_malformed_values_say_nothing(self, value):
        """
        And break nothing.
        """
        found = only(taken(stored("lock/x/1-1", 5, value)))

        (holder,) = found.standing.holders
        assert holder.since is None
        holder.identity.encode()

    def test_times_are_read_however_they_are_written(self):
        """
        With Z, with an offset, without any: UTC.
        """
        assert words.moment("2026-01-01T12:00:00Z") == NOON
        assert words.moment("2026-01-01T13:00:00+01:00") == NOON
        assert words.moment("2026-01-01T12:00:00") == NOON
        assert words.moment("noon") is None


class TestChronicle:
    def story(self, *found: KeyValue) -> chronicle.Chronicle:
        return chronicle.Chronicle(ROOT, "lock", "x", found)

    def told(self, happenings) -> list[tuple[What, str]]:
        return [(each.what, each.place.identity) for each in happenings]

    def test_join_grant_and_release_are_told(self):
        """
        Each with the revision at which it happened.
        """
        story = self.story()

        first = story.take([put("lock/x/1-1", 5, "a")])
        second = story.take([put("lock/x/2-1", 6, "b")])
        third = story.take([deleted("lock/x/1-1", 8)])

        assert self.told(first) == [(What.JOINED, "a"), (What.GRANTED, "a")]
        assert self.told(second) == [(What.JOINED, "b")]
        assert self.told(third) == [(What.RELEASED, "a"), (What.GRANTED, "b")]
        assert {each.revision for each in third} == {8}

    def test_one_that_gives_up_was_never_granted(self):
        """
        And nobody else's place changes by it.
        """
        story = self.story(place("lock/x/1-1", 5, "a"), place("lock/x/2-1", 6, "b"))

        assert self.told(story.take([deleted("lock/x/2-1", 8)])) == [(What.LEFT, "b")]

    def test_a_name_that_comes_back_is_another_place(self):
        """
        Put again in the same revision as its delete can be told.
        """
        story = self.story(place("lock/x/1-1", 5, "a"))

        happenings = story.take([deleted("lock/x/1-1", 8), put("lock/x/1-1", 8, "c")])

        assert self.told(happenings) == [(What.RELEASED, "a"), (What.JOINED, "c"), (What.GRANTED, "c")]

    def test_a_value_that_is_put_again_is_a_change(self):
        """
        As when a leader proclaims.
        """
        story = self.story(place("lock/x/1-1", 5, "a"))

        assert self.told(story.take([put("lock/x/1-1", 8, "z", created=5)])) == [(What.CHANGED, "z")]

    def test_the_end_of_a_session_is_told_from_a_release(self):
        """
        By what else was deleted at that revision.
        """
        story = self.story(place("lock/x/1-1", 5, "a", lease=1), place("lock/x/2-1", 6, "b", lease=2))

        (released, granted) = story.take([deleted("lock/x/1-1", 8)], frozenset({1}))

        assert (released.ended, granted.ended) == (True, False)


class TestTenures:
    def test_each_has_its_revisions(self):
        """
        From join to end; who waits or holds has no end, who gave up was never granted.
        """
        story = chronicle.Chronicle(ROOT, "lock", "x", [place("lock/x/0-1", 2, "o")])
        base = story.standing
        told = [
            happening
            for event in (
                put("lock/x/1-1", 5, "a"),
                put("lock/x/2-1", 6, "b"),
                put("lock/x/3-1", 7, "c"),
                deleted("lock/x/0-1", 8),
                deleted("lock/x/2-1", 9),
            )
            for happening in story.take([event], frozenset())
        ]

        found = [
            (each.place.identity, each.joined, each.granted, each.ended, each.how)
            for each in tenures.of(4, base, told)
        ]

        assert found == [
            ("o", 2, 4, 8, "released"),
            ("a", 5, 8, None, "holds"),
            ("b", 6, None, 9, "gave up"),
            ("c", 7, None, None, "waits"),
        ]

    def test_times_between_two_joins_are_estimates(self):
        """
        And there is none outside of them.
        """
        story = chronicle.Chronicle(ROOT, "lock", "x")
        at = [NOON, NOON + datetime.timedelta(seconds=10)]
        told = story.take([put("lock/x/1-1", 10, "a", at[0].isoformat())])
        told += story.take([put("lock/x/2-1", 20, "b", at[1].isoformat())])

        clock = tenures.Clock(tenures.of(1, kinds.Standing(), told))

        assert clock.at(10) == tenures.Moment(NOON, True)
        assert clock.at(15) == tenures.Moment(NOON + datetime.timedelta(seconds=5), False)
        assert clock.at(9) is clock.at(21) is clock.at(None) is None


class TestNarrator:
    def test_a_session_takes_its_places_with_it(self):
        """
        One revision: the session ends, its lock is the next one's.
        """
        found = [
            session(1, 2, "a"),
            session(2, 3, "b"),
            stored("lock/x/1-1", 4, b"", lease=1),
            stored("lock/x/2-1", 5, b"", lease=2),
        ]
        story = narrator.Narrator(ROOT, found, 5, sees_sessions=True)

        notes = story.take([deleted("lock/x/1-1", 7), deleted(f"session/{1:016x}", 7)])

        assert [(each.kind, each.what, each.who, each.because) for each in notes] == [
            ("session", "ended", "a", ""),
            ("lock", "released", "a", "its session ended"),
            ("lock", "granted", "b", ""),
        ]

    def test_what_is_older_than_the_beginning_is_not_told_again(self):
        """
        A watch that stood before the read tells it, too.
        """
        story = narrator.Narrator(ROOT, [place("lock/x/1-1", 5, "a")], 6, sees_sessions=False)

        assert story.take([put("lock/x/1-1", 5, "a")]) == []

    def test_other_kinds_are_told_by_their_keys(self):
        """
        Never by their values.
        """
        story = narrator.Narrator(ROOT, [], 4, sees_sessions=False)

        (note,) = story.take([Event(b"/shop/queue/jobs/items/1", b"secret", False, 5, 5, 0)])

        assert (note.kind, note.name, note.what, note.key) == ("queue", "jobs", "put", "items/1")
        assert "secret" not in repr(note)


# --- from a real etcd


@pytest.fixture
def reader(coord) -> reading.Reader:
    return reading.Reader(coord.client, coord.settings.namespace)


@pytest.fixture
def watcher(coord):
    found = watch.Watcher(coord.client)
    yield found
    found.close()


class TestReading:
    def test_locks_sessions_and_leases_are_seen(self, coord, coord_factory, reader):
        """
        A holder, a waiter, their sessions, and how long those have.
        """
        other = coord_factory(identity="other")
        lock = coord.lock("report")
        lock.acquire()
        (attempt,) = queue_up(other.lock("report"))

        found = reader.census()
        times = reader.lease_times(each.lease for each in found.sessions)

        (seen,) = found.locks()
        assert [each.fence for each in seen.standing.holders] == [lock.fence]
        assert [found.who(each) for each in seen.standing.waiters] == ["other"]
        assert {each.lease for each in found.sessions} == {coord.session.lease_id, other.session.lease_id}
        assert all(time.left_s <= time.granted_s for time in times.values())
        assert only(reader.primitive("lock", "report")).standing == seen.standing
        lock.release()
        attempt.wait_until_held().lock.release()

    def test_every_primitive_that_is_held_has_its_holder(self, coord, reader):
        """
        Each as its recipe writes it; who it is, since when, with which fence.
        """
        pool, shared = coord.semaphore("pool", limit=2), coord.rwlock("shared").read
        with coord.lock("lock"), shared, pool, coord.election("leader").campaign() as leadership:
            queue = coord.queue("jobs")
            queue.put(b"x")
            once = coord.once("report", "monday")
            assert once.claim()
            with queue.claim(timeout=10) as job:
                found = reader.census()
                fences = {
                    "lock": coord.lock("lock").contenders()[0].fence,
                    "rwlock": shared.fence,
                    "semaphore": pool.fence,
                    "election": leadership.fence,
                    "once": once.fence,
                    "queue": job.fence,
                }
            once.done()
            over = reader.primitive("once", "report")

        holders = {each.kind: each.standing.holders for each in found.primitives}
        assert {kind: [each.fence for each in places] for kind, places in holders.items()} == {
            kind: [fence] for kind, fence in fences.items()
        }
        assert {found.who(each) for (each,) in holders.values()} == {coord.settings.identity}
        assert {kind for kind, (each,) in holders.items() if each.since} == {
            "lock",
            "rwlock",
            "semaphore",
            "once",
        }
        assert (only(over).standing.holders, only(over).standing.note) == ((), "done 1")
        assert {stake.how for each in found.sessions for stake in each.stakes} == {"holds"}
        coord.kv.delete_prefix(f"/{reader.namespace}/once/")

    def test_who_has_arrived_at_a_barrier_is_seen(self, coord, reader):
        """
        It waits for the others.
        """
        barrier = coord.barrier("start", parties=2)
        thread = threading.Thread(target=barrier.wait, daemon=True)
        thread.start()
        found = wait_until(
            lambda: [each for each in reader.census().primitives if each.standing.waiters], what="arriving"
        )
        barrier.wait()
        thread.join()

        assert found[0].standing.note == "generation 1, 1 of 2 have arrived"
        assert found[0].standing.waiters[0].identity == coord.settings.identity
        coord.kv.delete_prefix(f"/{reader.namespace}/barrier/")

    def test_who_is_inside_of_a_double_barrier_is_seen(self, coord, reader):
        """
        With a fence, since when, and from which session, until he leaves.
        """
        both = coord.double_barrier("phase", parties=2)
        second = threading.Thread(target=both.enter, daemon=True)
        second.start()
        assert both.enter(timeout=10)
        second.join()

        found = reader.census()
        coord.kv.delete_prefix(f"/{reader.namespace}/double_barrier/phase/0000000001/waiters/")
        left = reader.census()

        (inside,) = found.primitives
        assert [found.who(each) for each in inside.standing.holders] == [coord.settings.identity] * 2
        assert all(each.fence and each.since for each in inside.standing.holders)
        assert inside.standing.note == "generation 2, 0 of 2 have arrived, 2 inside"
        stakes = [(each.how, each.kind) for each in found.sessions[0].stakes]
        assert stakes == [("holds", "double_barrier")] * 2
        assert left.primitives[0].standing.note == "generation 2, 0 of 2 have arrived"
        coord.kv.delete_prefix(f"/{reader.namespace}/double_barrier/")

    def test_a_gate_and_a_latch_say_how_they_stand(self, coord, reader):
        """
        Closed by whom; how many are to come.
        """
        coord.gate("door").close()
        coord.latch("warm", count=3).count_down()

        found = {each.kind: each.standing for each in reader.census().primitives}

        (closing,) = found["gate"].members
        assert found["gate"].note == f"closed at revision {closing.fence} by {coord.settings.identity}"
        assert found["latch"].note == "2 of 3 still to come"
        coord.gate("door").open()
        coord.latch("warm", count=3).delete()

    def test_a_lease_that_is_over_has_no_time(self, reader):
        """
        None, not an error.
        """
        assert reader.lease_times([12345, 0]) == {12345: None}

    def test_large_primitives_are_counted_and_skipped(self, coord, reader, monkeypatch):
        """
        Two reads for one of them, however many keys it has; neighbours with similar names are not lost.
        """
        monkeypatch.setattr(reading, "PAGE", 10)
        root = f"/{reader.namespace}"
        paths = [f"queue/jobs/items/{n:04}" for n in range(60)]
        paths += ["gate/jobs", "gate/jobs-2/x", "gate/jobs/x", "queue/jobs2/items/1", "topic/t/slots/1"]
        for first in range(0, len(paths), 50):
            chunk = paths[first : first + 50]
            coord.kv.txn().then(*(coordkit.kv.put(f"{root}/{path}", b"v") for path in chunk)).commit()

        calls = coord.statistics().calls
        found = reader.survey()
        spent = coord.statistics().calls - calls
        seen = reader.overview()

        assert seen.counts() == {"gate": (2, 3), "queue": (2, 61), "topic": (1, 1)}
        notes = {each.name: each.standing.note for each in seen.primitives if each.kind == "queue"}
        assert notes == {
            "jobs": f"only {60 - found.skipped['queue', 'jobs']} keys were looked at",
            "jobs2": "items 1",
        }
        assert spent <= 5
        coord.kv.delete_prefix(f"{root}/")

    def test_a_compaction_between_two_pages_is_survived(self, coord, etcd, reader, monkeypatch):
        """
        It is read again, at a newer revision.
        """
        monkeypatch.setattr(reading, "PAGE", 2)
        for n in range(4):
            coord.kv.put(f"/{reader.namespace}/tree/x/{n}", b"v")
        read, interrupted = coord.client.read, []

        def interrupt(request, deadline):
            if request.revision and not interrupted:
                interrupted.append(True)
                compact(coord, coord.kv.put(f"/{reader.namespace}/tree/x/4", b"v"))
            return read(request, deadline)

        monkeypatch.setattr(coord.client, "read", interrupt)

        assert reader.census().counts() == {"tree": (1, 5)}
        assert interrupted
        coord.kv.delete_prefix(f"/{reader.namespace}/")


class TestArchive:
    def test_who_held_it_is_read_back(self, coord, coord_factory, reader, watcher):
        """
        From the first to the one that holds it now; a release and the end of a session are told apart.  What
        was before a compaction is said to be unknown, and who held it then is known.
        """
        lock, other = coord.lock("report"), coord_factory(identity="other")
        beginning = lock_cycle(lock)
        lock.acquire()
        (attempt,) = queue_up(other.lock("report"))
        lock.release()
        attempt.wait_until_held()
        expire(other.session, coord)
        third = Attempt(lock).wait_until_held()

        found = archive.read(reader, watcher, "lock", "report", Deadline.after(20))
        compact(coord, found.tenures[1].ended - 1)
        later = archive.read(reader, watcher, "lock", "report", Deadline.after(20))

        assert found.complete and later.complete
        assert [each.how for each in found.tenures] == ["released", "released", "session ended", "holds"]
        assert found.tenures[0].joined == beginning
        assert found.tenures[1].ended == found.tenures[2].granted
        assert later.first == found.tenures[1].ended - 1
        assert [(each.joined, each.early) for each in later.tenures] == [
            (each.joined, n == 0) for n, each in enumerate(found.tenures[1:])
        ]
        third.lock.release()

    def test_a_history_is_read_to_its_end(self, coord, reader, watcher, monkeypatch):
        """
        etcd tells 1,000 revisions at a time, with pauses; the lock is free between and at the end.
        """
        monkeypatch.setattr(follower, "QUIET_S", 0.05)  # less than a pause
        key = f"/{reader.namespace}/lock/hot/1-1"
        for _ in range(505):
            coord.kv.put(key, b"")
            coord.kv.delete(key)

        late = follower.Follower(watcher, key.encode(), coord.client.seen_revision - 1010)
        assert follower.catch_up(watcher, late, None, lambda: True, Deadline.after(20))
        told = len(late.events)
        found = archive.read(reader, watcher, "lock", "hot", Deadline.after(20))

        assert told == 1010
        assert (found.complete, len(found.tenures)) == (True, 505)

    def test_time_may_run_out(self, reader, watcher, coord):
        """
        Then nobody says that all was told.
        """
        coord.session.check()
        late = follower.Follower(watcher, reader.root, coord.client.seen_revision)

        assert not follower.catch_up(watcher, late, None, lambda: True, Deadline.after(0.01))

    def test_of_a_lock_that_never_was_nothing_is_known(self, coord, reader, watcher):
        """
        An empty history is one, too.
        """
        coord.session.check()  # whose key is there to see etcd's pass by

        assert archive.read(reader, watcher, "lock", "never", Deadline.after(20)).tenures == []


def lock_cycle(lock: coordkit.Lock) -> int:
    with lock:
        return lock.fence
