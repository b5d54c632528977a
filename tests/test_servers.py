"""What docs/servers.md says of a server is tried on the one that runs: `COORDKIT_ETCD=/path/to/etcd`."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator

import pytest
from contract import accounts

import coordkit
from coordkit import errors, kv
from coordkit.deadline import Deadline
from coordkit.etcd import watch
from coordkit.testing import EtcdCluster, FaultProxy, LocalEtcd, compact, etcd_program, pause
from coordkit.wire import address, channel, grpc

#: Which of them has the trouble; of other versions nothing is written.
LOSES_A_DELETION = {"3.4.23": True, "3.5.1": True, "3.5.16": False, "3.5.30": False}
REFUSES_TO_DELETE = {"3.4.23": False, "3.5.1": True, "3.5.16": False, "3.5.30": False}
REFUSES_WHAT_IT_MAKES = {"3.4.23": True, "3.5.1": True, "3.5.16": True, "3.5.30": True}
DENIES_OVER_A_TOKEN = {"3.4.23": False, "3.5.1": True, "3.5.16": False, "3.5.30": False}
ENDS_RENEWED_LEASES = {"3.4.23": True, "3.5.1": True, "3.5.16": True, "3.5.30": True}
ENDS_OVER_A_READ = {"3.4.23": False, "3.5.1": True, "3.5.16": False, "3.5.30": False}

SMALL = ("--quota-backend-bytes=4194304",)
LARGE = b"x" * 100_000
TOKEN_S = 1  # a token lives so long when nobody uses it, and is looked at once a second
PAUSES = 10
ENDED_S = 1.0  # within which a server that ends is gone


def written(of: dict[str, bool], binary: str) -> bool:
    """What the page says of this server."""
    version = etcd_program.version_of(binary)
    if version not in of:
        pytest.skip(f"the page says nothing of etcd {version}")
    return of[version]


@pytest.fixture
def full(etcd_binary: str) -> Iterator[coordkit.Coordinator]:
    """A server whose quota is really exceeded, not one with an alarm alone."""
    with LocalEtcd(etcd_binary, arguments=SMALL) as server, coordkit.connect(server.url) as coord:
        with pytest.raises(errors.QuotaExceeded):
            for number in range(200):
                coord.kv.put(f"/large/{number}", LARGE)
        yield coord


class Heard:
    """What a watch tells."""

    def __init__(self) -> None:
        self.events: list[watch.Event] = []
        self.missed = False
        self.stands = threading.Event()

    def on_created(self, revision: int) -> None:
        self.stands.set()

    def on_events(self, events: list[watch.Event]) -> None:
        self.events += events

    def on_gap(self, compacted: int) -> None:
        self.missed = True

    def on_refused(self, error: errors.CoordError) -> None:
        raise AssertionError(error)


def test_a_watch_that_begins_at_the_compacted_revision(etcd_binary: str, eventually) -> None:
    """
    A deletion at that very revision is told, or lost without a word.
    """
    loses = written(LOSES_A_DELETION, etcd_binary)
    with LocalEtcd(etcd_binary) as server, coordkit.connect(server.url) as coord:
        coord.kv.put("/gone", b"")
        coord.kv.delete("/gone")
        deleted = coord.kv.put("/other", b"") - 1
        compact(coord, deleted)
        heard = Heard()
        coord.session.link.watcher.watch(b"/gone", heard, start_revision=deleted)
        coord.kv.put("/gone", b"again")

        eventually(lambda: heard.events and not heard.events[-1].deleted)

    assert [each.deleted for each in heard.events] == ([False] if loses else [True, False])


def test_a_watch_of_ours_that_resumes_there_misses_nothing(etcd_binary: str, eventually) -> None:
    """
    Whatever the server: it is told of the deletion, or that history is gone.
    """
    with (
        LocalEtcd(etcd_binary) as server,
        FaultProxy(server.endpoint) as proxy,
        coordkit.connect(server.url) as near,
        coordkit.connect(proxy.url, ttl=60) as far,
    ):
        heard = Heard()
        far.session.link.watcher.watch(b"/gone", heard)
        assert heard.stands.wait(10)
        near.kv.put("/gone", b"")
        eventually(lambda: heard.events)
        proxy.refuse()
        proxy.reset()
        near.kv.delete("/gone")
        deleted = near.kv.put("/other", b"") - 1
        compact(near, deleted)
        proxy.heal()
        eventually(lambda: heard.missed or len(heard.events) > 1, within_s=30)


def test_out_of_space_a_transaction_that_only_deletes(full: coordkit.Coordinator, etcd_binary: str) -> None:
    """
    A plain delete passes always.
    """
    refuses = written(REFUSES_TO_DELETE, etcd_binary)
    delete = full.kv.txn().when(kv.create("/large/0") > 0).then(kv.delete("/large/0"))

    if refuses:
        with pytest.raises(errors.QuotaExceeded):
            delete.commit()
    else:
        assert delete.commit().succeeded
    assert full.kv.delete("/large/1")


def test_a_write_that_is_refused_as_out_of_space_may_have_been_made(etcd_binary: str) -> None:
    """
    Of those that are on their way as the quota is reached.
    """
    assert written(REFUSES_WHAT_IT_MAKES, etcd_binary)
    made: list[str] = []
    for _ in range(5):
        with LocalEtcd(etcd_binary, arguments=SMALL) as server, coordkit.connect(server.url) as coord:
            refused = put_until_refused(coord)
            made += [key for key in refused if coord.kv.get(key) is not None]
        if made:
            break

    assert made


def put_until_refused(coord: coordkit.Coordinator) -> list[str]:
    """Several put at a time, until each is refused; the keys that were."""
    refused: list[str] = []

    def put(who: int) -> None:
        for number in itertools.count():
            key = f"/{who}/{number}"
            try:
                coord.kv.put(key, LARGE)
            except errors.QuotaExceeded:
                refused.append(key)
                return
            except errors.OUTAGE:
                continue  # nobody knows

    crew = [threading.Thread(target=put, args=(who,)) for who in range(16)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return refused


def test_a_watch_on_a_stream_whose_token_went_stale(etcd_binary: str, monkeypatch) -> None:
    """
    It is told what is wrong, or that it may not; it stands after that.
    """
    denies = written(DENIES_OVER_A_TOKEN, etcd_binary)
    reasons: list[str] = []
    refuse = watch.Watcher._refuse

    def listen(watcher: watch.Watcher, refused: watch.Watch, reason: str) -> None:
        reasons.append(reason)
        refuse(watcher, refused, reason)

    monkeypatch.setattr(watch.Watcher, "_refuse", listen)
    with LocalEtcd(etcd_binary, arguments=(f"--auth-token-ttl={TOKEN_S}",)) as server:
        accounts.enable_accounts(server)
        url = f"etcd://ann:{accounts.SECRET}@{server.endpoint}/ann"
        with coordkit.connect(url, ttl=60) as coord:
            watcher, first, second = coord.session.link.watcher, Heard(), Heard()
            watcher.watch(b"/ann/first", first)
            assert first.stands.wait(10)
            threading.Event().wait(3 * TOKEN_S)
            watcher.watch(b"/ann/second", second)
            assert second.stands.wait(20)

    assert any("permission denied" in each for each in reasons) is denies
    assert reasons


def test_a_read_only_transaction_whose_client_goes_away(etcd_binary: str) -> None:
    """
    It ends the server, or nothing happens.
    """
    ends = written(ENDS_OVER_A_READ, etcd_binary)
    with LocalEtcd(etcd_binary) as server:
        with coordkit.connect(server.url) as coord:
            for part in range(20):
                puts = [kv.put(f"/much/{part}/{number}", b"x" * 1000) for number in range(100)]
                coord.kv.txn().then(*puts).commit()
        reads = kv.txn_request([], [kv.range(b"/much/") for _ in range(30)]).SerializeToString()
        attempts = 0
        while attempts < 60 and server.running:
            attempts += 1
            go_away(server, reads, 0.002 * (1 + attempts % 20))
        threading.Event().wait(ENDED_S)

        assert server.running is not ends


@pytest.mark.soak
def test_a_leader_that_wakes_up_ends_leases_that_its_successor_has_renewed(etcd_binary: str) -> None:
    """
    Sessions whose deadlines lie ahead hear that their keys are gone; how often is printed.
    """
    assert written(ENDS_RENEWED_LEASES, etcd_binary)
    ended: list[int] = []
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(EtcdCluster(3, etcd_binary))
        coords = [stack.enter_context(coordkit.connect(cluster.url, ttl=3)) for _ in range(6)]
        for _ in range(PAUSES):
            sessions = [open_session(each) for each in coords]
            with pause(cluster.leader(60)):
                threading.Event().wait(4)
            cluster.leader(60)
            threading.Event().wait(4)
            ended.append(sum("its session key was deleted" in each.reason for each in sessions))

    print(f"etcd {cluster.version}: of 6 sessions so many ended at each pause: {ended}")
    assert any(ended)


def open_session(coord: coordkit.Coordinator) -> coordkit.Session:
    """One that lives."""
    while True:
        try:
            session = coord.session
            session.check()
        except errors.CoordError:
            threading.Event().wait(0.2)
        else:
            return session


def go_away(server: LocalEtcd, request: bytes, after_s: float) -> None:
    """Ask, and hang up while it is at work."""
    try:
        connection = channel.Channel.connect(address.Address.parse(server.endpoint), Deadline.after(3))
    except grpc.CallFailed:
        return  # it has ended
    try:
        connection.call("/etcdserverpb.KV/Txn", request, Deadline.after(after_s))
    except grpc.CallFailed:
        pass
    finally:
        connection.close()
