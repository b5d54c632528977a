"""The etcd3 package's client on our connection: what etcd3's own suite checks of it, restated.

What is mended, and outages, are in test_etcd3_mends.py.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

import coordkit
from coordkit.testing import LocalEtcd

#: Any text that is one visible character.
characters = strategies.characters(blacklist_categories=["Cs", "Cc"])
several_in_a_test = hypothesis.settings(
    max_examples=20, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def etcd3c(coord, namespace: str) -> Iterator[Any]:
    """The client under test; `at` is the prefix of its keys, emptied afterwards."""
    coord.etcd.at = f"/{namespace}/etcd3/"

    yield coord.etcd

    coord.kv.delete_prefix(coord.etcd.at)


@pytest.fixture
def private(etcd_binary: str) -> Iterator[Any]:
    """A client on a server of its own, which is empty."""
    with LocalEtcd(etcd_binary) as server, coordkit.connect(server.url) as coordinator:
        coordinator.etcd.server = server
        yield coordinator.etcd


class TestKeys:
    def test_an_unknown_key(self, etcd3c):
        """
        What is not there is None, without metadata.
        """
        assert etcd3c.get(etcd3c.at + "unknown") == (None, None)

    @several_in_a_test
    @hypothesis.given(characters, characters)
    def test_any_text_is_a_key_and_a_value(self, coord, etcd3c, key, value):
        """
        Text is stored as UTF-8, and comes back as bytes, from ordinary and serializable reads.
        """
        etcd3c.put(etcd3c.at + key, value)

        stored = coord.kv.get(etcd3c.at + key)
        assert stored.value == value.encode()
        assert etcd3c.get(etcd3c.at + key)[0] == value.encode()
        assert etcd3c.get(etcd3c.at + key, serializable=True)[0] == value.encode()

    def test_metadata(self, etcd3c):
        """
        A read tells the key's revisions, version and lease, and the revision of the store.
        """
        first = etcd3c.put(etcd3c.at + "a", "1").header.revision
        second = etcd3c.put(etcd3c.at + "a", "2").header.revision
        third = etcd3c.put(etcd3c.at + "b", "3").header.revision

        _, found = etcd3c.get(etcd3c.at + "a")

        assert 0 < first < second < third == found.response_header.revision
        assert (found.create_revision, found.mod_revision, found.version) == (first, second, 2)
        assert (found.key, found.lease_id) == ((etcd3c.at + "a").encode(), 0)

    def test_a_put_can_return_what_was_there(self, etcd3c):
        """
        With prev_kv the reply has the pair that was overwritten; without it, none.
        """
        etcd3c.put(etcd3c.at + "a", "old")

        assert etcd3c.put(etcd3c.at + "a", "new", prev_kv=True).prev_kv.value == b"old"
        assert not etcd3c.put(etcd3c.at + "a", "newer").HasField("prev_kv")

    def test_put_if_not_exists(self, etcd3c):
        """
        It writes once, and tells whether it did.
        """
        assert etcd3c.put_if_not_exists(etcd3c.at + "a", "first") is True
        assert etcd3c.put_if_not_exists(etcd3c.at + "a", "second") is False

        assert etcd3c.get(etcd3c.at + "a")[0] == b"first"

    @pytest.mark.parametrize(("expected", "replaced"), [("old", True), ("other", False)])
    def test_replace(self, etcd3c, expected, replaced):
        """
        It writes only over the value that was expected.
        """
        etcd3c.put(etcd3c.at + "a", "old")

        assert etcd3c.replace(etcd3c.at + "a", expected, "new") is replaced

        assert etcd3c.get(etcd3c.at + "a")[0] == (b"new" if replaced else b"old")

    def test_delete(self, etcd3c):
        """
        It tells whether there was something to delete.
        """
        etcd3c.put(etcd3c.at + "a", "1")

        assert etcd3c.delete(etcd3c.at + "a") is True
        assert etcd3c.delete(etcd3c.at + "a") is False
        assert etcd3c.delete(etcd3c.at + "never there") is False

        assert etcd3c.get(etcd3c.at + "a") == (None, None)

    def test_a_delete_can_return_the_reply(self, etcd3c):
        """
        The whole reply has the revision and, with prev_kv, what was deleted.
        """
        before = etcd3c.put(etcd3c.at + "a", "old").header.revision

        reply = etcd3c.delete(etcd3c.at + "a", prev_kv=True, return_response=True)

        assert reply.header.revision == before + 1
        assert [pair.value for pair in reply.prev_kvs] == [b"old"]

    def test_delete_prefix(self, etcd3c):
        """
        It deletes what starts with the prefix and nothing else, and counts.
        """
        for name in ("foo1", "foo2", "fop"):
            etcd3c.put(etcd3c.at + name, "x")

        assert etcd3c.delete_prefix(etcd3c.at + "foo").deleted == 2

        assert [found.key for _, found in etcd3c.get_prefix(etcd3c.at)] == [(etcd3c.at + "fop").encode()]


class TestRanges:
    @pytest.fixture
    def filled(self, etcd3c) -> Any:
        """Keys a to e with values that sort the other way round, and one outside."""
        for key, value in zip("cabed", "31542", strict=True):
            etcd3c.put(f"{etcd3c.at}range/{key}", value)
        etcd3c.put(f"{etcd3c.at}rangf", "outside")
        return etcd3c

    def test_a_prefix(self, filled):
        """
        Every key with the prefix, with its value, in order of the keys.
        """
        found = list(filled.get_prefix(filled.at + "range/"))

        assert [value for value, _ in found] == [b"1", b"5", b"3", b"2", b"4"]
        assert [meta.key[-1:] for _, meta in found] == [b"a", b"b", b"c", b"d", b"e"]

    def test_keys_only(self, filled):
        """
        Values are left out, of a prefix, a range and everything.
        """
        prefix = filled.at + "range/"
        answers = [
            list(filled.get_prefix(prefix, keys_only=True, serializable=True)),
            list(filled.get_range(prefix, filled.at + "range0", keys_only=True)),
        ]

        for found in answers:
            assert [(value, meta.key[-1:]) for value, meta in found] == [(b"", bytes([c])) for c in b"abcde"]

    def test_a_range_is_half_open(self, filled):
        """
        The start belongs to a range, its end does not.
        """
        prefix = filled.at + "range/"

        assert [value for value, _ in filled.get_range(prefix + "b", prefix + "d")] == [b"5", b"3"]

    @pytest.mark.parametrize(
        ("options", "order"),
        [
            ({"sort_order": "ascend"}, b"abcde"),
            ({"sort_order": "descend"}, b"edcba"),
            ({"sort_order": "ascend", "sort_target": "value"}, b"adceb"),
            ({"sort_order": "ascend", "sort_target": "create"}, b"cabed"),
            ({"sort_order": "descend", "sort_target": "mod"}, b"debac"),
            ({"sort_order": "ascend", "sort_target": "version"}, b"abcde"),
            ({"sort_order": "ascend", "sort_target": None}, b"abcde"),
        ],
    )
    def test_order(self, filled, options, order):
        """
        Results come in the order asked for, by the field asked for.
        """
        found = filled.get_prefix(filled.at + "range/", **options)

        assert b"".join(meta.key[-1:] for _, meta in found) == order

    def test_an_unknown_order_is_refused(self, etcd3c):
        """
        Silly orders and targets are ValueErrors, a range end beside a prefix is a TypeError.
        """
        with pytest.raises(ValueError, match="sort order"):
            etcd3c.get_prefix(etcd3c.at, sort_order="sideways")
        with pytest.raises(ValueError, match="sort_target"):
            etcd3c.get_prefix(etcd3c.at, sort_target="colour")
        with pytest.raises(TypeError, match="range_end"):
            etcd3c.get_prefix(etcd3c.at, range_end="z")

    def test_nothing_found(self, etcd3c):
        """
        Without keys the results are empty, and replies have a header all the same.
        """
        assert list(etcd3c.get_prefix(etcd3c.at)) == []
        assert list(etcd3c.get_range(etcd3c.at + "a", etcd3c.at + "b")) == []

        for reply in (
            etcd3c.get_response(etcd3c.at + "a"),
            etcd3c.get_prefix_response(etcd3c.at),
            etcd3c.get_range_response(etcd3c.at + "a", etcd3c.at + "b"),
        ):
            assert reply.count == 0
            assert reply.header.revision > 0

    def test_whole_replies(self, filled):
        """
        The raw replies have the pairs, their count and a header.
        """
        one = filled.get_response(filled.at + "range/a")
        several = filled.get_prefix_response(filled.at + "range/", sort_order="ascend")

        assert (one.count, one.kvs[0].value) == (1, b"1")
        assert several.count == 5
        assert [pair.key[-1:] for pair in several.kvs] == [b"a", b"b", b"c", b"d", b"e"]
        assert several.header.revision == one.header.revision > 0

    def test_everything(self, private):
        """
        get_all gives every key of the server, of an empty one none.
        """
        assert list(private.get_all()) == []
        assert private.get_all_response().count == 0

        for number in range(25):
            private.put(f"{number:02}", "x")

        found = list(private.get_all(sort_order="descend", keys_only=True))
        assert [meta.key for _, meta in found] == [b"%02d" % number for number in range(24, -1, -1)]
        assert {value for value, _ in found} == {b""}


class TestTransactions:
    @pytest.mark.parametrize(("stored", "branch"), [("expected", b"success"), ("other", b"failure")])
    def test_a_branch_is_taken(self, etcd3c, stored, branch):
        """
        If all compares hold the success operations run, else the others.
        """
        etcd3c.put(etcd3c.at + "a", stored)

        succeeded, _ = etcd3c.transaction(
            compare=[etcd3c.transactions.value(etcd3c.at + "a") == "expected"],
            success=[etcd3c.transactions.put(etcd3c.at + "a", "success")],
            failure=[etcd3c.transactions.put(etcd3c.at + "a", "failure")],
        )

        assert succeeded is (branch == b"success")
        assert etcd3c.get(etcd3c.at + "a")[0] == branch

    def test_what_operations_answer(self, etcd3c):
        """
        A get answers with values and metadata, the others with their replies.
        """
        tx, key, other = etcd3c.transactions, etcd3c.at + "a", etcd3c.at + "b"
        etcd3c.put(other, "old")

        succeeded, (put, found, gone) = etcd3c.transaction(
            compare=[],
            success=[tx.put(key, "1"), tx.get(key), tx.delete(other, prev_kv=True)],
            failure=[],
        )

        assert succeeded is True
        assert put.response_put.header.revision > 0
        assert [(value, meta.key) for value, meta in found] == [(b"1", key.encode())]
        assert gone.response_delete_range.prev_kvs[0].value == b"old"

    @pytest.mark.parametrize(
        ("compare", "holds"),
        [
            (lambda tx, key, revision: tx.version(key) == 2, True),
            (lambda tx, key, revision: tx.version(key) != 2, False),
            (lambda tx, key, revision: tx.version(key) < 3, True),
            (lambda tx, key, revision: tx.version(key) > 2, False),
            (lambda tx, key, revision: tx.mod(key) == revision, True),
            (lambda tx, key, revision: tx.mod(key) != revision, False),
            (lambda tx, key, revision: tx.create(key) < revision, True),
            (lambda tx, key, revision: tx.create(key) > revision, False),
            (lambda tx, key, revision: tx.create(key) == "0", False),
            (lambda tx, key, revision: tx.value(key) == "v", True),
            (lambda tx, key, revision: tx.value(key) != b"v", False),
            (lambda tx, key, revision: tx.value(key) > "u", True),
            (lambda tx, key, revision: tx.value(key) < "u", False),
        ],
    )
    def test_compares(self, etcd3c, compare, holds):
        """
        Version, create and mod revision and value are compared in four ways.
        """
        key = etcd3c.at + "a"
        etcd3c.put(key, "u")
        revision = etcd3c.put(key, "v").header.revision

        succeeded, _ = etcd3c.transaction([compare(etcd3c.transactions, key, revision)], [], [])

        assert succeeded is holds

    def test_a_compare_of_a_range(self, etcd3c):
        """
        A compare with a range end must hold for every key of the range.
        """
        start, end = etcd3c.at + "r/", etcd3c.at + "r0"
        etcd3c.put(start + "1", "same")
        etcd3c.put(start + "2", "other")
        compare = [etcd3c.transactions.value(start, end) == "same"]

        assert etcd3c.transaction(compare, [], [])[0] is False

        etcd3c.put(start + "2", "same")
        assert etcd3c.transaction(compare, [], [])[0] is True

    def test_nested(self, etcd3c):
        """
        A transaction is an operation of another one.
        """
        tx = etcd3c.transactions
        inner = tx.txn(compare=[], success=[tx.put(etcd3c.at + "inner", "2")], failure=[])

        etcd3c.transaction([], [tx.put(etcd3c.at + "outer", "1"), inner], [])

        assert etcd3c.get(etcd3c.at + "outer")[0] == b"1"
        assert etcd3c.get(etcd3c.at + "inner")[0] == b"2"

    def test_what_is_no_operation_is_refused(self, etcd3c):
        """
        Strangers among the operations, or something else than a list of them, raise before anything is sent.
        """
        with pytest.raises(Exception, match="Unknown request class"):
            etcd3c.transaction([], ["put"], [])
        with pytest.raises(TypeError):
            etcd3c.transaction([], 0, [])
        with pytest.raises(ValueError, match="op must be"):
            etcd3c.transaction([etcd3c.transactions.value("a")], [], [])


class TestWatches:
    def test_events_in_order_until_cancelled(self, etcd3c):
        """
        A watch tells every change of its key, in order, and nothing after its end.
        """
        key = etcd3c.at + "a"
        events, cancel = etcd3c.watch(key)
        etcd3c.put(etcd3c.at + "another", "x")
        for value in ("0", "1", "2"):
            etcd3c.put(key, value)
        etcd3c.delete(key)

        told = [next(events) for _ in range(4)]
        cancel()
        etcd3c.put(key, "3")

        assert [type(event).__name__ for event in told] == ["PutEvent"] * 3 + ["DeleteEvent"]
        assert [(event.key, event.value) for event in told[:3]] == [
            (key.encode(), b"%d" % n) for n in range(3)
        ]
        assert [event.version for event in told] == [1, 2, 3, 0]
        assert list(events) == []

    def test_cancel_ends_a_loop_that_waits(self, etcd3c):
        """
        Whoever waits for the next event stops waiting when another thread cancels the watch.
        """
        events, cancel = etcd3c.watch(etcd3c.at + "a")
        told = []
        loop = threading.Thread(target=lambda: told.extend(events), daemon=True)
        loop.start()

        cancel()
        loop.join(10)

        assert not loop.is_alive()
        assert told == []

    def test_a_prefix(self, etcd3c):
        """
        A watch on a prefix tells of every key under it.
        """
        events, cancel = etcd3c.watch_prefix(etcd3c.at + "p/")
        for name in ("p/0", "q", "p/1"):
            etcd3c.put(etcd3c.at + name, name[-1])

        told = [next(events) for _ in range(2)]
        cancel()

        assert [(event.key[-3:], event.value) for event in told] == [(b"p/0", b"0"), (b"p/1", b"1")]

    def test_what_was_there_before(self, etcd3c):
        """
        With prev_kv an event also has the pair that it replaced.
        """
        etcd3c.put(etcd3c.at + "a", "old")
        events, cancel = etcd3c.watch(etcd3c.at + "a", prev_kv=True)
        etcd3c.put(etcd3c.at + "a", "new")

        event = next(events)
        cancel()

        assert (event.value, event.prev_value, event.prev_version) == (b"new", b"old", 1)

    def test_responses(self, etcd3c):
        """
        Whole responses have the events of the past from a revision on, and the revision of the store.
        """
        key = etcd3c.at + "a"
        revision = etcd3c.put(key, "0").header.revision
        etcd3c.put(key, "1")

        responses, cancel = etcd3c.watch_response(key, start_revision=revision)
        first = next(responses)
        cancel()
        second = etcd3c.watch_once_response(key, timeout=10, start_revision=revision)

        for response in (first, second):
            assert response.header.revision >= revision + 1
            assert [(event.key, event.value) for event in response.events] == [
                (key.encode(), b"0"),
                (key.encode(), b"1"),
            ]

    def test_responses_of_a_prefix(self, etcd3c):
        """
        What one transaction wrote comes in one response.
        """
        tx, prefix = etcd3c.transactions, etcd3c.at + "p/"
        _, (put, _) = etcd3c.transaction([], [tx.put(prefix + "0", "0"), tx.put(prefix + "1", "1")], [])
        revision = put.response_put.header.revision

        responses, cancel = etcd3c.watch_prefix_response(prefix, start_revision=revision)
        first = next(responses)
        cancel()
        second = etcd3c.watch_prefix_once_response(prefix, timeout=10, start_revision=revision)

        for response in (first, second):
            assert response.header.revision >= revision
            assert [event.key[-1:] + event.value for event in response.events] == [b"00", b"11"]

    def test_callbacks(self, etcd3c, eventually):
        """
        A callback gets every response until its watch is cancelled.
        """
        told: list[Any] = []
        number = etcd3c.add_watch_prefix_callback(
            etcd3c.at + "p/", lambda response: told.extend(response.events)
        )
        etcd3c.put(etcd3c.at + "p/0", "0")
        etcd3c.put(etcd3c.at + "p/1", "1")

        eventually(lambda: len(told) == 2)
        etcd3c.cancel_watch(number)
        etcd3c.put(etcd3c.at + "p/2", "2")
        etcd3c.watch_once(etcd3c.at + "p/2", timeout=10, start_revision=1)  # by now it would have been told

        assert [(event.key[-3:], event.value) for event in told] == [(b"p/0", b"0"), (b"p/1", b"1")]

    def test_callbacks_may_call_the_client(self, etcd3c, eventually):
        """
        A callback reads, writes, and watches, and cancels its own watch.
        """
        seen = []

        def callback(response: Any) -> None:
            etcd3c.put(etcd3c.at + "copy", response.events[0].value)
            again = etcd3c.add_watch_callback(etcd3c.at + "copy", seen.append)
            etcd3c.cancel_watch(again)
            seen.append(etcd3c.get(etcd3c.at + "copy")[0])
            etcd3c.cancel_watch(number)

        number = etcd3c.add_watch_callback(etcd3c.at + "a", callback)
        etcd3c.put(etcd3c.at + "a", "1")

        eventually(lambda: seen)
        assert seen == [b"1"]

    def test_a_callback_that_fails_harms_nobody(self, etcd3c, eventually):
        """
        After an exception out of a callback, SystemExit even, it and the others are still called.
        """
        told: list[Any] = []

        def callback(response: Any) -> None:
            told.append(response)
            raise (SystemExit if len(told) == 1 else ValueError)("a callback's mistake")

        numbers = [etcd3c.add_watch_callback(etcd3c.at + "a", each) for each in (callback, told.append)]
        etcd3c.put(etcd3c.at + "a", "1")
        etcd3c.put(etcd3c.at + "a", "2")

        eventually(lambda: len(told) == 4)
        for number in numbers:
            etcd3c.cancel_watch(number)

    def test_once(self, etcd3c):
        """
        The first event ends the watch; without one in time WatchTimedOut is raised, again and again.
        """
        import etcd3.exceptions

        for _ in range(3):
            with pytest.raises(etcd3.exceptions.WatchTimedOut):
                etcd3c.watch_prefix_once(etcd3c.at, timeout=0.05)
            with pytest.raises(etcd3.exceptions.WatchTimedOut):
                etcd3c.watch_once(etcd3c.at + "a", timeout=0.05)

        revision = etcd3c.put(etcd3c.at + "a", "1").header.revision
        assert etcd3c.watch_once(etcd3c.at + "a", timeout=10, start_revision=revision).value == b"1"
        assert etcd3c.watch_prefix_once(etcd3c.at, timeout=10, start_revision=revision).value == b"1"

    def test_compacted_history(self, private):
        """
        A watch from a revision that is gone raises the one from which a watch can start; that one works.
        """
        import etcd3.exceptions

        for value in range(4):
            private.put("a", str(value))
        compacted = private.get("a")[1].mod_revision - 1
        private.compact(compacted)

        events, _ = private.watch("a", start_revision=1)
        with pytest.raises(etcd3.exceptions.RevisionCompactedError) as raised:
            next(events)

        assert raised.value.compacted_revision == compacted
        assert list(events) == []

        events, cancel = private.watch("a", start_revision=raised.value.compacted_revision)
        assert [next(events).value for _ in range(2)] == [b"2", b"3"]
        cancel()

    def test_many_at_once(self, etcd3c):
        """
        Threads that begin watches at the same time get the events of their own key each.
        """
        told: dict[int, bytes] = {}

        def watch(number: int) -> None:
            events, cancel = etcd3c.watch(f"{etcd3c.at}{number}")
            etcd3c.put(f"{etcd3c.at}{number}", str(number))
            told[number] = next(events).value
            cancel()

        threads = [threading.Thread(target=watch, args=(number,), daemon=True) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

        assert told == {number: b"%d" % number for number in range(16)}


class TestLeases:
    def test_grant_and_revoke(self, etcd3c):
        """
        A lease has an id and a TTL; revoked, it takes its keys along.
        """
        lease = etcd3c.lease(60)
        etcd3c.put(etcd3c.at + "a", "1", lease=lease)
        etcd3c.put(etcd3c.at + "b", "1", lease=lease.id)

        assert isinstance(lease.id, int) and lease.ttl == 60
        assert etcd3c.get(etcd3c.at + "b")[1].lease_id == lease.id

        lease.revoke()

        assert list(etcd3c.get_prefix(etcd3c.at)) == []

    def test_an_id_of_ones_own(self, etcd3c):
        """
        A lease can be asked for by id, once.
        """
        import etcd3.exceptions

        lease = etcd3c.lease(60, lease_id=77077)

        assert lease.id == 77077
        with pytest.raises(etcd3.exceptions.PreconditionFailedError):
            etcd3c.lease(60, lease_id=77077)

        lease.revoke()

    def test_what_a_lease_tells(self, etcd3c):
        """
        Its keys, what was granted and what is left.
        """
        lease = etcd3c.lease(60)

        assert lease.keys == []

        etcd3c.put(etcd3c.at + "a", "1", lease=lease)

        assert lease.keys == [(etcd3c.at + "a").encode()]
        assert 0 < lease.remaining_ttl <= lease.granted_ttl == 60
        lease.revoke()
        assert lease.remaining_ttl == -1

    def test_refresh(self, etcd3c):
        """
        A renewal answers with the TTL; for a lease that is gone with 0.
        """
        lease = etcd3c.lease(60)

        (reply,) = lease.refresh()
        assert lease.id == reply.ID
        assert reply.TTL == 60

        lease.revoke()
        (reply,) = lease.refresh()
        assert reply.TTL == 0

    def test_expiry(self, etcd3c, eventually):
        """
        A lease that nobody renews ends, and its keys with it.
        """
        lease = etcd3c.lease(1)
        etcd3c.put(etcd3c.at + "a", "1", lease=lease)

        eventually(lambda: etcd3c.get(etcd3c.at + "a") == (None, None), within_s=20)

        assert lease.remaining_ttl == -1


def settle(private: Any) -> None:
    """Let the server's log catch up: raft drops a change of members right after another one, or a start."""
    for value in ("1", "2"):
        private.put("settled", value)


class TestCluster:
    def test_members(self, private):
        """
        Each member has an id, a name and the URLs for its peers and its clients.
        """
        (member,) = private.members

        assert isinstance(member.id, int)
        assert member.name.startswith("coordkit-")
        assert all(url.startswith("http://") for url in member.peer_urls)
        assert list(member.client_urls) == [f"http://{private.server.endpoint}"]
        assert list(member.active_alarms) == []

    def test_a_member_can_be_changed(self, private):
        """
        The URLs of a member can be replaced.
        """
        (member,) = private.members
        peer_urls = [*member.peer_urls, "http://127.0.0.1:1"]
        settle(private)

        member.update(peer_urls)

        (changed,) = private.members
        assert changed.id == member.id
        assert sorted(changed.peer_urls) == sorted(peer_urls)

    def test_a_member_that_nobody_knows(self, private):
        """
        Who is no member can be neither changed nor removed.
        """
        import grpc

        for call in (lambda: private.remove_member(1), lambda: private.update_member(1, ["http://a:1"])):
            settle(private)
            with pytest.raises(grpc.RpcError) as raised:
                call()
            assert raised.value.code() is grpc.StatusCode.NOT_FOUND

    def test_status(self, private):
        """
        The version, the size, and the leader as a member.
        """
        import etcd3

        status = private.status()

        assert status.version == private.server.version
        assert status.db_size > 0 and status.raft_index > 0 and status.raft_term > 0
        assert isinstance(status.leader, etcd3.Member)
        assert status.leader.id in [member.id for member in private.members]

    def test_hash(self, private):
        """
        A number, which changes with the data.
        """
        before = private.hash()
        private.put("a", "1")

        assert isinstance(before, int)
        assert private.hash() != before

    def test_compaction(self, private):
        """
        History can be forgotten once up to a revision; not again, and not up to the future.
        """
        import grpc

        revision = [private.put("a", str(n)).header.revision for n in range(4)][-1]

        private.compact(revision, physical=True)

        for impossible in (revision, revision + 1000):
            with pytest.raises(grpc.RpcError) as raised:
                private.compact(impossible)
            assert raised.value.code() is grpc.StatusCode.OUT_OF_RANGE
            assert raised.value.details().startswith("etcdserver: mvcc: required revision")

    def test_defragment(self, private):
        """
        It gives back the space of what was deleted.
        """
        for number in range(40):
            private.put("big", bytes([number]) * 100_000)
        private.compact(private.delete("big", return_response=True).header.revision, physical=True)
        before = private.status().db_size

        private.defragment()

        assert private.status().db_size < before

    def test_snapshot(self, private, tmp_path):
        """
        What is written is a database that etcdctl takes for one.
        """
        if private.server.etcdctl is None:
            pytest.skip("there is no etcdctl beside etcd, nor on PATH")
        for number in range(8):
            private.put(f"{number}", bytes([number]) * 500_000)
        path = tmp_path / "snapshot.db"

        with path.open("wb") as file:
            private.snapshot(file)

        assert path.stat().st_size > 4_000_000
        subprocess.run([private.server.etcdctl, "snapshot", "status", str(path)], check=True)


class TestAlarms:
    @pytest.fixture
    def armed(self, private) -> Iterator[Any]:
        yield private
        private.disarm_alarm()

    def test_on_all_members(self, armed):
        """
        An alarm without a member is on all of them; while it is on, writes are refused.
        """
        import etcd3
        import grpc

        (alarm,) = armed.create_alarm()

        assert (alarm.member_id, alarm.alarm_type) == (0, etcd3.etcdrpc.NOSPACE)
        with pytest.raises(grpc.RpcError) as raised:
            armed.put("a", "1")
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_on_one_member(self, armed):
        """
        An alarm can be on one member.
        """
        member = next(armed.members)

        (alarm,) = armed.create_alarm(member_id=member.id)

        assert alarm.member_id == member.id
        assert [alarm.member_id for alarm in member.active_alarms] == [member.id]
        armed.disarm_alarm(member.id)

    def test_list_and_disarm(self, armed):
        """
        Alarms are listed until they are disarmed.
        """
        member = next(armed.members)
        armed.create_alarm()
        armed.create_alarm(member_id=member.id)

        assert {alarm.member_id for alarm in armed.list_alarms()} == {0, member.id}

        armed.disarm_alarm()
        armed.disarm_alarm(member.id)
        assert list(armed.list_alarms()) == []

        armed.put("a", "1")


class TestAuthentication:
    @pytest.fixture
    def guarded(self, etcd_binary: str) -> Iterator[Callable[..., coordkit.Coordinator]]:
        """`guarded(user, password)`: a coordinator on a server that wants to know who asks."""
        with LocalEtcd(etcd_binary) as server:
            open_ones: list[coordkit.Coordinator] = []

            def connect(**who: str) -> coordkit.Coordinator:
                open_ones.append(coordkit.connect(server.url, **who))
                return open_ones[-1]

            self.enable(connect().etcd)
            yield connect
            for coordinator in open_ones:
                coordinator.close()

    @staticmethod
    def enable(etcd3c: Any) -> None:
        """Users root and reader, who may read under `/open/`; with etcd3's raw stubs, for it has no calls."""
        import etcd3

        rpc, auth = etcd3.etcdrpc, etcd3c.auth_stub
        for name in ("root", "reader"):
            auth.UserAdd(rpc.AuthUserAddRequest(name=name, password="secret"))
            auth.RoleAdd(rpc.AuthRoleAddRequest(name=name))
            auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=name, role=name))
        permission = {"permType": 0, "key": b"/open/", "range_end": b"/open0"}
        auth.RoleGrantPermission(rpc.AuthRoleGrantPermissionRequest(name="reader", perm=permission))
        auth.AuthEnable(rpc.AuthEnableRequest())

    def test_the_token_goes_along(self, guarded):
        """
        With user and password everything works, streams included.
        """
        root = guarded(user="root", password="secret").etcd

        events, cancel = root.watch("/open/a")
        root.put("/open/a", "1")

        assert next(events).value == b"1"
        assert root.get("/open/a")[0] == b"1"
        lease = root.lease(60)
        assert lease.refresh()[0].TTL == 60
        cancel()

    def test_what_is_not_permitted(self, guarded):
        """
        A call that the user's roles do not allow says so, and so does a watch, at once.
        """
        import grpc

        reader = guarded(user="reader", password="secret").etcd

        assert reader.get("/open/a") == (None, None)
        for refused in (lambda: reader.put("/open/a", "1"), lambda: reader.watch("/closed/a")):
            with pytest.raises(grpc.RpcError) as raised:
                refused()
            assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED

    def test_without_a_user(self, guarded):
        """
        Who does not say who they are is refused.
        """
        import grpc

        with pytest.raises(grpc.RpcError) as raised:
            guarded().etcd.get("/open/a")

        assert raised.value.details() == "etcdserver: user name is empty"
