"""The client on a real etcd: raw keys, transactions, refusals, outages, endpoints, authentication."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract.accounts import SECRET, ask, enable_accounts
from contract.players import Call, wait_until

import coordkit
from coordkit import errors, settings
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import dialler as diallers
from coordkit.etcd import endpoints, kv, watch
from coordkit.testing import EtcdCluster, LocalEtcd, compact, loopback
from coordkit.wire import grpc, messages

QUICK = ("--heartbeat-interval=10", "--election-timeout=100", "--bcrypt-cost=4")


@pytest.fixture
def server(etcd_binary: str) -> Iterator[LocalEtcd]:
    """A server that a test may hurt."""
    with LocalEtcd(etcd_binary, arguments=QUICK) as server:
        yield server


@pytest.fixture
def prefix(namespace: str, coord: coordkit.Coordinator) -> Iterator[str]:
    """Under which this test writes; cleared when it ends."""
    yield f"/{namespace}/"
    coord.kv.delete_prefix(f"/{namespace}/")


class TestKeys:
    @pytest.mark.parametrize("key", ["plain", "with space", "\u20ac", b"\x00\xff\x00"])
    @pytest.mark.parametrize("stored", ["text", "\u20ac", "", b"", b"\x00\xff", b"x" * 100_000])
    def test_what_is_put_is_got(self, coord, prefix, key, stored):
        """
        Text is stored as UTF-8, bytes as they are.
        """
        key = prefix.encode() + key if isinstance(key, bytes) else prefix + key

        revision = coord.kv.put(key, stored)

        found = coord.kv.get(key)
        assert found == kv.KeyValue(
            key=key if isinstance(key, bytes) else key.encode(),
            value=stored if isinstance(stored, bytes) else stored.encode(),
            create_revision=revision,
            mod_revision=revision,
            version=1,
            lease=0,
        )

    def test_a_key_that_is_not_there(self, coord, prefix):
        """
        None is got, False is deleted, nothing is in its range.
        """
        assert coord.kv.get(prefix + "a") is None
        assert coord.kv.delete(prefix + "a") is False
        assert coord.kv.delete_prefix(prefix) == 0
        assert coord.kv.range(prefix) == []

    def test_a_range_is_a_prefix(self, coord, prefix):
        """
        Keys that start with it, in their order; not its neighbours.
        """
        for name in ("a", "a0", "a/1", "a/2", "a/10", "b"):
            coord.kv.put(prefix + name, "")

        assert [each.key for each in coord.kv.range(prefix + "a/")] == [
            (prefix + name).encode() for name in ("a/1", "a/10", "a/2")
        ]
        assert coord.kv.delete_prefix(prefix + "a/") == 3
        assert len(coord.kv.range(prefix)) == 3

    @pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
    def test_a_range_of_any_size_is_read_whole(self, coord, prefix, count):
        """
        Page by page, each key once.
        """
        names = [f"{prefix}{number:05}" for number in range(count)]
        for start in range(0, count, 100):
            coord.kv.txn().then(*(kv.put(name.encode(), b"") for name in names[start : start + 100])).commit()

        assert [each.key.decode() for each in coord.kv.range(prefix)] == names

    def test_a_range_is_as_it_was_at_one_revision(self, coord, prefix, monkeypatch):
        """
        What is written between two pages is not seen, what is deleted is.
        """
        monkeypatch.setattr(kv, "DEFAULT_PAGE", 10)
        for number in range(30):
            coord.kv.put(f"{prefix}{number:03}", "old")
        read, pages = coord.client.read, []

        def meddling(request: Any, deadline: Deadline) -> Any:
            reply = read(request, deadline)
            pages.append(reply)
            if len(pages) == 1:
                coord.kv.put(f"{prefix}015", "new")
                coord.kv.put(f"{prefix}0155", "new")
                coord.kv.delete(f"{prefix}025")
            return reply

        monkeypatch.setattr(coord.client, "read", meddling)

        found = coord.kv.range(prefix)

        assert len(pages) == 3
        assert [each.key.decode() for each in found] == [f"{prefix}{number:03}" for number in range(30)]
        assert {each.value for each in found} == {b"old"}

    def test_a_key_hangs_on_a_lease(self, coord, prefix):
        """
        `lease=` names a session's; when it ends, so does the key.
        """
        session = coord.new_session()
        coord.kv.put(prefix + "a", "1", lease=session.lease_id)

        session.close()

        assert coord.kv.get(prefix + "a") is None

    @pytest.mark.parametrize("use", ["put", "get", "delete", "delete_prefix"])
    def test_an_empty_key_is_refused(self, coord, use):
        """
        Nobody deletes everything by mistake.
        """
        arguments = ("", "") if use == "put" else ("",)

        with pytest.raises(errors.InvalidName):
            getattr(coord.kv, use)(*arguments)

    @pytest.mark.parametrize("value", [None, 5, 1.0, ["a"], object()])
    def test_what_is_neither_bytes_nor_text_is_refused(self, coord, prefix, value):
        """
        The caller's mistake, told in his own terms.
        """
        for use in (lambda: coord.kv.put(prefix, value), lambda: coord.kv.get(value), lambda: kv.get(value)):
            with pytest.raises(errors.InvalidValue, match="bytes or str"):
                use()


class TestTransactions:
    @pytest.fixture
    def key(self, coord, prefix) -> bytes:
        """A key with version 2 and value "m"; `created` and `changed` are its revisions."""
        key = (prefix + "k").encode()
        coord.kv.put(key, "l")
        coord.kv.put(key, "m")
        return key

    @pytest.mark.parametrize(
        ("target", "below", "equal", "above"),
        [("create", -1, 0, 1), ("mod", -1, 0, 1), ("version", 1, 2, 3), ("value", b"l", b"m", b"n")],
    )
    def test_all_comparisons(self, coord, key, target, below, equal, above):
        """
        Each number of a key, and its value, with each sign.
        """
        stored = coord.kv.get(key)
        offset = {"create": stored.create_revision, "mod": stored.mod_revision}.get(target, 0)
        if offset:
            below, equal, above = below + offset, equal + offset, above + offset
        of = getattr(kv, target)

        def holds(condition: kv.Compare) -> bool:
            return coord.kv.txn().when(condition).commit().succeeded

        assert [holds(of(key) == each) for each in (below, equal, above)] == [False, True, False]
        assert [holds(of(key) != each) for each in (below, equal, above)] == [True, False, True]
        assert [holds(of(key) > each) for each in (below, equal, above)] == [True, False, False]
        assert [holds(of(key) < each) for each in (below, equal, above)] == [False, False, True]

    def test_a_missing_key_has_zeros(self, coord, prefix):
        """
        Create revision, mod revision and version are 0; its value compares to nothing.
        """
        key = (prefix + "none").encode()
        zeros = [kv.create(key) == 0, kv.mod(key) == 0, kv.version(key) == 0]

        assert coord.kv.txn().when(*zeros).commit().succeeded
        assert not coord.kv.txn().when(kv.value(key) == b"").commit().succeeded

    def test_a_comparison_of_a_range_holds_for_all_in_it(self, coord, prefix):
        """
        One key that does not fit is enough to fail it; an empty range compares as 0.
        """
        start, end = (prefix + "r").encode(), (prefix + "s").encode()
        first = coord.kv.put(prefix + "r1", "")

        def holds(condition: kv.Compare) -> bool:
            return coord.kv.txn().when(condition).commit().succeeded

        assert holds(kv.create(start, end) == first)
        coord.kv.put(prefix + "r2", "")
        assert not holds(kv.create(start, end) == first)
        coord.kv.delete_prefix(prefix)
        assert holds(kv.create(start, end) == 0)

    def test_results_come_in_the_order_of_the_operations(self, coord, key, prefix):
        """
        Puts, reads, deletions and nested transactions, each with what it found.
        """
        other = (prefix + "o").encode()
        before = coord.kv.get(key)

        result = (
            coord.kv.txn()
            .when(kv.version(key) == 2)
            .then(
                kv.get(key),
                kv.put(other, b"1", prev=True),
                kv.range(prefix.encode(), keys_only=True),
                kv.nested([kv.version(key) == 9], [], [kv.get(key), kv.delete(key, prev=True)]),
            )
            .otherwise(kv.get(b"x"))
            .commit()
        )

        assert result.succeeded
        assert result.found(0).first == before
        assert result.results[1] == kv.PutResult(None)
        assert [each.key for each in result.found(2).kvs] == [key, other]
        inner = result.inner(3)
        assert (inner.succeeded, inner.revision) == (False, result.revision)
        assert inner.found(0).first == before
        assert inner.results[1] == kv.DeleteResult(1, (before,))
        assert coord.kv.get(key) is None
        stored = coord.kv.get(other)
        assert stored is not None and stored.mod_revision == result.revision

    def test_the_other_branch_runs_when_a_condition_fails(self, coord, key):
        """
        All conditions must hold; `otherwise` is what happens if one does not.
        """
        result = (
            coord.kv.txn()
            .when(kv.version(key) == 2, kv.version(key) == 3)
            .then(kv.delete(key))
            .otherwise(kv.put(key, b"n", prev=True))
            .commit()
        )

        assert not result.succeeded
        (replaced,) = result.results
        assert replaced.prev.value == b"m"

    def test_ranges_newest_or_oldest_first(self, coord, prefix):
        """
        By creation, not by name, with a limit, up to a revision; counts alone if wanted.
        """
        names = [b"c", b"a", b"b"]
        revisions = [coord.kv.put(prefix.encode() + name, "") for name in names]
        coord.kv.put(prefix + "c", "changed")
        start = prefix.encode()

        result = (
            coord.kv.txn()
            .then(
                kv.range(start, newest_first=True),
                kv.range(start, oldest_first=True, limit=2),
                kv.range(start, max_create_revision=revisions[1], newest_first=True),
                kv.range(start, count_only=True),
            )
            .commit()
        )

        found = [[each.key.removeprefix(start) for each in result.found(index).kvs] for index in (0, 1, 2, 3)]
        assert found == [[b"b", b"a", b"c"], [b"c", b"a"], [b"a", b"c"], []]
        assert [result.found(index).more for index in (0, 1)] == [False, True]
        assert result.found(3).count == 3

    def test_keys_and_values_may_be_text(self, coord, prefix):
        """
        A str is its UTF-8, in each comparison and operation.
        """
        key = prefix + "\u20ac"
        when = [kv.create(key) == 0, kv.mod(key) == 0, kv.version(key) == 0, kv.value(key) != "x"]

        coord.kv.txn().when(*when[:3]).then(kv.put(key, "\u20ac")).commit()
        result = coord.kv.txn().when(when[3]).then(kv.get(key), kv.range(prefix), kv.delete(key)).commit()

        assert result.found(0).first.value == "\u20ac".encode()
        assert result.results[2] == kv.DeleteResult(1, ())

    def test_what_is_no_condition_is_refused(self, coord):
        """
        A bool, which is what a comparison of two targets looks like, and an operation in the wrong place.
        """
        for fill in (
            lambda: coord.kv.txn().when(True),
            lambda: coord.kv.txn().then(kv.create(b"a") == 0),
            lambda: coord.kv.txn().otherwise(b"a"),
        ):
            with pytest.raises(errors.UsageError, match="expected a"):
                fill()

    def test_nothing_at_all_is_a_transaction(self, coord):
        """
        Without conditions it succeeds, and its revision is the current one.
        """
        assert coord.kv.txn().commit().succeeded

    @pytest.mark.timeout(90)
    def test_conditions_alone_are_not_judged_by_a_member_that_lags(self, etcd_binary):
        """
        etcd answers a transaction without operations from what the member has: here, a key that is gone.
        """
        with EtcdCluster(3, etcd_binary, arguments=QUICK) as cluster:
            leader = cluster.leader()
            lags, *others = sorted(cluster.members, key=lambda each: each is leader)
            with (
                coordkit.connect(f"etcd://{lags.endpoint}/x") as coord,
                coordkit.connect([each.endpoint for each in others], namespace="x") as elsewhere,
            ):
                condition = kv.create("/x/key") == coord.kv.put("/x/key", "")
                assert coord.kv.txn().when(condition).commit().succeeded
                lags.pause()
                elsewhere.kv.delete("/x/key", timeout=20)
                for other in others:
                    other.pause()
                lags.resume()

                with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)) as caught:
                    coord.kv.txn().when(condition).commit(timeout=1)

                assert caught.value.outcome is errors.Outcome.NONE
                for other in others:
                    other.resume()
                assert not coord.kv.txn().when(condition).commit(timeout=20).succeeded


class TestLooks:
    def test_several_reads_see_one_revision(self, coord, prefix, monkeypatch):
        """
        What is written between the first and the second is in neither.
        """
        coord.kv.put(f"{prefix}a", b"1")
        real = coord.client.read

        def read(request: messages.RangeRequest, deadline: Deadline) -> messages.RangeResponse:
            reply = real(request, deadline)
            coord.kv.put(f"{prefix}b", b"later")
            return reply

        monkeypatch.setattr(coord.client, "read", read)
        ops = [kv.range(prefix), kv.range(prefix, count_only=True), kv.get(f"{prefix}b")]

        found = coord.client.look(ops, Deadline.after(5))

        assert [each.key for each in found.found(0).kvs] == [f"{prefix}a".encode()]
        assert found.found(1).count == 1
        assert found.found(2).first is None
        assert found.revision == found.found(0).kvs[0].mod_revision

    def test_a_compaction_between_them_begins_them_anew(self, server, monkeypatch):
        """
        The first one's revision is gone before the second is asked for.
        """
        with coordkit.connect(server.url) as coord:
            coord.kv.put("/a", b"1")
            real, reads = coord.client.read, []

            def read(request: messages.RangeRequest, deadline: Deadline) -> messages.RangeResponse:
                reply = real(request, deadline)
                reads.append(request.revision)
                if len(reads) == 1:
                    coord.kv.put("/a", b"2")
                    compact(coord)
                return reply

            monkeypatch.setattr(coord.client, "read", read)

            found = coord.client.look([kv.get("/a"), kv.get("/a")], Deadline.after(5))

            assert [found.found(index).first.value for index in range(2)] == [b"2", b"2"]
            assert reads == [0, 0, found.revision]


class TestRefusals:
    """What etcd answers and refuses.  No message shows a value."""

    @staticmethod
    def refused(kind: type[errors.CoordError], call: Callable[[], Any], *, words: str) -> None:
        with pytest.raises(kind, match=words) as refusal:
            call()
        assert type(refusal.value) is kind
        assert SECRET not in f"{refusal.value!s} {refusal.value!r} {refusal.value.__cause__!r}"

    @pytest.mark.parametrize("size", [1_600_000, 2 * 2**20, 5 * 2**20])
    def test_too_large_a_value(self, coord, prefix, size):
        """
        etcd takes 1.5 MiB; its transport 2 MiB: both say TooLarge, and name the key, the size and the limit.
        """
        value = (SECRET * (size // len(SECRET) + 1)).encode()

        words = rf"put {prefix}big: .* larger?\b.* has {str(size)[:4]}\d+ bytes, and etcd takes 1572864"
        self.refused(errors.TooLarge, lambda: coord.kv.put(prefix + "big", value), words=words)

        coord.kv.put(prefix + "big", b"x" * 1_500_000)

    def test_too_many_operations(self, coord, prefix):
        """
        128 in one transaction are the most.
        """
        ops = [kv.put(f"{prefix}{number}".encode(), SECRET.encode()) for number in range(129)]

        coord.kv.txn().then(*ops[:128]).commit()
        words = "too many operations in txn request; etcd takes 128"
        self.refused(errors.TooLarge, coord.kv.txn().then(*ops).commit, words=words)

    def test_the_same_key_put_twice(self, coord, prefix):
        """
        One transaction puts a key once.
        """
        twice = [kv.put(prefix.encode(), SECRET.encode()) for _ in range(2)]

        self.refused(errors.Rejected, coord.kv.txn().then(*twice).commit, words="duplicate key")

    def test_an_unknown_lease(self, coord, prefix):
        """
        A key cannot hang on a lease that has ended.
        """
        session = coord.new_session()
        session.close()

        self.refused(
            errors.LeaseNotFound,
            lambda: coord.kv.put(prefix + "a", SECRET, lease=session.lease_id),
            words=f"put {prefix}a: .*lease not found",
        )

    def test_a_revision_that_was_compacted(self, server):
        """
        History that is gone is a Gap; history that is yet to come is a mistake.
        """
        with coordkit.connect(server.url) as coord:
            for number in range(5):
                last = coord.kv.put("a", f"{SECRET}{number}")
            compaction = messages.CompactionRequest(revision=last, physical=True)
            coord.client.unary(
                "/etcdserverpb.KV/Compact", compaction, messages.CompactionResponse, Deadline.after(5)
            )

            def read(revision: int) -> Callable[[], Any]:
                request = messages.RangeRequest(key=b"a", revision=revision)
                return lambda: coord.client.read(request, Deadline.after(5))

            self.refused(errors.Gap, read(last - 1), words="range a: .*compacted")
            self.refused(errors.Rejected, read(last + 100), words="range a: .*future revision")

    def test_a_full_database(self, etcd_binary):
        """
        Out of space puts are refused, reads and deletions pass.
        """
        with (
            LocalEtcd(etcd_binary, arguments=[*QUICK, "--quota-backend-bytes=16777216"]) as small,
            coordkit.connect(small.url) as coord,
        ):
            filling = (SECRET * 100_000).encode()[:1_000_000]
            coord.kv.put("a", "1")

            def fill() -> None:
                for number in range(40):
                    coord.kv.put(f"fill/{number}", filling)

            self.refused(errors.QuotaExceeded, fill, words="put fill/.*space exceeded")
            assert coord.kv.get("a").value == b"1"
            assert coord.kv.delete("a")


class TestOutages:
    def test_nobody_listens(self):
        """
        Connecting fails within the timeout; the error names each endpoint and its trouble.
        """
        first, second = loopback.free_ports(2)
        url = f"etcd://root:{SECRET}@127.0.0.1:{first},127.0.0.1:{second}"

        call = Call(lambda: coordkit.connect(url, timeout=0.3)).ended()

        assert isinstance(call.error, errors.Unavailable)
        assert call.error.outcome is errors.Outcome.NONE
        for port in (first, second):
            assert re.search(f"127.0.0.1:{port}: [^;]*Connection refused", str(call.error))
        assert SECRET not in f"{call.error} {call.error!r}"

    def test_the_most_telling_trouble_is_told(self, monkeypatch):
        """
        Not that of the last attempt, for which there was too little time.
        """
        attempts = []

        def dial(dialler: diallers.Dialler, limit: Deadline) -> Any:
            attempts.append(limit)
            if len(attempts) == 1:
                raise grpc.no_connection("h:1: it says no")
            threading.Event().wait(limit.wait_s())
            raise grpc.no_connection("h:1: no answer in time")

        monkeypatch.setattr(diallers.Dialler, "dial", dial)

        with pytest.raises(errors.Unavailable, match="it says no"):
            coordkit.connect("etcd://h:1", timeout=0.3)

        assert len(attempts) == 2

    def test_the_last_moment_is_used_too(self):
        """
        The pauses between attempts grow, and shrink again towards the deadline.
        """
        limit, pause_s, attempts = Deadline.after(0.3), 10.0, 0

        with pytest.raises(errors.Unavailable, match="away"):
            while True:
                pause_s = clients.pause(pause_s, limit, errors.Unavailable("away"))
                attempts += 1

        assert attempts > 1
        assert limit.remaining() <= clients.FIRST_PAUSE_S

    def test_a_name_that_nobody_knows(self):
        """
        The error names the host.
        """
        call = Call(lambda: coordkit.connect("etcd://no-such-host.invalid:2379", timeout=0.3)).ended()

        assert isinstance(call.error, errors.Unavailable)
        assert "no-such-host.invalid:2379" in str(call.error)

    def test_somebody_who_says_nothing(self):
        """
        A port that accepts and stays silent costs no more than the timeout.
        """
        with socket.create_server(("127.0.0.1", 0)) as mute:
            where = "127.0.0.1:{1}".format(*mute.getsockname())
            call = Call(lambda: coordkit.connect(where, timeout=0.3)).ended()

        assert isinstance(call.error, errors.Unavailable)
        assert f"{where}: no answer in time" in str(call.error)

    def test_somebody_who_speaks_something_else(self):
        """
        A web server is not etcd, and is told from it.
        """
        with socket.create_server(("127.0.0.1", 0)) as other:
            where = "127.0.0.1:{1}".format(*other.getsockname())
            call = Call(lambda: coordkit.connect(where, timeout=0.3))
            visitor, _ = other.accept()
            with visitor:
                visitor.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                call.ended()

        assert isinstance(call.error, errors.Unavailable)
        assert where in str(call.error)

    def test_one_endpoint_of_two_is_enough(self, etcd):
        """
        Whichever is tried first: a dead one is passed over.
        """
        (dead,) = loopback.free_ports(1)
        for _ in range(4):
            with coordkit.connect([f"127.0.0.1:{dead}", etcd.endpoint], timeout=5) as coord:
                assert coord.kv.get("a") is None

    def test_a_write_that_was_under_way_is_in_doubt(self, server):
        """
        The server dies with the request in its hands: UNKNOWN, and it is not sent again when it is back.
        """
        with coordkit.connect(server.url) as coord:
            server.pause()
            put = Call(lambda: coord.kv.put("a", SECRET))
            txn = Call(coord.kv.txn().then(kv.put(b"a", SECRET.encode())).commit)
            wait_until(lambda: coord.statistics().in_flight >= 2)

            server.kill()
            server.start()

            for call in (put.ended(), txn.ended()):
                assert isinstance(call.error, errors.Unavailable)
                assert call.error.outcome is errors.Outcome.UNKNOWN
                assert "may have been applied" in str(call.error)
                assert SECRET not in f"{call.error} {call.error!r}"
            assert coord.kv.get("a") is None

    def test_a_read_that_was_under_way_is_made_again(self, server):
        """
        The server dies and comes back: the reader has waited, and gets its answer.
        """
        with coordkit.connect(server.url, timeout=20) as coord:
            coord.kv.put("a", "1")
            server.pause()
            get, find = Call(lambda: coord.kv.get("a")), Call(lambda: coord.kv.range("a"))
            wait_until(lambda: coord.statistics().in_flight >= 2)

            server.kill()
            server.start()

            assert get.ended().result.value == b"1"
            assert [each.value for each in find.ended().result] == [b"1"]

    def test_a_write_that_could_not_be_sent_waits_for_the_server(self, server):
        """
        With nobody to send it to it certainly was not applied: it is tried until its time is up.
        """
        with coordkit.connect(server.url, timeout=20) as coord:
            server.kill()
            with pytest.raises(errors.Unavailable):
                coord.kv.get("a", timeout=0.1)  # from here on the connection is known to be gone
            call = Call(lambda: coord.kv.put("a", "1"))
            early = Call(lambda: coord.kv.put("b", "1", timeout=0.3)).ended()

            server.start()

            assert isinstance(call.ended().result, int)
            assert isinstance(early.error, errors.Unavailable)
            assert early.error.outcome is errors.Outcome.NONE

    def test_a_deadline_says_what_may_have_happened(self, server):
        """
        A write that was sent and not answered in time may have been applied; a read never is.
        """
        with coordkit.connect(server.url) as coord:
            server.pause()

            for call, outcome in (
                (lambda: coord.kv.put("a", SECRET, timeout=0.2), errors.Outcome.UNKNOWN),
                (lambda: coord.kv.get("a", timeout=0.2), errors.Outcome.NONE),
            ):
                with pytest.raises(errors.DeadlineExceeded) as refusal:
                    call()
                assert refusal.value.outcome is outcome
                assert isinstance(refusal.value, TimeoutError)
            server.resume()

    @pytest.mark.parametrize("timeout", [-2, float("nan"), "1", True])
    def test_a_silly_timeout_is_refused(self, coord, timeout):
        """
        None, -1, or a number of seconds.
        """
        with pytest.raises(errors.InvalidValue, match="timeout"):
            coord.kv.get("a", timeout=timeout)

    def test_doubt_about_an_early_attempt_stays(self, coord, monkeypatch):
        """
        A repeated request that may have been applied is not called unapplied because its repetition was not.
        """
        outcomes = [errors.Outcome.UNKNOWN, errors.Outcome.NONE, errors.Outcome.NONE]

        def fail(*arguments: Any) -> bytes:
            outcome = outcomes.pop(0) if outcomes else errors.Outcome.NONE
            raise grpc.CallFailed("m", grpc.Status(grpc.Code.UNAVAILABLE, "away", outcome=outcome))

        monkeypatch.setattr(coord.client, "_call", fail)

        with pytest.raises(errors.Unavailable) as refusal:
            coord.client.unary(
                "/etcdserverpb.Lease/LeaseRevoke",
                messages.LeaseRevokeRequest(ID=1),
                messages.LeaseRevokeResponse,
                Deadline.after(0.3),
                repeatable=True,
            )

        assert refusal.value.outcome is errors.Outcome.UNKNOWN
        assert outcomes == []
        monkeypatch.undo()


class TestEndpoints:
    def test_a_dropped_connection_is_dialled_elsewhere(self, etcd, server):
        """
        Two clusters do not belong together: whoever answers for another one is refused, and left.
        """
        with coordkit.connect([etcd.endpoint, server.endpoint]) as coord:
            client = coord.client
            for _ in range(2):
                first = client._channel.address
                coord.kv.get("a")

                client.drop_channel("a test")
                with pytest.raises(errors.Unavailable, match="cluster's id changed"):
                    coord.kv.get("a")

                coord.kv.get("a")
                assert client._channel.address == first

    def test_one_that_is_mute_does_not_use_up_everybodys_turn(self, etcd):
        """
        When the first endpoint took all the time there was, the next attempt begins with the second.
        """
        with socket.create_server(("127.0.0.1", 0)) as mute:
            where = "127.0.0.1:{1}".format(*mute.getsockname())
            dialler = diallers.Dialler(settings.resolve([where, etcd.endpoint], {}).options)
            dialler._turn = 0

            with pytest.raises(grpc.CallFailed, match=where):
                dialler.dial(Deadline.after(0.2))
            # Less than the least share of an endpoint: it cannot come second.
            channel = dialler.dial(Deadline.after(0.45))

        assert str(channel.address) == etcd.endpoint
        channel.close()

    @pytest.mark.parametrize(
        "refusal", ["etcdserver: no leader", "etcdserver: rpc not supported for learner"]
    )
    def test_a_member_that_does_not_serve_is_left(self, etcd, monkeypatch, refusal):
        """
        One is cut off, the other only learns: the next one is asked.
        """
        with coordkit.connect([etcd.endpoint, etcd.endpoint]) as coord:
            client = coord.client
            first, turn, call = client._channel, client._dialler._turn, client._call
            refusals = [refusal]

            def refuse_once(*arguments: Any) -> bytes:
                if refusals:
                    status = grpc.Status(grpc.Code.UNAVAILABLE, refusals.pop(), from_server=True)
                    raise grpc.CallFailed("m", status)
                return call(*arguments)

            monkeypatch.setattr(client, "_call", refuse_once)

            coord.kv.put("a", "1")

            assert client._channel is not first
            assert client._dialler._turn == turn + 1
            coord.kv.delete("a")
            monkeypatch.undo()

    def test_the_cluster_tells_its_members(self, etcd):
        """
        They are dialled from now on, by the heart too; what was configured stays.
        """
        port = etcd.endpoint.rpartition(":")[2]
        with coordkit.connect(f"localhost:{port}", identity="refreshes") as coord:
            options = coord.client.options
            try:
                assert coord.client.refresh_endpoints() == [etcd.endpoint, f"localhost:{port}"]

                channels = [diallers.Dialler(options).dial(Deadline.after(5)) for _ in range(20)]
                for channel in channels:
                    channel.close()
                assert {str(channel.address) for channel in channels} == {etcd.endpoint, f"localhost:{port}"}
            finally:
                endpoints._LEARNT.pop(options)

    def test_only_members_that_serve_are_dialled(self):
        """
        Not a learner, not one that has not started, nor a URL that makes no sense; with TLS, none without.
        """
        members = [
            messages.Member(name="a", clientURLs=["http://a:1", "https://a:2", "ftp://a:3"]),
            messages.Member(name="learns", clientURLs=["https://b:1"], isLearner=True),
            messages.Member(name="", clientURLs=[]),
        ]
        plain, secure = (settings.resolve([url], {}).options for url in ("http://x:9", "https://x:9"))

        try:
            assert list(map(str, endpoints.learn(plain, members))) == ["a:1", "a:2", "x:9"]
            assert list(map(str, endpoints.learn(secure, members))) == ["a:2", "x:9"]
            assert endpoints.known(secure)[0].tls
        finally:
            endpoints._LEARNT.clear()


@pytest.fixture(scope="module")
def guarded(etcd_binary: str) -> Iterator[LocalEtcd]:
    """A server on which root may all, and ann what lies under /ann/; its tokens do not live long."""
    with LocalEtcd(etcd_binary, arguments=(*QUICK, "--auth-token-ttl=1")) as server:
        enable_accounts(server)
        yield server


class TestAuthentication:
    """With users, roles and tokens that expire."""

    @pytest.fixture
    def ann(self, guarded: LocalEtcd) -> Iterator[coordkit.Coordinator]:
        with coordkit.connect(f"etcd://ann:{SECRET}@{guarded.endpoint}/ann", ttl=2) as coordinator:
            yield coordinator

    @pytest.fixture
    def root(self, guarded: LocalEtcd) -> Iterator[coordkit.Coordinator]:
        with coordkit.connect(guarded.url, user="root", password=SECRET) as coordinator:
            yield coordinator

    @pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("nobody", SECRET), ("ann", "")])
    def test_a_wrong_password_is_wrong_at_once(self, guarded, user, password):
        """
        It is not tried again until the timeout; the message names the user and the server, and no password.
        """
        call = Call(
            lambda: coordkit.connect(guarded.url, user=user, password=password or SECRET[:-1], timeout=60)
        )

        error = call.ended(20).error

        assert isinstance(error, errors.Unauthenticated)
        assert f"user '{user}' at {guarded.endpoint}" in str(error)
        assert SECRET[:-1] not in f"{error} {error!r} {error.__cause__!r}"

    def test_without_credentials_nothing_works(self, guarded):
        """
        Where etcd wants a user, it says so.
        """
        with coordkit.connect(guarded.url) as coord, pytest.raises(errors.Unauthenticated, match="user name"):
            coord.kv.get("a")

    def test_roles_decide(self, ann):
        """
        What one may do works; the rest is PermissionDenied, which names the key.
        """
        ann.kv.put("/ann/a", "1")
        assert ann.kv.get("/ann/a").value == b"1"

        with pytest.raises(errors.PermissionDenied, match="put /other"):
            ann.kv.put("/other", SECRET)
        ann.kv.delete("/ann/a")

    def test_a_watch_on_what_is_forbidden_is_told(self, ann):
        """
        The refusal comes in-band, ends that watch, and leaves the others alone.
        """
        watcher = ann._link.watcher
        forbidden, allowed = Witness(), Witness()
        watcher.watch_prefix(b"/other/", forbidden)
        watcher.watch_prefix(b"/ann/", allowed)

        wait_until(lambda: forbidden.refusals)
        wait_until(lambda: allowed.created)
        (error,) = forbidden.refusals
        assert isinstance(error, errors.PermissionDenied)
        ann.kv.put("/ann/a", "1")
        wait_until(lambda: allowed.events)
        ann.kv.delete("/ann/a")

    def test_a_token_that_went_stale_is_renewed(self, etcd_binary, tmp_path):
        """
        A change of the accounts makes every JSON web token old: calls, watches and renewals go on.
        """
        (tmp_path / "key").write_text("not so secret")
        tokens = f"--auth-token=jwt,sign-method=HS256,priv-key={tmp_path / 'key'},ttl=1h"
        with LocalEtcd(etcd_binary, arguments=(*QUICK, tokens)) as server:
            enable_accounts(server)
            with (
                coordkit.connect(f"etcd://ann:{SECRET}@{server.endpoint}/ann", ttl=2) as ann,
                coordkit.connect(f"etcd://root:{SECRET}@{server.endpoint}") as root,
                ann.lock("a") as lock,
            ):
                before = ann.client.metadata
                ask(root.client, "Auth/RoleAdd", messages.AuthRoleAddRequest(name="another"))

                witness = Witness()
                ann._link.watcher.watch_prefix(b"/ann/", witness)
                wait_until(lambda: witness.created)
                ask(root.client, "Auth/RoleDelete", messages.AuthRoleDeleteRequest(role="another"))
                ann.kv.put("/ann/a", "1")
                wait_until(lambda: witness.events)

                assert ann.client.metadata != before
                first_s = ann.session._pulse.deadline_s
                wait_until(lambda: ann.session._pulse.deadline_s > first_s + 2)
                lock.check()

    def test_a_token_that_expired_is_renewed(self, ann):
        """
        After a while without calls the token is unknown; the next call gets a new one.
        """
        ann.kv.put("/ann/a", "1")
        before = ann.client.metadata

        def expired() -> bool:
            request = messages.RangeRequest(key=b"/ann/a")
            channel = ann.client.channel(Deadline.after(5))
            try:
                channel.call(clients.RANGE, request.SerializeToString(), Deadline.after(5), before)
            except Exception as refusal:
                return "invalid auth token" in str(refusal)
            return False

        pause = threading.Event()
        wait_until(lambda: pause.wait(2.5) or expired(), 30)
        ann.kv.put("/ann/a", "2")

        assert ann.client.metadata != before
        assert ann.kv.delete("/ann/a")

    def test_one_of_many_renews_for_all(self, ann, monkeypatch):
        """
        Fifty callers with an old token ask for one new one.
        """
        client = ann.client
        asked = []
        authenticate = client._dialler.authenticate

        def counted(channel: Any, deadline: Deadline) -> None:
            asked.append(1)
            authenticate(channel, deadline)

        monkeypatch.setattr(client._dialler, "authenticate", counted)
        client._dialler.metadata = (("token", "old"),)

        calls = [Call(lambda: ann.kv.get("/ann/a")) for _ in range(50)]

        assert [call.ended().error for call in calls] == [None] * 50
        assert len(asked) == 1

    def test_a_password_that_was_changed_surfaces(self, guarded, root):
        """
        A renewal that is refused is no reason to go on trying.
        """
        for method, request in (
            ("Auth/UserAdd", messages.AuthUserAddRequest(name="bob", password="first")),
            ("Auth/UserGrantRole", messages.AuthUserGrantRoleRequest(user="bob", role="ann")),
        ):
            ask(root.client, method, request)
        with coordkit.connect(guarded.url, user="bob", password="first", timeout=60) as bob:
            bob.kv.get("/ann/a")

            change = messages.AuthUserChangePasswordRequest(name="bob", password="second")
            ask(root.client, "Auth/UserChangePassword", change)

            assert isinstance(Call(lambda: bob.kv.put("/ann/b", "")).ended(20).error, errors.Unauthenticated)
        ask(root.client, "Auth/UserDelete", messages.AuthUserDeleteRequest(name="bob"))

    def test_a_session_lives_although_tokens_do_not(self, ann):
        """
        The heart has a token of its own, and a new one when it needs one.
        """
        with ann.lock("a") as lock:
            first_s = ann.session._pulse.deadline_s
            wait_until(lambda: ann.session._pulse.deadline_s > first_s + 4)
            lock.check()


class Witness:
    """A listener that remembers everything."""

    def __init__(self) -> None:
        self.created: list[int] = []
        self.events: list[watch.Event] = []
        self.refusals: list[errors.CoordError] = []

    def on_created(self, revision: int) -> None:
        self.created.append(revision)

    def on_events(self, events: list[watch.Event]) -> None:
        self.events.extend(events)

    def on_gap(self, compacted: int) -> None:
        raise AssertionError("there was no compaction")

    def on_refused(self, error: errors.CoordError) -> None:
        self.refusals.append(error)
