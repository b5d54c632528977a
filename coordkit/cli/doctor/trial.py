"""Tries what coordkit does with a namespace: a lease, a watch, writes and reads under `doctor/`; cleans up.

Cost: some 8 commits, and a second to see how the time of a lease runs.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

from coordkit import errors, keys
from coordkit.cli.doctor import health, refusals
from coordkit.deadline import Deadline, boottime
from coordkit.etcd import client as clients
from coordkit.etcd import lease as leases
from coordkit.etcd import pulse, watch
from coordkit.wire import messages

TIME_TO_LIVE = "/etcdserverpb.Lease/LeaseTimeToLive"

CLEANING_S = 2.0
POLL_S = 0.004
TICK_S = 1.0  # etcd tells a lease's time in whole seconds


class _Listener:
    """Keeps what a watch tells."""

    def __init__(self) -> None:
        self.stands = threading.Event()
        self.told = threading.Event()
        self.error: errors.CoordError | None = None
        self.compacted = 0

    def on_created(self, revision: int) -> None:
        self.stands.set()

    def on_events(self, events: list[watch.Event]) -> None:
        self.told.set()

    def on_gap(self, compacted: int) -> None:
        self.compacted = compacted
        self.told.set()

    def on_refused(self, error: errors.CoordError) -> None:
        self.error = error
        self.stands.set()
        self.told.set()

    def expect(self, event: threading.Event, what: str, timeout_s: float) -> None:
        if not event.wait(timeout_s):
            raise errors.DeadlineExceeded(f"{what}: nothing came in {timeout_s:g} s")
        if self.error is not None:
            raise self.error


class Trial:
    """One namespace, one key of our own in it, which is gone in the end.

    Attributes:
        rights: What was tried, in order.
        left: Why something of ours may be left behind, until its lease ends; empty when nothing is.
    """

    def __init__(self, client: clients.Client, namespace: str, ttl_s: int) -> None:
        self.rights: list[refusals.Right] = []
        self.left = ""
        self._client = client
        self._timeout_s = client.options.timeout_s
        self._key = keys.prefix(namespace, "doctor") + secrets.token_hex(8).encode()
        self._ttl_s = ttl_s
        self._watcher = watch.Watcher(client)
        self._lease_id = 0
        self._out = False  # etcd stopped answering: each further step would wait in vain

    def run(self) -> None:
        """Try everything; clean up, whatever happens."""
        listener = _Listener()
        try:
            granted = self._try("lease", "", self._grant)
            watches = self._try("watch", "read", lambda: self._watch(listener))
            # Never without a lease: it removes the key if nothing else can.
            wrote = granted and self._try("write", "write", self._write)
            if watches and wrote:
                self._try("event", "read", lambda: listener.expect(listener.told, "event", self._timeout_s))
            self._try("read", "read", lambda: self._client.kv.get(self._key))
            self._try("delete", "write", lambda: self._client.kv.delete(self._key))
        finally:
            self._watcher.close()
            self._clean_up()

    def _try(self, name: str, needs: str, step: Callable[[], object]) -> bool:
        if self._out:
            return False
        began = time.monotonic()
        error: errors.CoordError | None = None
        try:
            step()
        except errors.CoordError as caught:
            error = caught
            self._out = isinstance(caught, errors.OUTAGE)
        self.rights.append(refusals.Right(name, needs, (time.monotonic() - began) * 1000, error))
        return error is None

    def _grant(self) -> None:
        self._lease_id, _ = leases.grant(self._client, self._ttl_s, self._client.deadline(None))

    def _watch(self, listener: _Listener) -> None:
        self._watcher.watch(self._key, listener)
        listener.expect(listener.stands, "watch", self._timeout_s)

    def _write(self) -> None:
        self._client.kv.put(self._key, b"coordkit doctor", lease=self._lease_id)

    def _clean_up(self) -> None:
        """The lease takes the key along, were it still there."""
        try:
            if self._lease_id:
                leases.revoke(self._client, self._lease_id, Deadline.after(CLEANING_S))
        except errors.CoordError:
            self.left = f"the lease {self._lease_id:x} could not be revoked; etcd ends it by itself"

    def history(self) -> int | None:
        """The revision up to which history was compacted; 0: nothing was; None: it cannot be known."""
        if self._out:
            return None
        request = messages.RangeRequest(key=self._key, revision=1)
        try:
            self._client.read(request, self._client.deadline(None))
            return 0
        except errors.Gap:
            return self._compacted()
        except errors.CoordError:
            return None

    def _compacted(self) -> int | None:
        """A watch that begins with the first revision is told where history begins."""
        listener = _Listener()
        watcher = watch.Watcher(self._client)
        try:
            watcher.watch(self._key, listener, start_revision=1)
            listener.expect(listener.told, "watch", self._timeout_s)
        except errors.CoordError:
            return None
        finally:
            watcher.close()
        return listener.compacted


def examine_clock(client: clients.Client, ttl_s: int) -> health.LeaseClock:
    """Grant a lease and look how its time runs, until etcd's whole seconds have shown the fraction.

    Raises:
        CoordError: There is no lease to be had.
    """
    sent_s = boottime()
    lease_id, granted_s = leases.grant(client, ttl_s, client.deadline(None))
    answered_s = boottime()
    try:
        edge = _edge(client, lease_id, answered_s)
    finally:
        try:
            leases.revoke(client, lease_id, Deadline.after(CLEANING_S))
        except errors.OUTAGE:
            pass  # it ends by itself
    deadline_s = pulse.deadline_of(0.0, granted_s)
    if edge is None:
        return health.LeaseClock(ttl_s, granted_s, deadline_s, None)
    earliest_s, latest_s, left_s = edge
    edge_s = (earliest_s + latest_s) / 2
    elapsed_s = edge_s - (sent_s + answered_s) / 2
    return health.LeaseClock(
        ttl_s,
        granted_s,
        deadline_s,
        end_s=edge_s + left_s - sent_s,
        drift=(granted_s - left_s) / elapsed_s - 1,
        blur_s=(latest_s - earliest_s) / 2,
        precision=(latest_s - earliest_s + answered_s - sent_s) / 2 / elapsed_s,
    )


def _edge(client: clients.Client, lease_id: int, answered_s: float) -> tuple[float, float, int] | None:
    """Between which two moments exactly so many whole seconds were left: (earliest, latest, seconds)."""
    limit = client.deadline(3 * TICK_S)
    first = _left(client, lease_id, limit)
    earliest_s = boottime()
    while not limit.expired and first >= 0:
        # Nothing falls before a second has passed; then look closely.
        pause_s = max(POLL_S, answered_s + 0.9 * TICK_S - boottime())
        time.sleep(min(pause_s, limit.remaining()))
        asked_s = boottime()
        left = _left(client, lease_id, limit)
        if left < first:
            return (earliest_s, boottime(), left + 1) if left >= 0 else None
        earliest_s = asked_s
    return None


def _left(client: clients.Client, lease_id: int, limit: Deadline) -> int:
    request = messages.LeaseTimeToLiveRequest(ID=lease_id)
    reply = client.unary(TIME_TO_LIVE, request, messages.LeaseTimeToLiveResponse, limit, repeatable=True)
    return reply.TTL
