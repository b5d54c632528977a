"""The meddler stands between the clients of this process and the wire, and does to requests what networks do.

It wraps `Channel.call`, through which every request passes, and `Stream.send` and `Watcher._on_message`, by
which watches begin and tell.  A plan says which call is meant and what happens to it; the others pass.
"""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from coordkit import errors
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import watch
from coordkit.wire import channel as channels
from coordkit.wire import grpc, messages

PATIENCE_S = 15.0
RANGE = clients.RANGE
TXN = clients.TXN


@attrs.frozen(eq=False, slots=False)
class Call:
    """One request on its way."""

    client: clients.Client | None  # whose, if it is one that takes part
    method: str
    request: bytes
    resend: Callable[[bytes, Deadline], bytes]

    @functools.cached_property
    def txn(self) -> messages.TxnRequest | None:
        return messages.TxnRequest.FromString(self.request) if self.method == TXN else None

    @functools.cached_property
    def range(self) -> messages.RangeRequest | None:
        return messages.RangeRequest.FromString(self.request) if self.method == RANGE else None

    def puts(self, prefix: bytes) -> bool:
        """Whether it is a transaction that may put a key under this prefix."""
        return self.txn is not None and any(
            op.HasField("request_put") and op.request_put.key.startswith(prefix) for op in self.txn.success
        )

    def deletes(self, prefix: bytes) -> bool:
        """Whether it is a transaction that may delete a key under this prefix."""
        return self.txn is not None and any(
            op.HasField("request_delete_range") and op.request_delete_range.key.startswith(prefix)
            for op in self.txn.success
        )

    def reads(self, prefix: bytes) -> bool:
        """Whether it is a read of its own of keys under this prefix."""
        return self.range is not None and self.range.key.startswith(prefix)


Match = Callable[[Call], bool]


class Plan:
    """What happens to the next calls that match: `act` is called in the call's place."""

    def __init__(self, match: Match, act: Callable[[Call, Deadline], bytes], times: float = 1) -> None:
        self.match = match
        self.act = act
        self.left = times
        self.met = threading.Event()  # a call has matched
        self.gate = threading.Event()  # for plans that stop a call until this is set
        self.copies: list[Call] = []  # what was kept back

    def wait_until_met(self) -> None:
        assert self.met.wait(PATIENCE_S), "no call met the plan"

    def deliver(self) -> None:
        """Let what was kept back arrive, once for each copy; its reply goes nowhere."""
        while self.copies:
            copy = self.copies.pop(0)
            copy.resend(copy.request, Deadline.after(PATIENCE_S))


class Meddler:
    """All plans of one test.  `installed` puts it in place, and takes it out with the monkeypatch."""

    def __init__(self) -> None:
        self.clients: list[clients.Client] = []  # who takes part
        self.calls: list[Call] = []  # every request that was made, in order
        self.ended: list[Call] = []  # those that were answered, or failed
        self._plans: list[Plan] = []
        self._real_call = channels.Channel.call
        self._real_send = channels.Stream.send
        self._real_on_message = watch.Watcher._on_message
        self._held_creates: list[tuple[channels.Stream, bytes]] | None = None
        self._watch_prefix = b""
        self.begun: collections.Counter[watch.Watcher] = collections.Counter()  # how many watches have
        self._listeners: dict[watch.Watcher, Callable[[set[bytes]], object]] = {}
        self._withheld: dict[watch.Watcher, list[tuple[int, bytes]]] = {}

    @classmethod
    def installed(cls, monkeypatch: pytest.MonkeyPatch) -> Meddler:
        meddler = cls()

        def call(
            channel: channels.Channel,
            method: str,
            request: bytes,
            deadline: Deadline = NEVER,
            metadata: grpc.Metadata = (),
        ) -> bytes:
            return meddler._call(channel, method, request, deadline, metadata)

        def send(stream: channels.Stream, message: bytes) -> None:
            meddler._send(stream, message)

        def on_message(watcher: watch.Watcher, generation: int, payload: bytes) -> None:
            meddler._on_message(watcher, generation, payload)

        monkeypatch.setattr(channels.Channel, "call", call)
        monkeypatch.setattr(channels.Stream, "send", send)
        monkeypatch.setattr(watch.Watcher, "_on_message", on_message)
        # A busy machine's slow answers are no reason to make requests again that a play counts.
        monkeypatch.setattr(clients, "PATIENCE_S", 60.0)
        return meddler

    def count(self, match: Match) -> int:
        """How many requests so far matched."""
        return sum(map(match, list(self.calls)))

    def count_ended(self, match: Match) -> int:
        """How many of them are over."""
        return sum(map(match, list(self.ended)))

    # What can happen to a request.

    def drop_reply(self, match: Match, times: float = 1) -> Plan:
        """It is applied, and the caller never hears of it."""

        def act(call: Call, deadline: Deadline) -> bytes:
            call.resend(call.request, deadline)
            raise unknown(call)

        return self._plan(match, act, times)

    def drop_reply_at_gate(self, match: Match) -> Plan:
        """It is applied; the caller hears nothing until the gate opens, then that the connection broke."""

        def act(call: Call, deadline: Deadline) -> bytes:
            call.resend(call.request, deadline)
            plan.met.set()
            assert plan.gate.wait(PATIENCE_S)
            raise unknown(call)

        plan = self._plan(match, act, met_by_act=True)
        return plan

    def lose(self, match: Match, times: float = 1) -> Plan:
        """It never arrives, and the caller cannot know."""

        def act(call: Call, deadline: Deadline) -> bytes:
            raise unknown(call)

        return self._plan(match, act, times)

    def hold_back(
        self, match: Match, error: BaseException | None = None, patient: bool = False, gated: bool = False
    ) -> Plan:
        """The request arrives when `deliver` is called.

        Meanwhile the caller's connection breaks; or the caller is interrupted by `error`, at once or when the
        gate opens; or it is `patient`, and waits until its time is up.
        """

        def act(call: Call, deadline: Deadline) -> bytes:
            plan.copies.append(call)
            if gated:
                assert plan.gate.wait(PATIENCE_S)
            if error is not None:
                raise error
            if patient:
                plan.gate.wait(min(deadline.remaining(), PATIENCE_S))
                raise unknown(call, grpc.Code.DEADLINE_EXCEEDED)
            raise unknown(call)

        plan = self._plan(match, act)
        return plan

    def send_twice(self, match: Match) -> Plan:
        """It arrives twice; the caller gets the reply to the second."""

        def act(call: Call, deadline: Deadline) -> bytes:
            call.resend(call.request, deadline)
            return call.resend(call.request, deadline)

        return self._plan(match, act)

    def stop_request(self, match: Match, times: float = 1) -> Plan:
        """It waits at the gate, then travels on."""

        def act(call: Call, deadline: Deadline) -> bytes:
            assert plan.gate.wait(PATIENCE_S)
            return call.resend(call.request, deadline)

        plan = self._plan(match, act, times)
        return plan

    def stop_reply(self, match: Match) -> Plan:
        """It is applied; the reply waits at the gate."""

        def act(call: Call, deadline: Deadline) -> bytes:
            reply = call.resend(call.request, deadline)
            plan.met.set()
            assert plan.gate.wait(PATIENCE_S)
            return reply

        plan = self._plan(match, act, met_by_act=True)
        return plan

    def rewrite_request(self, match: Match, change: Callable[[Any], None], times: float = 1) -> Plan:
        """The transaction arrives changed."""

        def act(call: Call, deadline: Deadline) -> bytes:
            assert call.txn is not None
            change(call.txn)
            return call.resend(call.txn.SerializeToString(), deadline)

        return self._plan(match, act, times)

    def rewrite_reply(self, match: Match, change: Callable[[Any], None], times: float = 1) -> Plan:
        """The reply arrives changed."""

        def act(call: Call, deadline: Deadline) -> bytes:
            kind = messages.TxnResponse if call.txn is not None else messages.RangeResponse
            reply = kind.FromString(call.resend(call.request, deadline))
            change(reply)
            return reply.SerializeToString()

        return self._plan(match, act, times)

    def answer(self, match: Match, make: Callable[[], bytes], times: float = 1) -> Plan:
        """It never arrives; the caller gets this reply."""
        return self._plan(match, lambda call, deadline: make(), times)

    # What can happen to a watch.

    def hold_watches(self, prefix: bytes) -> None:
        """Watches on this prefix are asked for, but the request stays on the way, before those behind it."""
        self._watch_prefix = prefix
        self._held_creates = []

    @property
    def held_watches(self) -> int:
        """How many requests for a watch are on the way."""
        return len(self._held_creates or ())

    def let_watches_go(self) -> None:
        """They arrive."""
        held, self._held_creates = self._held_creates or [], None
        for stream, message in held:
            self._real_send(stream, message)

    def on_events(self, watcher: watch.Watcher, listener: Callable[[set[bytes]], object]) -> None:
        """Hear the keys of what the watches of one client have told."""
        self._listeners[watcher] = listener

    def withhold_events(self, watcher: watch.Watcher) -> None:
        """What the watches of one client tell stays on the way."""
        self._withheld[watcher] = []

    def tell_events(self, watcher: watch.Watcher) -> None:
        """It arrives, in order."""
        for generation, payload in self._withheld.pop(watcher, []):
            self._real_on_message(watcher, generation, payload)

    def end(self) -> None:
        """Open every gate, so that nobody waits for us any more."""
        for plan in self._plans:
            plan.gate.set()
        if self._held_creates is not None:
            self.let_watches_go()
        for watcher in list(self._withheld):
            self.tell_events(watcher)

    # How.

    def _plan(
        self,
        match: Match,
        act: Callable[[Call, Deadline], bytes],
        times: float = 1,
        met_by_act: bool = False,
    ) -> Plan:
        def tell(call: Call, deadline: Deadline) -> bytes:
            if not met_by_act:
                plan.met.set()
            return act(call, deadline)

        plan = Plan(match, tell, times)
        self._plans.append(plan)
        return plan

    def _call(
        self,
        channel: channels.Channel,
        method: str,
        request: bytes,
        deadline: Deadline,
        metadata: grpc.Metadata,
    ) -> bytes:
        def resend(message: bytes, limit: Deadline) -> bytes:
            return self._real_call(channel, method, message, limit, metadata)

        client = next((each for each in self.clients if each._channel is channel), None)
        call = Call(client, method, request, resend)
        self.calls.append(call)
        try:
            for plan in self._plans:
                if plan.left > 0 and plan.match(call):
                    plan.left -= 1
                    return plan.act(call, deadline)
            return self._real_call(channel, method, request, deadline, metadata)
        finally:
            self.ended.append(call)

    def _send(self, stream: channels.Stream, message: bytes) -> None:
        if self._held_creates is not None and stream.method == watch.METHOD:
            request = messages.WatchRequest.FromString(message)
            if request.create_request.key.startswith(self._watch_prefix):
                self._held_creates.append((stream, message))
                return
        self._real_send(stream, message)

    def _on_message(self, watcher: watch.Watcher, generation: int, payload: bytes) -> None:
        kept = self._withheld.get(watcher)
        if kept is not None and messages.WatchResponse.FromString(payload).events:
            kept.append((generation, payload))
            return
        self._real_on_message(watcher, generation, payload)
        response = messages.WatchResponse.FromString(payload)
        self.begun[watcher] += response.created
        listener = self._listeners.get(watcher)
        if listener is not None:
            listener({event.kv.key for event in response.events})


def unknown(call: Call, code: grpc.Code = grpc.Code.UNAVAILABLE) -> grpc.CallFailed:
    """What a caller is told whose connection breaks before the answer, or whose time is up."""
    status = grpc.Status(code, "meddled with", outcome=errors.Outcome.UNKNOWN)
    return grpc.CallFailed(call.method, status)


def of(coordinator: Any) -> Match:
    """Calls of this coordinator."""
    return lambda call: call.client is coordinator.client


def both(*matches: Match) -> Match:
    """Calls that match each."""
    return lambda call: all(match(call) for match in matches)
