"""What stands in for etcd3's watcher: watches that survive their connection, on our shared stream.

etcd3's own ends every watch with its stream, tells nobody of a watch that etcd refused, and is dead for good,
or spins, once its stream cannot be opened.  This one resumes each watch behind its last event, and ends one
only for a reason that asking again would not change: history was compacted, etcd refuses, or it was closed.

Callbacks run one at a time on a thread of their own, as with etcd3: they may call the client.
"""

from __future__ import annotations

import itertools
import logging
import typing

from etcd3 import events, exceptions
from etcd3 import watch as etcd3_watch

from coordkit import errors, worker
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import facade_channel, watch
from coordkit.wire import channel as channels
from coordkit.wire import grpc, messages

#: Gets an `etcd3.watch.WatchResponse`, or an exception, which is the last that it gets.
Callback = typing.Callable[[typing.Any], typing.Any]

_log = logging.getLogger("coordkit")


class _Resumed(watch.Watcher):
    """The shared stream, with responses told in full: etcd3's have a header, and events with all fields."""

    def begin(self, request: messages.WatchCreateRequest, listener: _Listener) -> watch.Watch:
        """Begin a watch."""
        return self._begin(watch.Watch(self, request, listener))

    def _tell(
        self,
        begun: watch.Watch,
        header: messages.ResponseHeader,
        parts: typing.Sequence[messages.Event],
    ) -> None:
        new = [part for part in parts if part.kv.mod_revision >= begun.next_revision]
        if new:
            begun.next_revision = new[-1].kv.mod_revision + 1
        if new or not parts:
            typing.cast(_Listener, begun.listener).on_response(header, new)


class _Listener:
    """One watch's way from the reader to its callback."""

    def __init__(self, callback: Callback, callbacks: worker.Worker) -> None:
        self._callback = callback
        self._callbacks = callbacks
        self.stands = channels.Waiter()
        self.watch: watch.Watch | None = None
        self.error: Exception | None = None
        self.cancelled = False

    # On the reader.

    def on_created(self, revision: int) -> None:
        self.stands.wake()

    def on_events(self, _: list[watch.Event]) -> None:
        raise AssertionError("events come in full, with on_response")

    def on_response(self, header: messages.ResponseHeader, new: list[messages.Event]) -> None:
        self._tell(etcd3_watch.WatchResponse(header, [events.new_event(event) for event in new]))

    def on_gap(self, compacted: int) -> None:
        self.fail(exceptions.RevisionCompactedError(compacted))

    def on_refused(self, error: errors.CoordError) -> None:
        self.fail(facade_channel.call_error(watch.METHOD, error))

    def fail(self, error: Exception) -> None:
        """It is over.  Before the watch stood, that is for whoever waits for it to say."""
        stood = self.stands.done
        self.error = error
        self.stands.wake()
        if stood:
            self._tell(error)

    def _tell(self, news: object) -> None:
        self._callbacks.submit(lambda: self._call_back(news))

    # On the callbacks' thread.

    def _call_back(self, news: object) -> None:
        if self.cancelled:
            return
        try:
            self._callback(news)
        except BaseException:  # SystemExit, say, which would end the thread that all callbacks share
            _log.exception("the callback of a watch failed")


class Watcher:
    """All watches of one facade, under the names that etcd3's client calls."""

    def __init__(self, client: clients.Client, timeout: float | None) -> None:
        self.timeout = timeout
        self._client = client
        self._shared = _Resumed(client)
        self._callbacks = worker.Worker("coordkit-etcd3-callbacks")
        self._numbers = itertools.count()  # etcd's own ids change with each stream
        self._listeners: dict[int, _Listener] = {}
        self._closed = False

    def add_callback(
        self,
        key: bytes | str,
        callback: Callback,
        range_end: bytes | str | None = None,
        start_revision: int | None = None,
        progress_notify: bool = False,
        filters: typing.Iterable[int] | None = None,
        prev_kv: bool = False,
    ) -> int:
        """Begin a watch, and wait until it stands; returns its number, for `cancel`.

        Raises:
            WatchTimedOut: Not within the timeout.
            RpcError: etcd refuses it; CANCELLED when this client is closed meanwhile.
            Closed: It was closed before.
        """
        self._check_open()
        request = messages.WatchCreateRequest(
            key=_to_bytes(key),
            range_end=_to_bytes(range_end or b""),
            start_revision=start_revision or 0,
            progress_notify=progress_notify,
            filters=list(filters or ()),
            prev_kv=prev_kv,
            fragment=True,
        )
        listener = _Listener(callback, self._callbacks)
        number = next(self._numbers)
        self._listeners[number] = listener
        try:
            listener.watch = self._shared.begin(request, listener)
            self._await(listener)
            if self._closed:
                raise _cancelled()
        except BaseException as error:
            self.cancel(number)
            if listener.watch is not None:
                listener.watch.cancel()  # `close` may have taken the listener, and not seen its watch
            if isinstance(error, errors.Closed):
                raise _cancelled() from error
            raise
        return number

    def _await(self, listener: _Listener) -> None:
        if not self._client.wait(listener.stands, Deadline.after(self.timeout)):
            raise exceptions.WatchTimedOut()
        # That history was compacted is told to the callback, as etcd3 does: the watch stood for a moment.
        if isinstance(listener.error, facade_channel.CallError):
            raise listener.error

    def cancel(self, number: int) -> None:
        """End a watch.  Its callback is not called after this, unless it is being called right now."""
        listener = self._listeners.pop(number, None)
        if listener is not None:
            listener.cancelled = True
            if listener.watch is not None:
                listener.watch.cancel()

    def close(self) -> None:
        """End all; each callback hears it."""
        self._closed = True
        self._shared.close()
        while self._listeners:
            _, listener = self._listeners.popitem()
            listener.fail(_cancelled())

    def _check_open(self) -> None:
        if self._closed:
            raise errors.Closed("this etcd3 client was closed")


def _cancelled() -> facade_channel.CallError:
    """For whoever waits while this client is closed."""
    return facade_channel.CallError(watch.METHOD, grpc.Code.CANCELLED, "this etcd3 client was closed")


def _to_bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
