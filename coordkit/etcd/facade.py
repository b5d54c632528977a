"""The etcd3 package's client on our connection: its API, our transport, and mends of what it gets wrong.

Imported on the first use of `coord.etcd`: etcd3 brings grpc along, which takes 0.2 s and 10 MB.  What is
mended here, and what is not, is listed in docs/etcd3.md.
"""

from __future__ import annotations

import typing

import etcd3
from etcd3 import utils
from etcd3.client import _handle_errors

from coordkit import keys
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import facade_channel, facade_lock, facade_watch

#: Makes a lock of ours: from a name and a TTL in seconds.
Locks = typing.Callable[[str, float], facade_lock.Ours]

Bytes = bytes | str

P = typing.ParamSpec("P")
R = typing.TypeVar("R")

#: What etcd3 takes as arguments of a read and then drops.
_DROPPED = (
    "limit",
    "revision",
    "count_only",
    "min_mod_revision",
    "max_mod_revision",
    "min_create_revision",
    "max_create_revision",
)


def _translated(method: typing.Callable[P, R]) -> typing.Callable[P, R]:
    """With a few codes of RpcError turned into exceptions of etcd3's own, as it does itself."""
    return typing.cast("typing.Callable[P, R]", _handle_errors(method))


class Client(etcd3.Etcd3Client):  # type: ignore[misc]  # etcd3 has no types
    """`etcd3.Etcd3Client` on a coordinator's connection.

    Attributes:
        timeout: Seconds for a call, its retries included; None waits for ever.
        channel: For stubs of your own: `etcdrpc.AuthStub(coord.etcd.channel)`.
    """

    def __init__(self, client: clients.Client, locks: Locks) -> None:
        # Not the base's: it dials with grpcio.
        self._client = client
        self._locks = locks
        self._url = ",".join(map(str, client.options.endpoints))
        self.uses_secure_channel = any(endpoint.tls for endpoint in client.options.endpoints)
        self.metadata = self.call_credentials = None  # the token goes along by itself
        self.timeout: float | None = client.options.timeout_s
        self.channel = facade_channel.Channel(client)
        self.auth_stub = etcd3.etcdrpc.AuthStub(self.channel)
        self.kvstub = etcd3.etcdrpc.KVStub(self.channel)
        self.clusterstub = etcd3.etcdrpc.ClusterStub(self.channel)
        self.leasestub = etcd3.etcdrpc.LeaseStub(self.channel)
        self.maintenancestub = etcd3.etcdrpc.MaintenanceStub(self.channel)
        self.watcher = facade_watch.Watcher(client, self.timeout)
        self.transactions = etcd3.Transactions()

    def close(self) -> None:
        """End this client's watches and streams.  The coordinator and its connection live on."""
        self.channel.close()
        self.watcher.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.channel.closed

    def __repr__(self) -> str:
        return f"<coordkit.etcd.facade.Client {self._url}{' closed' if self.closed else ''}>"

    # Reads: no argument is dropped, and any prefix is one.

    def _build_get_range_request(self, key: Bytes, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        dropped = {name: kwargs[name] for name in _DROPPED if kwargs.get(name) is not None}
        request = super()._build_get_range_request(key, *args, **kwargs)
        for name, value in dropped.items():
            setattr(request, name, value)
        return request

    @_translated
    def get_prefix_response(self, key_prefix: Bytes, **kwargs: typing.Any) -> typing.Any:
        """The keys with a prefix; an empty one is all keys."""
        if "key" in kwargs or "range_end" in kwargs:
            raise TypeError("Don't use key or range_end with prefix")
        return self.get_range_response(*_range_of(key_prefix), **kwargs)

    @_translated
    def delete_prefix(self, prefix: Bytes) -> typing.Any:
        """Delete the keys with a prefix; an empty one is all keys."""
        return self.kvstub.DeleteRange(self._build_delete_request(*_range_of(prefix)), self.timeout)

    # Transactions: a branch may be left out.

    def _ops_to_requests(self, ops: typing.Any) -> typing.Any:
        return super()._ops_to_requests(() if ops is None else ops)

    # Watches.

    def add_watch_prefix_callback(
        self, key_prefix: Bytes, callback: facade_watch.Callback, **kwargs: typing.Any
    ) -> typing.Any:
        """Call back for each response of a watch on a prefix; returns the number for `cancel_watch`."""
        key, kwargs["range_end"] = _range_of(key_prefix)
        return self.add_watch_callback(key, callback, **kwargs)

    def watch_prefix_response(self, key_prefix: Bytes, **kwargs: typing.Any) -> typing.Any:
        """An iterator over a prefix's watch responses, and a function that ends it."""
        key, kwargs["range_end"] = _range_of(key_prefix)
        return self.watch_response(key, **kwargs)

    def watch_prefix(self, key_prefix: Bytes, **kwargs: typing.Any) -> typing.Any:
        """An iterator over the events of a prefix, and a function that ends it."""
        key, kwargs["range_end"] = _range_of(key_prefix)
        return self.watch(key, **kwargs)

    @_translated
    def watch_once_response(
        self, key: Bytes, timeout: float | None = None, **kwargs: typing.Any
    ) -> typing.Any:
        """The first response of a watch.

        Raises:
            WatchTimedOut: None came in time.
            RevisionCompactedError: `start_revision` is too far in the past; etcd3 returns this one.
        """
        response = super().watch_once_response(key, timeout=timeout, **kwargs)
        if isinstance(response, Exception):
            raise response
        return response

    def watch_prefix_once_response(
        self, key_prefix: Bytes, timeout: float | None = None, **kwargs: typing.Any
    ) -> typing.Any:
        """The first response of a watch on a prefix."""
        key, kwargs["range_end"] = _range_of(key_prefix)
        return self.watch_once_response(key, timeout=timeout, **kwargs)

    def watch_prefix_once(
        self, key_prefix: Bytes, timeout: float | None = None, **kwargs: typing.Any
    ) -> typing.Any:
        """The first event of a watch on a prefix."""
        key, kwargs["range_end"] = _range_of(key_prefix)
        return self.watch_once(key, timeout=timeout, **kwargs)

    # Leases and locks.

    @_translated
    def refresh_lease(self, lease_id: int) -> typing.Iterator[typing.Any]:
        """Renew a lease now, not when the result is looked at; again after a broken connection.

        Returns:
            The reply, in an iterator.  Its TTL is 0 when there is no such lease any more.
        """
        request = etcd3.etcdrpc.LeaseKeepAliveRequest(ID=lease_id)
        deadline, pause_s = Deadline.after(self.timeout), clients.FIRST_PAUSE_S
        while True:
            try:
                return iter(list(self.leasestub.LeaseKeepAlive(iter([request]), deadline.remaining())))
            except facade_channel.CallError as error:
                if error.code().name != "UNAVAILABLE":
                    raise
                pause_s = clients.pause(pause_s, deadline, error)

    def lock(self, name: str, ttl: float = 60) -> facade_lock.Lock:
        """The lock that `coord.lock(name)` is, with etcd3's methods.

        Args:
            name: Any text of at most 255 bytes.
            ttl: Seconds after which a dead process's lock is free; a living process renews it.

        Cost: none until it is used; the first use of each TTL opens a session.
        """
        return facade_lock.Lock(name, ttl, self, self._locks(name, ttl))

    # The cluster and its members.

    @property
    def members(self) -> typing.Iterator[etcd3.Member]:
        """The cluster's members."""
        members: typing.Iterator[etcd3.Member] = _translated(_members)(self)
        return members

    @_translated
    def hash(self) -> int:
        """The hash of a member's keys."""
        reply = self.maintenancestub.Hash(etcd3.etcdrpc.HashRequest(), self.timeout)
        return typing.cast(int, reply.hash)

    @_translated
    def snapshot(self, file_obj: typing.Any) -> None:
        """Write the database to a file, in pieces, over a connection of its own.

        `timeout` does not bound it, for nobody knows how long it takes; a dead connection is noticed.
        """
        pieces = self.maintenancestub.Snapshot(etcd3.etcdrpc.SnapshotRequest())
        try:
            for piece in pieces:
                file_obj.write(piece.blob)
        finally:
            pieces.cancel()


def _members(client: Client) -> typing.Iterator[etcd3.Member]:
    yield from super(Client, client).members


def _range_of(prefix: Bytes) -> tuple[bytes, bytes]:
    """The range of all keys with a prefix.  etcd takes no empty key; the least one is a zero byte."""
    start = utils.to_bytes(prefix)
    return start or b"\0", keys.range_end(start)
