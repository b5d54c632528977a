"""Topic: publish to it, subscribe to it."""

from __future__ import annotations

import typing

from coordkit import codecs, errors, intake, keys
from coordkit.deadline import Deadline
from coordkit.recipes import hold as holds
from coordkit.recipes.topic import cursors, groups, parts, replay, trimming
from coordkit.recipes.topic.message import Start
from coordkit.recipes.topic.names import MOST_IN_TXN, MOST_TXN_BYTES
from coordkit.recipes.topic.subscription import Bookmark, Reader, Subscription, Supply
from coordkit.session import Link

Values = list[bytes]


class Topic:
    """What is published is seen by every subscriber, in the order of etcd's revisions."""

    def __init__(
        self,
        link: Link,
        name: str,
        retain: trimming.Retain | None = None,
        partitions: int = 1,
        codec: codecs.Codec = codecs.BYTES,
        session: holds.Source | None = None,
    ) -> None:
        """Args:
        link: The connection.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        retain: None for a live topic.  Else how much is kept at least: a number of messages, a timedelta, or
            `math.inf`.  Publishers trim.
        partitions: In how many parts of its own order a retained topic is split; the same for all programs.
        codec: How values become bytes.
        session: Whose life the claims of a group's members hang on.
        """
        codecs.check(codec)
        self.name = name
        self._session = session
        self._link = link
        self._codec = codec
        self._parts = parts.Parts(link, keys.prefix(link.namespace, "topic", name), retain, partitions)

    def publish(self, value: typing.Any, key: str | bytes | None = None, timeout: float | None = None) -> int:
        """Publish one message.

        Args:
            value: What the codec takes; bytes or str without one.
            key: Messages of one key are in one partition, and so in order; None takes the next partition.
            timeout: Seconds; None takes the coordinator's request timeout, -1 waits for ever.

        Returns:
            Its revision.

        Raises:
            Unavailable, DeadlineExceeded: `outcome` says whether it may have been published.  Of a retained
                topic lost replies are settled as long as there is time.
            Rejected: etcd refused it: too large, no space, no permission.
            InvalidValue: The codec does not take it.

        Cost: 1 commit; those that wait while one is in flight share the next.
        """
        self._check_open()
        parcel = [self._codec.encode(value)]
        return self._parts.publish(parcel, self._parts.number_for(key), self._link.client.deadline(timeout))

    def publish_many(
        self,
        values: typing.Iterable[typing.Any],
        key: str | bytes | None = None,
        timeout: float | None = None,
    ) -> int:
        """Publish messages, in order, up to 100 in a transaction.

        Args:
            values: Each as for `publish`; taken as they are needed.
            key: The same for all of them, which go into one partition.
            timeout: Seconds for all of them.

        Returns:
            The revision of the last; 0 when there was none.

        Raises:
            CoordError: As for `publish`; those before are published.

        Cost: 1 commit for every 100 messages, or every MiB.
        """
        self._check_open()
        deadline = self._link.client.deadline(timeout)
        number = self._parts.number_for(key)
        revision = 0
        for parcel in _parcels(map(self._codec.encode, values)):
            revision = self._parts.publish(parcel, number, deadline)
        return revision

    def trim(self, retain: trimming.Retain, timeout: float | None = None) -> None:
        """Delete the oldest messages of a retained topic, in each partition.

        Args:
            retain: What is kept at least: a number of messages, or a timedelta.
            timeout: Seconds; None takes the coordinator's request timeout.

        Raises:
            UsageError: A live topic keeps nothing that could be deleted.
            QuotaExceeded: etcd has no space to note what is gone; nothing is.

        Cost: 3 round trips and 1 commit for every 1,000 messages; by age also a few reads.
        """
        self._check_open()
        self._parts.agree(self._link.client.deadline(timeout))
        self._parts.trim(trimming.Retention.of(retain, least=0), self._link.client.deadline(timeout))

    def subscribe(
        self,
        start: int | typing.Literal["new", "all"] | cursors.Cursor = "new",
        *,
        group: str | None = None,
        buffer: int = 1000,
        overflow: typing.Literal["block", "gap"] = "block",
        timeout: float | None = None,
    ) -> Subscription:
        """Begin to see messages.

        Args:
            start: "new": what is published after this returns; "all": whatever is still there; a revision: it
                and what follows; a `Cursor`: where the last subscriber of that name has ended.
            group: Subscribers of one group share a retained topic: each message goes to one of them, and
                comes again if that one dies before it asked for the next, or said `commit`.  A new group
                begins at `start`; one that is known goes on where it was.
            buffer: How many messages may wait here for a slow subscriber.
            overflow: What happens when more come.  "block": they wait in etcd until there is room; "gap":
                they are skipped, which the subscriber is told by a Gap, and it goes on with what is new.
            timeout: Seconds for beginning; None takes the coordinator's request timeout.

        Raises:
            Unavailable, DeadlineExceeded: It could not begin in time.
            LimitMismatch: Others use this topic in another way: live, retained, with so many partitions.

        Cost: 3 round trips and 1 message each way; a retained topic is read page by page.  Nothing while
            nothing is published.
        """
        deadline = self._link.client.deadline(timeout)
        self._check_open()
        if not isinstance(buffer, int) or isinstance(buffer, bool) or buffer < 1:
            raise errors.InvalidValue(f"buffer must be a number of messages, 1 or more, not {buffer!r}")
        if overflow not in ("block", "gap"):
            raise errors.InvalidValue(f"overflow must be 'block' or 'gap', not {overflow!r}")
        bell = intake.Bell(self._link.client)
        self._parts.agree(deadline)
        readers = self._parts.readers(bell, buffer, overflow == "gap")
        bookmark: Bookmark | None
        if group is None:
            begin, bookmark = self._starting_point(start, len(readers), deadline)
        else:
            if isinstance(start, cursors.Cursor):
                raise errors.InvalidValue("a group has a cursor of its own: start must not be another one")
            begin = [cursors.checked_start(start)] * len(readers)
            readers, bookmark = self._join(group, readers, bell)
        supply = Supply(f"topic {self.name!r}", self._link, bell, self._codec, readers, bookmark)
        subscription = Subscription(supply)
        try:
            subscription.begin(begin, deadline)
        except BaseException:
            subscription.close()
            raise
        return subscription

    def usage(self, timeout: float | None = None) -> parts.Usage | None:
        """How programs use the topic of this name: live or retained, and with how many partitions.

        Args:
            timeout: Seconds; None takes the coordinator's request timeout.

        Returns:
            None while nobody does.

        Cost: up to 3 round trips.
        """
        self._check_open()
        return self._parts.usage(self._link.client.deadline(timeout))

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "a Topic owns a connection and cannot be pickled: make one in the other process"
        )

    # How.

    def _join(
        self, group: str, readers: list[Reader], bell: intake.Bell
    ) -> tuple[list[Reader], groups.GroupBook]:
        if self._session is None or not all(isinstance(reader, replay.LogReader) for reader in readers):
            raise errors.UsageError("a group needs a retained topic, and a session")
        members = [
            groups.GroupReader(self._link, self._session, names, group, typing.cast(replay.LogReader, reader))
            for names, reader in zip(self._parts.each_names, readers, strict=True)
        ]
        for member in members:
            member.watch(bell.ring)
        return list(members), groups.GroupBook(members)

    def _check_open(self) -> None:
        if self._link.client.closed:
            raise errors.Closed(f"topic {self.name!r}: its coordinator was closed, or made before a fork")

    def _starting_point(
        self, start: int | typing.Literal["new", "all"] | cursors.Cursor, count: int, deadline: Deadline
    ) -> tuple[list[Start], cursors.Bookmark | None]:
        if not isinstance(start, cursors.Cursor):
            return [cursors.checked_start(start)] * count, None
        bookmark = cursors.Bookmark(self._link, self._parts.names.cursor(start.name), start, count)
        return bookmark.load(deadline), bookmark


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
