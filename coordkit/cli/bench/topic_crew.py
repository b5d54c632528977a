"""The workers of `coordkit bench topic`: who publishes, who subscribes, and the floor of a delivery.

A message begins with its number, so that every subscriber can tell whether all of them came, in order.
The floor is a bare client that puts, and another that waits on its watch: put sent -> event there.
"""

from __future__ import annotations

import math
import time
from typing import Any

import coordkit
from coordkit.cli.bench import raw
from coordkit.cli.bench.floor import revision_of
from coordkit.testing.history import clock_ns
from coordkit.wire import messages

END = b"end"
_VALUE = b":" + b"x" * 92  # about 100 bytes with the number
_PACE_S = 0.002  # between two messages whose delivery is timed, so that none waits for another
_LIMIT_S = 30.0


class Publisher:
    """Publishes to one topic."""

    def __init__(self, url: str, name: str, retained: bool) -> None:
        self._coord = coordkit.connect(url)
        self._topic = self._coord.topic(name, retain=math.inf if retained else None)

    def round(self, what: str, amount: float) -> dict[str, Any]:
        """`serial` puts for so many seconds; so many messages in `batches`; or `paced`, one by one."""
        if what == "serial":
            return self._serial(amount)
        return self._batches(int(amount)) if what == "batches" else self._paced(int(amount))

    def _serial(self, seconds: float) -> dict[str, Any]:
        start_ns, count = clock_ns(), 0
        until_ns = start_ns + round(seconds * 1e9)
        while clock_ns() < until_ns:
            self._coord.kv.put("/bench-topic/serial", _VALUE)
            count += 1
        return {"per_s": count / (clock_ns() - start_ns) * 1e9}

    def _batches(self, count: int) -> dict[str, Any]:
        start_ns = clock_ns()
        self._topic.publish_many((b"%d%s" % (number, _VALUE) for number in range(count)), timeout=_LIMIT_S)
        self._topic.publish(END)
        return {"start_ns": start_ns}

    def _paced(self, count: int) -> dict[str, Any]:
        sent, revisions = [], []
        for number in range(count):
            time.sleep(_PACE_S)
            sent.append(clock_ns())
            revisions.append(self._topic.publish(b"%d%s" % (number, _VALUE)))
        self._topic.publish(END)
        return {"revisions": revisions, "sent_ns": sent}

    def close(self) -> None:
        self._coord.close()


class Subscriber:
    """Takes messages up to the end of each round."""

    def __init__(self, url: str, name: str, retained: bool) -> None:
        self._coord = coordkit.connect(url)
        topic = self._coord.topic(name, retain=math.inf if retained else None)
        self._subscription = topic.subscribe(buffer=10_000)

    def round(self, timed: bool) -> dict[str, Any]:
        """How many came, how many of them were not the next one, and when."""
        expected = wrong = 0
        revisions, received = [], []
        while (message := self._subscription.get(_LIMIT_S)) is not None and message.raw != END:
            if timed:
                received.append(clock_ns())
                revisions.append(message.revision)
            wrong += int(message.raw.partition(b":")[0]) != expected
            expected += 1
        return {
            "count": expected,
            "wrong": wrong + (message is None),
            "end_ns": clock_ns(),
            "revisions": revisions,
            "received_ns": received,
        }

    def close(self) -> None:
        self._subscription.close()
        self._coord.close()


class _Floor:
    def __init__(self, endpoint: str, folder: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._raw = raw.RawClient(host.strip("[]"), int(port))
        self._authority, self._key = endpoint, f"{folder}/message".encode()

    def _headers(self, method: str) -> bytes:
        return raw.header_block(f"/etcdserverpb.{method}", self._authority)

    def close(self) -> None:
        self._raw.close()


class PutFloor(_Floor):
    """Puts, paced as the publisher is."""

    def round(self, samples: int) -> dict[str, Any]:
        """The revision of every put, and when it was sent."""
        headers = self._headers("KV/Put")
        put = raw.envelope(messages.PutRequest(key=self._key, value=_VALUE).SerializeToString())
        sent, replies = [], []
        for _ in range(samples):
            time.sleep(_PACE_S)
            sent.append(clock_ns())
            replies.append(self._raw.call(headers, put))
        return {"revisions": [revision_of(reply) for reply in replies], "sent_ns": sent}


class EventFloor(_Floor):
    """Waits for them."""

    def __init__(self, endpoint: str, folder: str) -> None:
        super().__init__(endpoint, folder)
        creation = messages.WatchCreateRequest(key=self._key)
        request = messages.WatchRequest(create_request=creation).SerializeToString()
        self._messages = self._raw.stream(self._headers("Watch/Watch"), raw.envelope(request))
        next(self._messages)  # that it stands

    def round(self, samples: int) -> dict[str, Any]:
        """The revision of every event, and when it was there."""
        revisions: list[int] = []
        received: list[int] = []
        while len(revisions) < samples:
            message, moment = next(self._messages), clock_ns()
            events = messages.WatchResponse.FromString(message).events
            revisions += [event.kv.mod_revision for event in events]
            received += [moment] * len(events)
        return {"revisions": revisions, "received_ns": received}
