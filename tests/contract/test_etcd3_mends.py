"""The etcd3 package's client on our connection: what is mended, its lock, outages, and the end."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from contract.players import wait_until

import coordkit
from coordkit import errors
from coordkit.etcd import client as clients
from coordkit.etcd import facade_channel, facade_lock, mapping
from coordkit.testing import LocalEtcd
from coordkit.wire import grpc as wire

QUICK = ("--heartbeat-interval=10", "--election-timeout=100")  # it takes no second to elect itself


@pytest.fixture
def etcd3c(coord, namespace: str) -> Iterator[Any]:
    """The client under test; `at` is the prefix of its keys, emptied afterwards."""
    coord.etcd.at = f"/{namespace}/etcd3/"

    yield coord.etcd

    coord.kv.delete_prefix(f"/{namespace}/etcd3/")


@pytest.fixture
def server(etcd_binary: str) -> Iterator[LocalEtcd]:
    """A server that a test may hurt; empty."""
    with LocalEtcd(etcd_binary, arguments=QUICK) as server:
        yield server


@pytest.fixture
def private(server: LocalEtcd) -> Iterator[Any]:
    """A client on that server."""
    with coordkit.connect(server.url) as coordinator:
        yield coordinator.etcd


def aside(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run it on a thread of its own, whose result or exception is put into the list."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


class TestReads:
    @pytest.fixture
    def filled(self, etcd3c) -> Any:
        """Keys a, b and c, then a again; `revisions` are those of the four writes."""
        names = "abca"
        etcd3c.revisions = [etcd3c.put(etcd3c.at + name, name).header.revision for name in names]
        return etcd3c

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            ({"limit": 2}, b"ab"),
            ({"limit": 0}, b"abc"),
            ({"limit": 1, "sort_order": "descend"}, b"c"),
            ({"revision": 1}, b"ab"),
            ({"min_mod_revision": 2}, b"ac"),
            ({"max_mod_revision": 2}, b"bc"),
            ({"min_create_revision": 1}, b"bc"),
            ({"max_create_revision": 1}, b"ab"),
        ],
    )
    def test_no_argument_is_dropped(self, filled, options, found):
        """
        Limits, revisions and bounds of a read are sent; etcd3 drops them.
        """
        options = {
            name: filled.revisions[value] if "revision" in name else value for name, value in options.items()
        }

        prefix = list(filled.get_prefix(filled.at, **options))
        ranged = list(filled.get_range(filled.at, filled.at + "z", **options))

        assert b"".join(meta.key[-1:] for _, meta in prefix) == found
        assert b"".join(meta.key[-1:] for _, meta in ranged) == found

    def test_a_count(self, filled):
        """
        With count_only the reply has the number of keys, and none of them.
        """
        reply = filled.get_prefix_response(filled.at, count_only=True)

        assert (reply.count, len(reply.kvs)) == (3, 0)


class TestPrefixes:
    @pytest.mark.parametrize("prefix", [b"", b"x\xff", b"x\xff\xff", b"\xff", "x"])
    def test_any_prefix_is_one(self, private, prefix):
        """
        An empty prefix is everything, one that ends in 0xff is no error; for reads, deletes and watches.
        """
        start = prefix.encode() if isinstance(prefix, str) else prefix
        names = [b"\0", b"a", b"x", b"x\xff", b"x\xff\xff", b"x\xff\xff\x01", b"y", b"\xff", b"\xff\xff"]
        matching = [name for name in sorted(names) if name.startswith(start)]
        told: list[bytes] = []
        number = private.add_watch_prefix_callback(
            prefix, lambda response: told.extend(event.key for event in response.events)
        )
        events, cancel = private.watch_prefix(prefix)
        responses, cancel_responses = private.watch_prefix_response(prefix)

        first, *_ = (private.put(name, b"1").header.revision for name in sorted(names))

        assert [meta.key for _, meta in private.get_prefix(prefix)] == matching
        assert [next(events).key for _ in matching] == matching
        assert next(responses).events[0].key == matching[0]
        assert private.watch_prefix_once(prefix, 10, start_revision=first).key == matching[0]
        assert private.watch_prefix_once_response(prefix, 10, start_revision=first).events
        wait_until(lambda: told == matching)
        cancel(), cancel_responses(), private.cancel_watch(number)

        assert private.delete_prefix(prefix).deleted == len(matching)
        assert [meta.key for _, meta in private.get_all()] == sorted(set(names) - set(matching))


class TestTransactions:
    def test_a_branch_may_be_left_out(self, etcd3c):
        """
        A transaction without one of its branches, or both, does nothing there; nested ones too.
        """
        tx, key = etcd3c.transactions, etcd3c.at + "a"
        free = [tx.version(key) == 0]

        assert etcd3c.transaction(free, failure=[tx.put(key, "no")]) == (True, [])
        assert etcd3c.transaction(free, success=[tx.put(key, "yes")])[0] is True
        assert etcd3c.transaction(free) == (False, [])
        assert etcd3c.transaction(free, failure=[tx.txn([], success=[tx.put(key, "nested")])])[0] is False

        assert etcd3c.get(key)[0] == b"nested"


class TestWatches:
    def test_filters(self, etcd3c):
        """
        A watch can leave out puts, or deletes.
        """
        import etcd3

        create = etcd3.etcdrpc.WatchCreateRequest
        deletes, cancel_deletes = etcd3c.watch(etcd3c.at + "a", filters=[create.NOPUT])
        puts, cancel_puts = etcd3c.watch(etcd3c.at + "a", filters=(create.NODELETE,))

        for value in ("1", "2"):
            etcd3c.put(etcd3c.at + "a", value)
            etcd3c.delete(etcd3c.at + "a")

        assert [type(next(deletes)).__name__ for _ in range(2)] == ["DeleteEvent"] * 2
        assert [next(puts).value for _ in range(2)] == [b"1", b"2"]
        cancel_deletes(), cancel_puts()

    def test_once_raises_what_ended_the_watch(self, private):
        """
        Where etcd3 returns the exception, or fails on it, it is raised.
        """
        import etcd3.exceptions

        revision = [private.put("a", str(n)).header.revision for n in range(3)][-1]
        private.compact(revision)

        for once in (private.watch_once, private.watch_once_response):
            with pytest.raises(etcd3.exceptions.RevisionCompactedError) as raised:
                once("a", timeout=10, start_revision=1)
            assert raised.value.compacted_revision == revision

    def test_progress(self, etcd_binary, eventually):
        """
        A callback that asks for it is told of progress, by responses without events.
        """
        import etcd3.watch

        often = "--experimental-watch-progress-notify-interval=100ms"
        if LocalEtcd(etcd_binary).version < "3.5":
            pytest.skip("before etcd 3.5 progress is told every ten minutes")
        with LocalEtcd(etcd_binary, arguments=[often]) as server, coordkit.connect(server.url) as coordinator:
            told: list[Any] = []
            coordinator.etcd.add_watch_callback("a", told.append, progress_notify=True)
            silent: list[Any] = []
            coordinator.etcd.add_watch_callback("a", silent.append)

            eventually(lambda: len(told) >= 2)

            assert {type(response) for response in told} == {etcd3.watch.WatchResponse}
            assert [response.events for response in told] == [[]] * len(told)
            assert silent == []


class TestCalls:
    def test_a_renewal_is_sent_at_once(self, coord, etcd3c):
        """
        refresh_lease renews even if nobody looks at its result; etcd3's does nothing until then.
        """
        lease = etcd3c.lease(60)
        before = coord.statistics().calls

        replies = etcd3c.refresh_lease(lease.id)

        assert coord.statistics().calls == before + 1
        assert [reply.TTL for reply in replies] == [60]
        lease.revoke()

    def test_hash_and_members_know_the_timeout(self, server, private):
        """
        No call waits longer than the client's timeout, and all of them raise etcd3's exceptions.
        """
        import etcd3.exceptions

        private.timeout = 0.2
        server.pause()

        for call in (private.hash, lambda: list(private.members), private.status):
            with pytest.raises(etcd3.exceptions.ConnectionTimeoutError):
                call()

        server.resume()


class TestChannel:
    """grpc.Channel's calling convention, as stubs of any origin use it."""

    def test_what_grpcio_understands_is_accepted(self, etcd3c):
        """
        Arguments that only grpcio has a use for are taken and ignored; messages pass through any serializers.
        """
        import etcd3

        rpc = etcd3.etcdrpc
        call = etcd3c.channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=lambda key: rpc.RangeRequest(key=key).SerializeToString(),
            response_deserializer=lambda reply: rpc.RangeResponse.FromString(reply).count,
            _registered_method=True,
        )
        raw = etcd3c.channel.unary_unary("/etcdserverpb.KV/Range")

        options = {"metadata": (("a", "b"),), "credentials": None, "wait_for_ready": True}
        assert call(etcd3c.at.encode(), 5, **options) == 0
        assert rpc.RangeResponse.FromString(raw(rpc.RangeRequest(key=b"k").SerializeToString())).count == 0

    def test_errors(self, etcd3c):
        """
        A refusal is an RpcError with the server's code and words, caused by the public error.
        """
        import etcd3
        import grpc

        with pytest.raises(grpc.RpcError) as raised:
            etcd3c.leasestub.LeaseRevoke(etcd3.etcdrpc.LeaseRevokeRequest(ID=12345))

        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        assert raised.value.details() == "etcdserver: requested lease not found"
        assert raised.value.initial_metadata() == raised.value.trailing_metadata() == ()
        assert isinstance(raised.value.__cause__, errors.LeaseNotFound)

    def test_a_server_that_is_quicker(self):
        """
        A server that finds the caller's time up before the caller does says so with code UNKNOWN.
        """
        import grpc

        status = wire.Status(wire.Code.UNKNOWN, "context deadline exceeded", from_server=True)
        failure = wire.CallFailed("/etcdserverpb.KV/Range", status)
        public = mapping.public_error(failure, "range a")
        public.__cause__ = failure

        assert isinstance(public, coordkit.DeadlineExceeded)
        said = facade_channel.call_error(failure.method, public)
        assert said.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    def test_a_stream_both_ways(self, etcd3c):
        """
        Requests are taken from their iterator as it gives them; replies come one by one, then the end.
        """
        import etcd3
        import grpc

        lease = etcd3c.lease(60)
        request = etcd3.etcdrpc.LeaseKeepAliveRequest(ID=lease.id)
        gate = threading.Semaphore(1)

        def requests() -> Iterator[Any]:
            for _ in range(3):
                assert gate.acquire(timeout=10)
                yield request

        replies = etcd3c.leasestub.LeaseKeepAlive(requests())
        seen = []
        for reply in replies:
            seen.append(reply.TTL)
            assert replies.is_active() or len(seen) == 3
            gate.release()

        assert seen == [60] * 3
        assert replies.code() is grpc.StatusCode.OK and not replies.is_active()
        assert list(replies) == []
        lease.revoke()

    def test_a_streams_time(self, etcd3c):
        """
        A stream with a timeout ends when it is up; and says so again when asked again.
        """
        import grpc

        done = threading.Event()
        replies = etcd3c.leasestub.LeaseKeepAlive(iter(lambda: done.wait(60), True), 0.1)

        for _ in range(2):
            with pytest.raises(grpc.RpcError) as raised:
                next(replies)
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        done.set()

    def test_cancel(self, etcd3c):
        """
        Whoever waits for a reply gets CANCELLED when somebody else cancels the stream.
        """
        import grpc

        done = threading.Event()
        replies = etcd3c.leasestub.LeaseKeepAlive(iter(lambda: done.wait(60), True))
        waiting, results = aside(lambda: next(replies))

        replies.cancel()
        waiting.join(10)

        assert results[0].code() is replies.code() is grpc.StatusCode.CANCELLED
        assert replies.details() == "cancelled by this program"
        done.set()

    def test_requests_that_fail(self, etcd3c):
        """
        An exception out of the requests' iterator ends the stream, and is the cause of its error.
        """
        import grpc

        def requests() -> Iterator[Any]:
            raise ZeroDivisionError("in the iterator")
            yield

        replies = etcd3c.leasestub.LeaseKeepAlive(requests())

        with pytest.raises(grpc.RpcError) as raised:
            next(replies)

        assert raised.value.code() is grpc.StatusCode.UNKNOWN
        assert isinstance(raised.value.__cause__, ZeroDivisionError)

    def test_a_snapshot_waits_for_its_reader(self, private):
        """
        What nobody has taken stays with the server, and other calls do not wait for it.
        """
        import etcd3

        for number in range(8):
            private.put(f"{number}", bytes([number]) * 1_000_000)
        whole = io.BytesIO()
        private.snapshot(whole)

        pieces = private.maintenancestub.Snapshot(etcd3.etcdrpc.SnapshotRequest())
        wait_until(lambda: len(pieces._arrived) == facade_channel.MOST_WAITING)
        private.put("another", "call")
        assert len(pieces._arrived) == facade_channel.MOST_WAITING < len(whole.getvalue()) / 32768

        size = 0
        for piece in pieces:
            size += len(piece.blob)
            assert len(pieces._arrived) <= facade_channel.MOST_WAITING
        assert size == len(whole.getvalue()) > 8_000_000


class TestLock:
    @pytest.fixture
    def lock(self, etcd3c) -> Iterator[Any]:
        """`lock(name)`: a lock of a session that all of this test share."""
        made: list[Any] = []

        def make(name: str, ttl: float = 10) -> Any:
            made.append(etcd3c.lock(name, ttl))
            return made[-1]

        yield make
        for each in made:
            each.release()

    def test_acquire_and_release(self, etcd3c, lock):
        """
        A key stands for the hold, from an acquire that says True to a release that says True.
        """
        mine = lock("a")

        assert mine.release() is False
        for timeout in (10, None, 0):
            assert mine.acquire(timeout) is True
            assert etcd3c.get(mine.key)[0] is not None
            assert mine.release() is True
            assert etcd3c.get(mine.key) == (None, None)
        assert mine.release() is False

    def test_a_second_acquire(self, lock):
        """
        Its holder does not get it again, within any time.
        """
        mine = lock("a")

        assert mine.acquire() is True
        assert mine.acquire(timeout=0) is False
        assert mine.acquire(timeout=0.1) is False
        assert mine.is_acquired()

    def test_contended(self, lock):
        """
        Who waits gets it as soon as the holder lets go; etcd3's raises TypeError with tenacity of today.
        """
        first, second = lock("a"), lock("a")
        first.acquire()
        waiting, results = aside(lambda: second.acquire(timeout=30))

        assert second.ours.locked() and not second.is_acquired()
        assert lock("a").acquire(timeout=0.05) is False
        first.release()
        waiting.join(20)

        assert results == [True]
        assert second.is_acquired() and not first.is_acquired()

    def test_it_is_our_lock(self, coord, lock):
        """
        coord.lock of the same name is the same lock, and what a lock of ours can do is at hand.
        """
        mine = lock("a/b")
        ours = coord.lock("a/b")

        with mine:
            assert ours.acquire(blocking=False) is False
            assert mine.fence == mine.ours.fence > 0
            assert mine.ours.remaining() > 0

        assert ours.acquire(blocking=False) is True
        ours.release()

    def test_with(self, etcd3c, lock, monkeypatch):
        """
        `with` holds it within the block; it never enters the block without it.
        """
        monkeypatch.setattr(facade_lock, "WITH_S", 0.1)

        with lock("a") as mine:
            assert mine.is_acquired()
            with pytest.raises(coordkit.AcquireTimeout), lock("a"):
                pytest.fail("the block was entered without the lock")
        assert not mine.is_acquired()

    def test_the_ttl(self, etcd3c, lock):
        """
        Locks of one TTL share one lease of that TTL; etcd's least is 2 seconds.
        """
        long, twin, short = lock("a", ttl=30), lock("b", ttl=30), lock("c", ttl=1)
        assert long.lease is None
        for each in (long, twin, short):
            each.acquire()

        assert long.lease.granted_ttl == 30 and short.lease.granted_ttl == 2
        assert long.lease.id == twin.lease.id != short.lease.id

    def test_it_outlives_its_ttl(self, etcd3c, lock):
        """
        While the process lives the lock is held, refreshed or not.
        """
        mine = lock("a", ttl=2)
        mine.acquire()
        unrenewed = etcd3c.lease(2)
        revision = etcd3c.put(etcd3c.at + "unrenewed", "1", lease=unrenewed).header.revision

        etcd3c.watch_once(etcd3c.at + "unrenewed", timeout=30, start_revision=revision + 1)

        assert mine.is_acquired()
        assert etcd3c.get(mine.key)[0] is not None

    def test_refresh(self, lock):
        """
        It renews the lease at once, and is a ValueError for a lock that is not held, as with etcd3.
        """
        mine = lock("a")

        with pytest.raises(ValueError, match="acquired the lock yet"):
            mine.refresh()

        mine.acquire()
        assert [reply.TTL for reply in mine.refresh()] == [10]

    def test_a_loss(self, lock):
        """
        A lock whose lease was revoked is not acquired any more; release says False, `with` raises LockLost.
        """
        mine = lock("a", ttl=20)
        mine.acquire()
        mine.lease.revoke()

        wait_until(lambda: not mine.is_acquired(), what="noticing the loss")
        assert mine.lease is None
        assert mine.release() is False

        with pytest.raises(coordkit.LockLost), mine:
            mine.lease.revoke()
            wait_until(lambda: not mine.is_acquired(), what="noticing the loss")

        assert mine.acquire(timeout=10) is True

    def test_a_silly_name(self, etcd3c):
        """
        A name or TTL that cannot be is a ValueError at once.
        """
        for name, ttl in (("", 10), ("x" * 256, 10), ("a", float("nan"))):
            with pytest.raises(ValueError):
                etcd3c.lock(name, ttl)

    def test_without_a_server(self, server):
        """
        A try that is not answered raises etcd3's exception for that.
        """
        import etcd3.exceptions

        with coordkit.connect(server.url) as coordinator:
            mine = coordinator.etcd.lock("a", ttl=30)
            mine.acquire()
            mine.release()
            coordinator.client.options = attrs.evolve(coordinator.client.options, timeout_s=0.5)
            server.kill()

            with pytest.raises(etcd3.exceptions.ConnectionFailedError):
                mine.acquire(timeout=0)


class TestOutages:
    def test_nobody_answers(self, server, private):
        """
        Calls fail with etcd3's exceptions when their time is up, and work again when the server does.
        """
        import etcd3.exceptions

        private.timeout = private.watcher.timeout = 0.3
        server.kill()

        with pytest.raises(etcd3.exceptions.ConnectionFailedError):
            private.put("a", "1")
        with pytest.raises(etcd3.exceptions.ConnectionFailedError):
            list(private.members)
        with pytest.raises(etcd3.exceptions.ConnectionFailedError):
            private.snapshot(io.BytesIO())
        with pytest.raises(etcd3.exceptions.WatchTimedOut):
            private.watch("a")

        server.start()
        private.timeout = private.watcher.timeout = 10
        private.put("a", "2")
        assert private.get("a")[0] == b"2"

    def test_the_server_is_silent(self, server, private):
        """
        Calls, and the beginning of a watch, end in time; the same client works afterwards.
        """
        import etcd3.exceptions

        private.timeout = private.watcher.timeout = 0.3
        server.pause()

        with pytest.raises(etcd3.exceptions.ConnectionTimeoutError):
            private.get("a")
        with pytest.raises(etcd3.exceptions.ConnectionTimeoutError):
            private.refresh_lease(1)
        with pytest.raises(etcd3.exceptions.WatchTimedOut):
            private.watch("a")

        server.resume()
        private.timeout = private.watcher.timeout = 10
        events, cancel = private.watch("a")
        private.put("a", "1")
        assert next(events).value == b"1"
        cancel()

    def test_a_call_waits_for_the_server(self, server, private):
        """
        What was not sent is sent when the server is back within the call's time.
        """
        import etcd3.exceptions

        server.kill()
        private.timeout = 1
        with pytest.raises(etcd3.exceptions.ConnectionFailedError):
            private.get("a")  # now the end of the connection has been noticed
        private.timeout = 30
        put, results = aside(lambda: private.put("a", "1"))
        lease, renewed = aside(lambda: list(private.refresh_lease(1)))

        server.start()
        put.join(30)
        lease.join(30)

        assert results[0].header.revision > 0
        assert [reply.TTL for reply in renewed[0]] == [0]

    def test_a_watch_survives(self, server, private):
        """
        Iterators and callbacks get every event once, in order, whatever restarts lie between; no error.
        """
        private.timeout = 30
        times = 3
        told: list[Any] = []
        private.add_watch_callback("a", lambda response: told.extend(response.events))
        events, cancel = private.watch("a")
        private.put("a", "before")
        seen = [next(events).value]

        for number in range(times):
            server.kill()
            server.start()
            with coordkit.connect(server.url) as other:
                other.kv.put("a", f"{number}", timeout=30)  # before our stream is back, as likely as not
            private.put("a", f"{number}!")
            seen += [next(events).value, next(events).value]

        expected = [b"before"] + [text for n in range(times) for text in (b"%d" % n, b"%d!" % n)]
        assert seen == expected
        wait_until(lambda: len(told) == len(expected))
        assert [event.value for event in told] == expected
        cancel()

    def test_an_outage_costs_no_cpu(self, server, private, monkeypatch):
        """
        While nobody answers the watches' stream is tried again after pauses that grow; etcd3's spins.
        """
        attempts = []
        stream = clients.Client.stream

        def counted(*arguments: Any) -> Any:
            attempts.append(1)
            return stream(*arguments)

        events, cancel = private.watch("a")
        monkeypatch.setattr(clients.Client, "stream", counted)
        server.kill()
        wait_until(lambda: len(attempts) >= 4)
        server.start()
        private.timeout = 30
        private.put("a", "1")

        assert next(events).value == b"1"
        assert len(attempts) < 100  # a loop without pauses makes thousands
        cancel()

    def test_a_watch_begun_in_an_outage(self, server, private):
        """
        Without a timeout a watch that is begun while nobody answers stands as soon as somebody does.
        """
        private.timeout, private.watcher.timeout = 30, None
        server.kill()
        begin, results = aside(lambda: private.watch("a"))

        server.start()
        begin.join(30)
        events, cancel = results[0]
        private.put("a", "1")

        assert next(events).value == b"1"
        cancel()

    def test_streams_end_with_their_connection(self, server, private):
        """
        A stream of one's own tells that its connection broke; a snapshot that was cut off is an exception.
        """
        import etcd3.exceptions
        import grpc

        for number in range(8):
            private.put(f"{number}", bytes([number]) * 1_000_000)
        done = threading.Event()
        replies = private.leasestub.LeaseKeepAlive(iter(lambda: done.wait(60), True))
        pieces: list[bytes] = []

        class File:
            def write(self, piece: bytes) -> None:
                pieces.append(piece)
                if len(pieces) == 2:
                    server.kill()

        with pytest.raises(etcd3.exceptions.ConnectionFailedError):
            private.snapshot(File())
        with pytest.raises(grpc.RpcError) as raised:
            next(replies)

        assert len(pieces) >= 2
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        done.set()


class TestWithoutALeader:
    """A member whose cluster has lost its majority."""

    @pytest.fixture
    def minority(self, private) -> Any:
        import etcd3

        for name in ("a", "b", "c"):
            private.put(name, "1")
        private.add_member(["http://127.0.0.1:1"])  # one of two now, and the other one never starts
        request = etcd3.etcdrpc.StatusRequest()
        wait_until(lambda: private.maintenancestub.Status(request).leader == 0, what="losing the leader")
        private.timeout = private.watcher.timeout = 0.3
        return private

    def test_serializable_reads(self, minority):
        """
        What this member knows can still be read, if that is what one asks for.
        """
        import etcd3.exceptions

        assert minority.get("a", serializable=True)[0] == b"1"
        found = minority.get_prefix("", keys_only=True, serializable=True)
        assert [meta.key for _, meta in found] == [b"a", b"b", b"c"]

        with pytest.raises((etcd3.exceptions.ConnectionFailedError, etcd3.exceptions.ConnectionTimeoutError)):
            minority.get("a")

    def test_a_snapshot(self, minority):
        """
        The data of a lost cluster can be saved.
        """
        saved = io.BytesIO()

        minority.snapshot(saved)

        assert len(saved.getvalue()) >= 20_000

    def test_a_watch(self, minority):
        """
        A watch does not stand on a member that would hear of nothing.
        """
        import etcd3.exceptions

        with pytest.raises(etcd3.exceptions.WatchTimedOut):
            minority.watch("a")


class TestClose:
    def test_one_client_per_coordinator(self, etcd):
        """
        Every use gives the same client, also to threads that come at once.
        """
        with coordkit.connect(etcd.url) as coordinator:
            threads = [aside(lambda: coordinator.etcd) for _ in range(8)]
            for thread, _ in threads:
                thread.join(20)

            assert {id(found) for _, (found,) in threads} == {id(coordinator.etcd)}

    def test_closing_the_client(self, etcd):
        """
        Its watches and streams end, calls on it raise Closed; the coordinator works, and makes another.
        """
        import grpc

        with coordkit.connect(etcd.url) as coordinator:
            with coordinator.etcd as client:
                events, _ = client.watch("a")
                waiting, results = aside(lambda: next(events))
                replies = client.leasestub.LeaseKeepAlive(iter([]))
            waiting.join(10)

            assert isinstance(results[0], grpc.RpcError)
            assert results[0].code() is grpc.StatusCode.CANCELLED
            assert list(events) == []
            assert not replies.is_active()
            calls = [
                lambda: client.get("a"),
                lambda: client.watch("a"),
                lambda: client.refresh_lease(1),
                lambda: client.snapshot(io.BytesIO()),
            ]
            for call in calls:
                with pytest.raises(coordkit.Closed):
                    call()

            assert coordinator.etcd is not client
            assert coordinator.etcd.get("never there") == (None, None)

    def test_closing_the_coordinator(self, etcd):
        """
        Whoever waits is told, callbacks too; later calls raise Closed.
        """
        import grpc

        told: list[Any] = []
        coordinator = coordkit.connect(etcd.url)
        client = coordinator.etcd
        client.add_watch_callback("a", told.append)
        events, _ = client.watch("a")
        waiting, results = aside(lambda: next(events))
        once, errors_of_once = aside(lambda: client.watch_once("a"))
        wait_until(lambda: len(client.watcher._listeners) == 3)

        coordinator.close()
        waiting.join(10)
        once.join(10)

        assert [error.code() for error in (*results, *errors_of_once)] == [grpc.StatusCode.CANCELLED] * 2
        wait_until(lambda: told)
        assert [error.code() for error in told] == [grpc.StatusCode.CANCELLED]
        for call in (lambda: client.get("a"), lambda: client.watch("a"), lambda: coordinator.etcd):
            with pytest.raises(coordkit.Closed):
                call()

    @pytest.mark.parametrize("whole", [False, True], ids=["client", "coordinator"])
    @pytest.mark.parametrize("moment", ["noted", "begun", "standing"])
    def test_a_watch_that_is_being_begun(self, etcd, monkeypatch, moment, whole):
        """
        As any that waits it is told CANCELLED, however far it has come; nothing of it stays.
        """
        import grpc

        coordinator = coordkit.connect(etcd.url)
        client = coordinator.etcd
        watcher = client.watcher
        close = coordinator.close if whole else client.close
        begin, await_ = watcher._shared.begin, watcher._await

        def begin_and_close(request: Any, listener: Any) -> Any:
            if moment == "noted":
                close()
            begun = begin(request, listener)
            if moment == "begun":
                close()
            return begun

        def await_and_close(listener: Any) -> None:
            await_(listener)
            if moment == "standing":
                close()

        monkeypatch.setattr(watcher._shared, "begin", begin_and_close)
        monkeypatch.setattr(watcher, "_await", await_and_close)

        with pytest.raises(grpc.RpcError) as told:
            client.watch("a")

        assert told.value.code() is grpc.StatusCode.CANCELLED
        assert not (watcher._listeners or watcher._shared._queue or watcher._shared._live)
        with pytest.raises(coordkit.Closed):
            client.watch("a")
        coordinator.close()

    def test_no_thread_stays(self, private):
        """
        After the end none of the threads is left that streams and callbacks ran on.
        """
        import etcd3

        def ours() -> set[threading.Thread]:
            return {thread for thread in threading.enumerate() if thread.name.startswith("coordkit")}

        before = ours()
        for number in range(4):
            private.put(f"{number}", bytes(1_000_000))
        private.add_watch_callback("a", lambda response: None)
        private.put("a", "1")
        pieces = private.maintenancestub.Snapshot(etcd3.etcdrpc.SnapshotRequest())
        wait_until(lambda: len(pieces._arrived) == facade_channel.MOST_WAITING)
        assert ours() - before

        private.close()

        # The connection's own reader stays: it is the coordinator's.
        wait_until(lambda: all("127.0.0.1" in thread.name for thread in ours() - before))
        wait_until(lambda: len(ours() - before) <= 1)
