"""The parts of a topic: one, or several partitions, each live or a log; and what all programs agree upon."""

from __future__ import annotations

import itertools
import typing
import zlib

import attrs

from coordkit import coalescer, errors, intake, outages
from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.recipes.topic import live, log, replay, trimming
from coordkit.recipes.topic.names import Names
from coordkit.recipes.topic.subscription import Reader
from coordkit.session import Link

MOST_PARTITIONS = 1000

Values = list[bytes]


@attrs.frozen
class Usage:
    """How a topic is used."""

    retained: bool
    partitions: int

    def __str__(self) -> str:
        if not self.retained:
            return "live"
        return f"retained, of {self.partitions} partition{'s' if self.partitions > 1 else ''}"


class Part:
    """One partition, for its publishers: those of this process share transactions."""

    def __init__(self, link: Link, names: Names, retention: trimming.Retention | None) -> None:
        self.names = names
        self._link = link
        self._log = log.Log(link, names, retention) if retention is not None else None
        self._shared = coalescer.Coalescer[Values, int](f"publish to {names.prefix.decode()}", self._send)

    def publish(self, parcel: Values, deadline: Deadline) -> int:
        """At one revision, which is returned."""
        return self._shared.submit(parcel, deadline, len(parcel), sum(map(len, parcel)))

    def _send(self, batch: typing.Sequence[coalescer.Entry[Values, int]], deadline: Deadline) -> None:
        values = [value for entry in batch for value in entry.payload]
        try:
            if self._log is not None:
                revision = self._log.publish(values, deadline)
            else:
                revision = live.broadcast(self._link, self.names, values, deadline)
        except errors.QuotaExceeded as error:
            # Out of space is answered although the write may have been committed: it must not be sent again.
            for entry in batch:
                entry.fail(errors.QuotaExceeded(str(error)))
            return
        for entry in batch:
            entry.succeed(revision)


class Parts:
    """All of them."""

    def __init__(self, link: Link, prefix: bytes, retain: trimming.Retain | None, partitions: int) -> None:
        if not isinstance(partitions, int) or not 1 <= partitions <= MOST_PARTITIONS:
            raise errors.InvalidValue(f"partitions must be 1 to {MOST_PARTITIONS}, not {partitions!r}")
        if retain is None and partitions > 1:
            raise errors.InvalidValue("a live topic takes any number of writers: it has no partitions")
        retention = trimming.Retention.of(retain) if retain is not None else None
        self.names = Names.under(prefix)
        self._link = link
        self._retained = retention is not None
        each = [self.names] if partitions == 1 else map(self.names.partition, range(partitions))
        self._parts = [Part(link, names, retention) for names in each]
        self._turns = itertools.count()
        self._agreed = False

    @property
    def each_names(self) -> list[Names]:
        """The keys of each."""
        return [part.names for part in self._parts]

    def number_for(self, key: str | bytes | None) -> int:
        """The partition of a key; of none, the next."""
        if key is not None and not isinstance(key, (str, bytes)):
            raise errors.InvalidValue(f"key must be str or bytes, not {key!r}")
        if key is None:
            return next(self._turns) % len(self._parts)
        return zlib.crc32(key.encode() if isinstance(key, str) else key) % len(self._parts)

    def publish(self, parcel: Values, number: int, deadline: Deadline) -> int:
        """At one revision, which is returned."""
        self.agree(deadline)
        return self._parts[number].publish(parcel, deadline)

    def trim(self, keep: trimming.Retention, deadline: Deadline) -> None:
        """Each of them."""
        if not self._retained:
            raise errors.UsageError(
                f"{self.names.prefix.decode()}: a live topic keeps nothing that could be trimmed"
            )
        for part in self._parts:
            trimming.trim(self._link, part.names, keep, deadline)

    def readers(self, bell: intake.Bell, room: int, drops: bool) -> list[Reader]:
        """One for each, sharing the room."""
        share = max(1, room // len(self._parts))
        return [self._reader(part.names, bell, share, drops) for part in self._parts]

    def _reader(self, names: Names, bell: intake.Bell, room: int, drops: bool) -> Reader:
        prefix = names.log if self._retained else names.slots
        tap = intake.Intake(self._link.watcher, prefix, room, bell.ring)
        if self._retained:
            return replay.LogReader(self._link, names, tap, drops)
        return live.LiveReader(self._link, names, tap, drops)

    def usage(self, deadline: Deadline) -> Usage | None:
        """How a topic of this name is used; None while nobody does.  Cost: up to 3 round trips."""
        return usage_of(self.names, lambda key: intake.read_key(self._link.client, key, deadline))

    def agree(self, deadline: Deadline) -> None:
        """See that others use this topic in the same way.  Once.

        Raises:
            LimitMismatch: They do not.

        Cost: up to 3 round trips; 1 commit for the first program that uses partitions.
        """
        while not self._agreed:
            mine, usage = Usage(self._retained, len(self._parts)), self.usage(deadline)
            if usage is None and mine.partitions > 1:
                create = kv.txn_request(
                    [kv.create(self.names.partitions) == 0],
                    [kv.put(self.names.partitions, b"%d" % mine.partitions)],
                )
                outages.patiently(self._link.client, create, deadline)
                continue  # somebody else may have been the first
            if usage not in (None, mine):
                raise errors.LimitMismatch(f"topic {self.names.prefix.decode()} is {usage}, not {mine}")
            self._agreed = True


def usage_of(names: Names, read: typing.Callable[[bytes], kv.KeyValue | None]) -> Usage | None:
    """How the topic with these keys is used; None while nobody does.  Reads up to 3 keys."""
    stored = read(names.partitions)
    if stored is not None and stored.value.isdigit():
        return Usage(True, int(stored.value))
    if read(names.head) is not None:
        return Usage(True, 1)
    return Usage(False, 1) if read(names.slot_keys[0]) is not None else None
