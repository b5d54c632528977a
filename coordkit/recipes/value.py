"""Value: something small that many processes read, follow, and change by compare-and-set.

Status: new.
Source: Curator's SharedValue; the loop of `update` is load-linked, store-conditional.
Keys: `/<namespace>/value/<name>`, not leased: it outlives whoever set it.
Cost: get 1 round trip; set 1 commit; a change that is watched 1 event.
Invariant: a compare-and-set takes effect only if nothing at all has changed since its version.
"""

from __future__ import annotations

import random
import time
import typing

from coordkit import calls, codecs, errors, keys
from coordkit import vigil as vigils
from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.session import Link

FIRST_PAUSE_S = 0.002
LONGEST_PAUSE_S = 0.2
MOST_TRIES = 100


class Versioned(typing.NamedTuple):
    """A value, and its version: the revision of its last change; 0 and None when it is not set."""

    value: typing.Any
    version: int


class Value:
    """One value in etcd, with versions."""

    def __init__(self, link: Link, name: str, codec: codecs.Codec = codecs.BYTES) -> None:
        """Args:
        link: A coordinator's; see `Coordinator.value`.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        codec: Between values and bytes.
        """
        self.name = name
        self._link = link
        self._key = keys.prefix(link.namespace, "value") + keys.segment(name).encode()
        self._codec = codec
        self._vigil = vigils.vigil_at(link, self._key)
        self._calls = calls.Calls()

    def get(self, timeout: float | None = None) -> Versioned:
        """The value now, and its version.

        Args:
            timeout: Seconds; None takes the coordinator's, -1 waits for ever.

        Raises:
            Unavailable, DeadlineExceeded: Not known.
            InvalidValue: The codec cannot read what is stored.

        Cost: 1 round trip.
        """
        return self._of(self._vigil.look(self._link.client.deadline(timeout)))

    def set(self, value: typing.Any, timeout: float | None = None) -> int:
        """Let it be `value`, whatever it was; returns the version.

        Raises:
            Unavailable, DeadlineExceeded: `outcome` says whether it may have been set, now or later.
            Rejected: etcd refused it.

        Cost: 1 commit.
        """
        return self._link.client.kv.put(self._key, self._codec.encode(value), timeout=timeout)

    def compare_and_set(self, version: int, value: typing.Any, timeout: float | None = None) -> int | None:
        """Let it be `value` if its version is still this one; 0: if it is not set.

        Returns:
            The new version; None when somebody was faster: nothing was written.

        Raises:
            Unavailable, DeadlineExceeded: `outcome` says whether it may have been set, now or later.
            Rejected: etcd refused it.

        Cost: 1 commit.
        """
        deadline = self._link.client.deadline(timeout)
        return self._exchange(version, kv.put(self._key, self._codec.encode(value)), deadline)

    def delete(self, version: int, timeout: float | None = None) -> bool:
        """Remove it if its version is still this one; returns whether it was.  Raises and costs as above."""
        if not version:
            raise errors.InvalidValue("what is not set cannot be deleted: its version is 0")
        deadline = self._link.client.deadline(timeout)
        return self._exchange(version, kv.delete(self._key), deadline) is not None

    def update(
        self, change: typing.Callable[[typing.Any], typing.Any], timeout: float | None = None
    ) -> Versioned:
        """Let it be `change(value)`, where no other change has come in between.

        Args:
            change: From the value to the next, None when it is not set; called again after each collision.
            timeout: Seconds for all tries.

        Returns:
            What it is now.

        Raises:
            DeadlineExceeded: Others were faster each time, until the time or MOST_TRIES tries were over; or
                `outcome` is UNKNOWN.
            Unavailable, Rejected: As with `set`.

        Cost: 1 round trip and 1 commit; the same for each collision.
        """
        deadline = self._link.client.deadline(timeout)
        pause_s = FIRST_PAUSE_S
        for _ in range(MOST_TRIES):
            now = self._of(self._vigil.look(deadline))
            value = change(now.value)
            version = self._exchange(now.version, kv.put(self._key, self._codec.encode(value)), deadline)
            if version is not None:
                return Versioned(value, version)
            if deadline.remaining() <= pause_s:
                break
            # Those that collided must not do so again.
            time.sleep(pause_s * random.uniform(0.0, 1.0))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        raise errors.DeadlineExceeded(f"update {self._name}: others were faster each time")

    def watch(self, timeout: float = -1) -> typing.Iterator[Versioned]:
        """What it is now, then each change; who is slow gets the newest.

        Args:
            timeout: Seconds until the iteration ends; -1: never.

        Raises:
            Cancelled: By `cancel`.
            Rejected: etcd does not let us watch.
            Unavailable, DeadlineExceeded: etcd did not answer at first; later it is waited for.

        Cost: 1 message and 1 round trip to begin, then 1 event a change.
        """
        return self._watch(Deadline.after(timeout))

    def cancel(self) -> None:
        """End all iterations of `watch` on this object that wait: they raise Cancelled."""
        self._calls.cancel()

    def __repr__(self) -> str:
        return f"<Value {self.name!r}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "a Value owns a connection and cannot be pickled: make one in the other process"
        )

    def _watch(self, deadline: Deadline) -> typing.Iterator[Versioned]:
        with self._calls.begin(f"the watch of {self._name}") as call:
            view = self._vigil.look(deadline)
            yield self._of(view)
            while True:
                told = _version(view)
                newer = self._vigil.wait(
                    call,
                    lambda view, told=told: view if _version(view) != told else None,  # type: ignore[misc]
                    deadline,
                    at_least=view.revision,
                )
                if newer is None:
                    return
                view = newer
                yield self._of(view)

    def _exchange(self, version: int, op: kv.Op, deadline: Deadline) -> int | None:
        if isinstance(version, bool) or not isinstance(version, int) or version < 0:
            raise errors.InvalidValue(f"version must be a whole number, 0 or more, not {version!r}")
        request = kv.txn_request([kv.mod(self._key) == version], [op])
        result = self._link.client.txn(request, deadline)
        return result.revision if result.succeeded else None

    def _of(self, view: vigils.View) -> Versioned:
        stored = view.kvs.get(self._key)
        if stored is None:
            return Versioned(None, 0)
        try:
            return Versioned(self._codec.decode(stored.value), stored.mod_revision)
        except ValueError as error:
            raise errors.InvalidValue(f"{self._name} cannot be decoded: {type(error).__name__}") from None

    @property
    def _name(self) -> str:
        return self._key.decode()


def _version(view: vigils.View) -> int:
    return max((stored.mod_revision for stored in view.kvs.values()), default=0)
