"""Topic: publish to it, subscribe to it."""

from __future__ import annotations

import typing

from coordkit import coalescer, codecs, errors, intake, keys
from coordkit.deadline import Deadline
from coordkit.recipes.topic import cursors, live
from coordkit.recipes.topic.message import Start
from coordkit.recipes.topic.names import MOST_IN_TXN, MOST_TXN_BYTES, Names
from coordkit.recipes.topic.subscription import Reader, Subscription, Supply
from coordkit.session import Link

Values = list[bytes]


class Topic:
    """What is published is seen by every subscriber, in the order of etcd's revisions."""

    def __init__(self, link: Link, name: str, codec: codecs.Codec = codecs.BYTES) -> None:
        """Args:
        link: The connection.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        codec: How values become bytes.
        """
        self.name = name
        self._link = link
        self._codec = codec
        self._names = Names.under(keys.prefix(link.namespace, "topic", name))
        self._publisher = coalescer.Coalescer[Values, int](
            f"publish to {self._names.prefix.decode()}", self._send
        )

    def publish(self, value: typing.Any, timeout: float | None = None) -> int:
        """Publish one message.

        Args:
            value: What the codec takes; bytes or str without one.
            timeout: Seconds; None takes the coordinator's request timeout, -1 waits for ever.

        Returns:
            Its revision.

        Raises:
            Unavailable, DeadlineExceeded: `outcome` says whether it may have been published.
            Rejected: etcd refused it: too large, no space, no permission.
            InvalidValue: The codec does not take it.

        Cost: 1 commit; those that wait while one is in flight share the next.
        """
        return self._publish([self._codec.encode(value)], self._link.client.deadline(timeout))

    def publish_many(self, values: typing.Iterable[typing.Any], timeout: float | None = None) -> int:
        """Publish messages, in order, up to 100 in a transaction.

        Args:
            values: Each as for `publish`; taken as they are needed.
            timeout: Seconds for all of them.

        Returns:
            The revision of the last; 0 when there was none.

        Raises:
            CoordError: As for `publish`; those before are published.

        Cost: 1 commit for every 100 messages, or every MiB.
        """
        deadline = self._link.client.deadline(timeout)
        revision = 0
        for parcel in _parcels(map(self._codec.encode, values)):
            revision = self._publish(parcel, deadline)
        return revision

    def subscribe(
        self,
        start: int | typing.Literal["new", "all"] | cursors.Cursor = "new",
        *,
        buffer: int = 1000,
        overflow: typing.Literal["block", "gap"] = "block",
        timeout: float | None = None,
    ) -> Subscription:
        """Begin to see messages.

        Args:
            start: "new": what is published after this returns; "all": whatever is still there; a revision: it
                and what follows; a `Cursor`: where the last subscriber of that name has ended.
            buffer: How many messages may wait here for a slow subscriber.
            overflow: What happens when more come.  "block": they wait in etcd until there is room; "gap":
                they are skipped, which the subscriber is told by a Gap, and it goes on with what is new.
            timeout: Seconds for beginning; None takes the coordinator's request timeout.

        Raises:
            Unavailable, DeadlineExceeded: It could not begin in time.

        Cost: 1 message each way; nothing while nothing is published.
        """
        deadline = self._link.client.deadline(timeout)
        self._check_open()
        begin, bookmark = self._starting_point(start, deadline)
        if not isinstance(buffer, int) or isinstance(buffer, bool) or buffer < 1:
            raise errors.InvalidValue(f"buffer must be a number of messages, 1 or more, not {buffer!r}")
        if overflow not in ("block", "gap"):
            raise errors.InvalidValue(f"overflow must be 'block' or 'gap', not {overflow!r}")
        bell = intake.Bell(self._link.client)
        tap = intake.Intake(self._link.watcher, self._names.slots, buffer, bell.ring)
        readers: list[Reader] = [live.LiveReader(self._link, self._names, tap, overflow == "gap")]
        supply = Supply(f"topic {self.name!r}", self._link, bell, self._codec, readers, bookmark)
        subscription = Subscription(supply)
        try:
            subscription.begin([begin], deadline)
        except BaseException:
            subscription.close()
            raise
        return subscription

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "a Topic owns a connection and cannot be pickled: make one in the other process"
        )

    # How.

    def _publish(self, parcel: Values, deadline: Deadline) -> int:
        self._check_open()
        return self._publisher.submit(parcel, deadline, len(parcel), sum(map(len, parcel)))

    def _send(self, batch: typing.Sequence[coalescer.Entry[Values, int]], deadline: Deadline) -> None:
        """Publish what several callers have brought, at one revision."""
        values = [value for entry in batch for value in entry.payload]
        try:
            revision = live.broadcast(self._link, self._names, values, deadline)
        except errors.QuotaExceeded as error:
            # Out of space is answered although the write may have been committed: it must not be sent again.
            for entry in batch:
                entry.fail(errors.QuotaExceeded(str(error)))
            return
        for entry in batch:
            entry.succeed(revision)

    def _check_open(self) -> None:
        if self._link.client.closed:
            raise errors.Closed(f"topic {self.name!r}: its coordinator was closed, or made before a fork")

    def _starting_point(
        self, start: int | typing.Literal["new", "all"] | cursors.Cursor, deadline: Deadline
    ) -> tuple[Start, cursors.Bookmark | None]:
        if not isinstance(start, cursors.Cursor):
            return cursors.checked_start(start), None
        bookmark = cursors.Bookmark(self._link, self._names.cursor(start.name), start, 1)
        return bookmark.load(deadline)[0], bookmark


def _parcels(values: typing.Iterator[bytes]) -> typing.Iterator[Values]:
    """Cut into what fits a transaction."""
    parcel: Values = []
    size_bytes = 0
    for value in values:
        size_bytes += len(value)
        if parcel and (len(parcel) == MOST_IN_TXN or size_bytes > MOST_TXN_BYTES):
            yield parcel
            parcel, size_bytes = [], len(value)
        parcel.append(value)
    if parcel:
        yield parcel


__all__ = ["Topic"]
