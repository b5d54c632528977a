"""Watches that survive their connection: all of a client's share one stream.

A watch delivers each change after its start once, in order, or says that history was compacted.  When the
stream breaks, a background thread opens another and resumes every watch behind its last event.

Rules, each for a reason that was seen:

- What is resumed goes on behind the last *event*; a batch's header can be far ahead of its events.
- It is asked for from one revision before that on: up to 3.5.15 a compaction takes a deletion at its own
  revision with it, and a watch that begins right there is told neither of the deletion nor of the gap.
- One create is pending at a time: a create that fails carries no id by which to tell it from another.
- A `created` older than what this client had seen when it asked comes from a member that lags, or was
  restored from a backup: it is refused, and another member asked.
- Listeners run on whichever thread reads; they are quick and never call the client.

Source: etcd's api/v3rpc/watch.go; the resume rule is that of clientv3/watch.go, mended.
"""

from __future__ import annotations

import collections
import enum
import logging
import random
import threading
import time
import typing

from google.protobuf import message as protobuf

from coordkit import errors, keys
from coordkit.deadline import NEVER
from coordkit.etcd import changes, mapping
from coordkit.etcd import client as clients
from coordkit.etcd.changes import Event, Listener
from coordkit.wire import channel as channels
from coordkit.wire import grpc, messages

METHOD = "/etcdserverpb.Watch/Watch"

NO_PUTS = messages.WatchCreateRequest.NOPUT
NO_DELETES = messages.WatchCreateRequest.NODELETE

_log = logging.getLogger("coordkit")


class State(enum.Enum):
    """Of one watch."""

    WAITING = 1  # it is in the queue of creates, or its create is on the way; no id
    LIVE = 2  # it has an id on the current stream, and gets events
    ENDED = 3  # cancelled, compacted or refused; nothing is told any more


class Watch:
    """One watch.  `cancel` ends it."""

    def __init__(self, watcher: Watcher, request: messages.WatchCreateRequest, listener: Listener) -> None:
        self._watcher = watcher
        self.request = request
        self.listener = listener
        self.state = State.WAITING
        self.watch_id = -1
        #: The first revision that was not told yet; 0: from whenever the watch stands.
        self.next_revision = request.start_revision
        #: The client's newest revision when the create was sent.
        self.floor = 0
        #: It has stood: another create resumes it.
        self.has_stood = False
        #: It was refused once, which may have been the token's fault.
        self.doubted = False

    @property
    def overlap(self) -> int:
        """How many revisions are asked for once more; what was told is not told again."""
        misses = self.has_stood and self.next_revision > 1 and NO_DELETES not in self.request.filters
        return int(misses)

    def cancel(self) -> None:
        """Stop it; no event is told after this returns, unless one is being told right now."""
        self._watcher.cancel(self)


class Watcher:
    """All watches of one client."""

    def __init__(self, client: clients.Client) -> None:
        self._client = client
        # Held while listeners run, so that an old stream cannot tell after a newer one has.
        self._lock = threading.RLock()
        self._stream: channels.Stream | None = None
        self._generation = 0  # of the stream: callbacks of older ones are ignored
        self._used: grpc.Metadata = ()  # the token with which the stream was opened, or an older one
        self._queue: collections.deque[Watch] = collections.deque()
        self._creating: Watch | None = None
        self._live: dict[int, Watch] = {}
        self._fragments = changes.Fragments()
        self._opening = False  # a thread is at work on a new stream
        self._pause_s = 0.0  # before the next attempt

    def watch(
        self,
        key: bytes,
        listener: Listener,
        *,
        range_end: bytes = b"",
        start_revision: int = 0,
        filters: tuple[int, ...] = (),
    ) -> Watch:
        """Begin a watch; returns at once, `on_created` tells when it stands.

        Args:
            key: The key, or the first of a range.
            listener: Whom to tell.
            range_end: The end of the range.
            start_revision: The first revision to tell; 0 for what comes after `on_created`.  A start in the
                past waits for etcd's catch-up tick of 100 ms: prefer 0 and a read.
            filters: `NO_PUTS` or `NO_DELETES`.

        Cost: one message each way.
        """
        request = messages.WatchCreateRequest(
            key=key, range_end=range_end, start_revision=start_revision, filters=list(filters), fragment=True
        )
        return self._begin(Watch(self, request, listener))

    def _begin(self, watch: Watch) -> Watch:
        with self._lock:
            self._queue.append(watch)
            if self._stream is None:
                self._open_elsewhere()
            send = self._next_create()
        if send is not None:
            send()
        return watch

    def watch_prefix(self, prefix: bytes, listener: Listener, **options: typing.Any) -> Watch:
        """The same for all keys under a prefix."""
        return self.watch(prefix, listener, range_end=keys.range_end(prefix), **options)

    def cancel(self, watch: Watch) -> None:
        """End a watch; idempotent."""
        with self._lock:
            was, watch.state = watch.state, State.ENDED
            stream = self._stream
            if was is State.WAITING and watch in self._queue:
                self._queue.remove(watch)
            if was is not State.LIVE or stream is None:
                return
            self._live.pop(watch.watch_id, None)
        stream.send(_cancel(watch.watch_id))

    def close(self) -> None:
        """End all, silently."""
        with self._lock:
            self._generation += 1
            stream, self._stream = self._stream, None
            self._live.clear()
            self._queue.clear()
            self._creating = None
        if stream is not None:
            stream.cancel()

    # The stream.

    def _open_elsewhere(self) -> None:
        """Open a stream on a thread of its own: who notices the need may be a reader.  Under the lock."""
        if self._opening or self._client.closed:
            return
        try:
            threading.Thread(target=self._open, name="coordkit-watch", daemon=True).start()
        except RuntimeError:
            return  # the interpreter is ending
        self._opening = True

    def _open(self) -> None:
        while not self._client.closed:
            if self._pause_s:
                time.sleep(self._pause_s * random.uniform(0.5, 1.0))
            with self._lock:
                self._generation += 1
                generation = self._generation
                self._used = self._client.metadata
                # Until a watch stands: a stream that is ended at once must not be opened at once again.
                self._pause_s = min(max(self._pause_s * 2, clients.FIRST_PAUSE_S), clients.LONGEST_PAUSE_S)
            try:
                stream = self._client.stream(
                    METHOD,
                    lambda message, generation=generation: self._on_message(generation, message),  # type: ignore[misc]
                    lambda status, generation=generation: self._on_end(generation, status),  # type: ignore[misc]
                    NEVER.sooner(self._client.options.timeout_s),
                )
            except (grpc.CallFailed, errors.CoordError, RuntimeError) as error:
                _log.debug("no stream for watches yet: %s", error)
                continue
            if self._adopt(stream, generation):
                return
        with self._lock:
            self._opening = False

    def _adopt(self, stream: channels.Stream, generation: int) -> bool:
        """Begin to use a stream; False if it broke already and another one is wanted."""
        with self._lock:
            if generation != self._generation and self._queue and not self._client.closed:
                return False
            self._opening = False
            if generation != self._generation:
                return True
            self._stream = stream
            send = self._next_create()
        if send is not None:
            send()
        return True

    def _on_end(self, generation: int, status: grpc.Status) -> None:
        with self._lock:
            if generation != self._generation:
                return
            stream = self._stream
            self._lose_stream()
            if mapping.is_no_use(status) and stream is not None:
                self._client.drop_channel(status.message, stream.channel)
            if self._queue:
                self._open_elsewhere()

    def _lose_stream(self) -> None:
        """Every watch goes back into the queue, to be resumed.  Under the lock."""
        self._generation += 1
        self._stream = None
        self._fragments.clear()
        resume = [*([self._creating] if self._creating else []), *self._live.values()]
        self._creating = None
        self._live.clear()
        for watch in reversed(resume):
            if watch.state is not State.ENDED:
                watch.state = State.WAITING
                self._queue.appendleft(watch)

    def _next_create(self) -> typing.Callable[[], None] | None:
        """What to send next, if no create is pending.  Under the lock; the sending is done outside."""
        stream = self._stream
        while stream is not None and self._creating is None and self._queue:
            watch = self._queue.popleft()
            if watch.state is State.ENDED:
                continue
            self._creating = watch
            watch.request.start_revision = watch.next_revision - watch.overlap
            watch.floor = self._client.seen_revision
            message = messages.WatchRequest(create_request=watch.request).SerializeToString()
            return lambda: stream.send(message)
        return None

    # What it says.

    def _on_message(self, generation: int, payload: bytes) -> None:
        try:
            response = messages.WatchResponse.FromString(payload)
        except protobuf.DecodeError:
            self._client.drop_channel("what it says of watches makes no sense")
            return  # `_on_end` follows
        stream = None
        send = None
        with self._lock:
            if generation != self._generation:
                return
            try:
                self._client.note(response.header)
            except errors.Unavailable:
                return  # the connection was closed over it; `_on_end` follows
            if response.created:
                stream = self._on_created(response)
                send = self._next_create()
            elif response.canceled:
                self._on_canceled(response)
            else:
                self._on_events(response)
        if stream is not None:
            stream.cancel()
        if send is not None:
            send()

    def _on_created(self, response: messages.WatchResponse) -> channels.Stream | None:
        """A create was answered.  Returns the stream if it must go: its member is behind the times."""
        watch, self._creating = self._creating, None
        if watch is None:
            return None
        revision = response.header.revision
        if response.canceled or response.watch_id < 0:
            self._refuse(watch, response.cancel_reason)
            return None
        if watch.state is State.ENDED:  # cancelled while its create was on the way
            stream = self._stream
            assert stream is not None
            stream.send(_cancel(response.watch_id))
            return None
        if revision < watch.floor:
            stream = self._stream
            self._creating = watch
            self._lose_stream()
            self._client.drop_channel(f"a member at revision {revision} is behind {watch.floor}")
            self._open_elsewhere()
            return stream
        self._pause_s = 0.0
        watch.doubted = False
        watch.has_stood = True
        watch.watch_id = response.watch_id
        watch.state = State.LIVE
        self._live[watch.watch_id] = watch
        if watch.next_revision == 0:
            watch.next_revision = revision + 1
        watch.listener.on_created(revision)
        return None

    def _refuse(self, watch: Watch, reason: str) -> None:
        """etcd does not want this watch.  Under the lock."""
        if watch.state is State.ENDED:
            return
        key = watch.request.key.decode(errors="backslashreplace")
        denied = "permission denied" in reason
        kind = errors.PermissionDenied if denied else errors.Rejected
        error = kind(f"watch {key}: {reason or 'etcd refused it without a reason'}")
        doubtful = self._client.options.user and (denied or mapping.is_stale_token_text(reason))
        if doubtful and not watch.doubted:
            watch.doubted = True
            watch.state = State.WAITING
            doubt = threading.Thread(
                target=self._doubt, args=(watch, error, self._used), name="coordkit-watch-doubt", daemon=True
            )
            doubt.start()
            return
        watch.state = State.ENDED
        watch.listener.on_refused(error)

    def _doubt(self, watch: Watch, error: errors.CoordError, used: grpc.Metadata) -> None:
        """Up to 3.4.21 and 3.5.5 etcd says "permission denied" to a watch whose stream's token went stale.

        A read of the same range tells, and has the token renewed if that is it: then all go to a new stream.
        """
        request = messages.RangeRequest(
            key=watch.request.key, range_end=watch.request.range_end, count_only=True
        )
        try:
            self._client.read(request, NEVER.sooner(self._client.options.timeout_s))
            refused = self._client.metadata is used
        except errors.OUTAGE:
            refused = False
        except errors.CoordError:
            refused = True
        stream = send = None
        with self._lock:
            if watch.state is State.ENDED:
                return
            if refused:
                watch.state = State.ENDED
                watch.listener.on_refused(error)
                return
            self._queue.appendleft(watch)
            if self._used is used and self._client.metadata is not used:
                stream = self._stream
                self._lose_stream()
            if self._stream is None:
                self._open_elsewhere()
            send = self._next_create()
        if stream is not None:
            stream.cancel()
        if send is not None:
            send()

    def _on_canceled(self, response: messages.WatchResponse) -> None:
        watch = self._live.pop(response.watch_id, None)
        self._fragments.forget(response.watch_id)
        if watch is None or watch.state is State.ENDED:
            return
        if response.compact_revision:
            watch.state = State.ENDED
            watch.listener.on_gap(response.compact_revision)
        else:
            self._refuse(watch, response.cancel_reason)

    def _on_events(self, response: messages.WatchResponse) -> None:
        watch = self._live.get(response.watch_id)
        if watch is None:
            return
        parts = self._fragments.join(response)
        if parts is not None:
            self._tell(watch, response.header, parts)

    def _tell(self, watch: Watch, header: messages.ResponseHeader, parts: changes.Parts) -> None:
        """Pass on what is new; without any event the response is a note of progress."""
        events = changes.news(parts, watch.next_revision)  # what was told is never told again
        if events:
            watch.next_revision = events[-1].mod_revision + 1
            watch.listener.on_events(events)


def _cancel(watch_id: int) -> bytes:
    request = messages.WatchRequest(cancel_request=messages.WatchCancelRequest(watch_id=watch_id))
    return request.SerializeToString()


__all__ = ["METHOD", "NO_DELETES", "NO_PUTS", "Event", "Listener", "State", "Watch", "Watcher"]
