"""Subscriptions: the messages of a topic, one by one, in the thread that wants them."""

from __future__ import annotations

import threading
import types
import typing

import attrs

from coordkit import codecs, errors, intake
from coordkit.deadline import Deadline
from coordkit.recipes.topic.message import Found, Message, Position, Start
from coordkit.session import Link


class Reader(typing.Protocol):
    """The messages of one partition."""

    def begin(self, start: Start) -> None:
        """From where."""

    @property
    def began_at(self) -> Position | None:
        """Where "new" was; None while that is open."""

    def take(self, deadline: Deadline) -> Found | None:
        """The next message, if it is there; raises Gap."""

    def close(self) -> None:
        """No more."""


class Bookmark(typing.Protocol):
    """Keeps what is done: a durable cursor, or a group."""

    def anchor(self, began: list[Position | None], deadline: Deadline) -> None:
        """Where "new" was."""

    def move(self, partition: int, position: Position) -> None:
        """This message is done."""

    def handed_out(self, partition: int, position: Position) -> None:
        """The caller has it now."""

    def settle(self) -> None:
        """What was handed out is done."""

    def flush(self) -> None:
        """The same, and it is stored before it returns."""


@attrs.frozen(eq=False)
class Supply:
    """What a subscription is made of."""

    what: str  # for messages to people
    link: Link
    bell: intake.Bell
    codec: codecs.Codec
    readers: list[Reader]
    bookmark: Bookmark | None


class Subscription:
    """An iterator of messages.  Any thread may ask for the next one, and any may end it."""

    def __init__(self, supply: Supply) -> None:
        self._supply = supply
        self._turn = threading.Lock()  # readers are for one thread at a time
        self._next_reader = 0
        self._ended = False

    def begin(self, starts: list[Start], deadline: Deadline) -> None:
        """Let every reader begin, and wait until those stand that begin with what is new; used by Topic."""
        readers, bell = self._supply.readers, self._supply.bell
        for reader, start in zip(readers, starts, strict=True):
            reader.begin(start)
        fresh = [reader for reader, start in zip(readers, starts, strict=True) if start == "new"]
        while True:
            rung = bell.rung
            if all(reader.began_at is not None for reader in fresh):
                break
            if deadline.expired:
                raise errors.DeadlineExceeded(f"{self._supply.what}: no watch stood in time")
            bell.wait(rung, deadline)
        if fresh and self._supply.bookmark is not None:
            self._supply.bookmark.anchor([reader.began_at for reader in readers], deadline)

    def get(self, timeout: float | None = None) -> Message | None:
        """The next message.

        Args:
            timeout: Seconds; None or -1 waits for ever.  An outage is waited out, too.

        Returns:
            The message; None when the time was up.

        Raises:
            Gap: Messages were compacted or trimmed, or the buffer was full and overflow is "gap".  `revision`
                says from where one can resume; whoever asks for the next message gets what follows.
            Cancelled: By `close` or `cancel`.
            Closed: The coordinator was closed.

        Cost: none for a message that has come already.
        """
        return self._get(Deadline.after(timeout))

    def commit(self, message: Message) -> None:
        """This message is done; with a cursor, so is all before it in its partition.

        Raises:
            NotHeld: This subscription has no cursor, and belongs to no group.
            ClaimLost: Another subscriber uses this cursor by now, or has this message of the group.
            Unavailable: It may not have been stored: then messages come again.

        Cost: 1 commit.
        """
        if not isinstance(message, Message):
            raise errors.InvalidValue(f"{self._supply.what}: a message is committed, not {message!r}")
        if self._supply.bookmark is None:
            raise errors.NotHeld(f"{self._supply.what}: there is no cursor to commit to")
        self._supply.bookmark.move(message.partition, message.position)

    def close(self) -> None:
        """End it: no message comes any more, and every iteration ends, in whatever thread.  Idempotent."""
        self._ended = True
        for reader in self._supply.readers:
            reader.close()
        self._supply.bell.ring()

    cancel = close

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Message:
        try:
            message = self._get(Deadline.after(None))
        except errors.Cancelled:
            raise StopIteration from None
        assert message is not None
        return message

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        try:
            if error is None and self._supply.bookmark is not None and not self._ended:
                self._supply.bookmark.flush()
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"<Subscription {self._supply.what}{' ended' if self._ended else ''}>"

    # How.

    def _get(self, deadline: Deadline) -> Message | None:
        bookmark, bell = self._supply.bookmark, self._supply.bell
        if bookmark is not None:
            bookmark.settle()  # who asks for the next message is done with the last one
        while True:
            if self._ended:
                raise errors.Cancelled(f"{self._supply.what}: the subscription was ended")
            rung = bell.rung
            message = self._look(deadline)
            if message is not None:
                return message
            if bookmark is not None:
                bookmark.flush()  # nothing is there: a good moment
            if deadline.expired:
                return None
            bell.wait(rung, deadline)

    def _look(self, deadline: Deadline) -> Message | None:
        """The next message that is there, of whichever partition."""
        if not self._turn.acquire(timeout=deadline.wait_s()):
            return None
        try:
            readers = self._supply.readers
            for _ in readers:
                number = self._next_reader
                self._next_reader = (number + 1) % len(readers)
                found = readers[number].take(deadline)
                if found is not None:
                    return self._message(number, *found)
            return None
        except errors.OUTAGE:
            if deadline.expired:
                return None
            raise
        finally:
            self._turn.release()

    def _message(self, number: int, raw: bytes, position: Position) -> Message:
        message = Message(raw, position.revision, position.index, number, position, self._supply.codec)
        if self._supply.bookmark is not None:
            self._supply.bookmark.handed_out(number, position)
        return message
