"""The stage on which an interleaving is played: a server, coordinators, and the meddler between them.

A scenario is a function of a stage.  It raises Violation when what it sees must never be seen; so the same
function tests the code as it is, and shows that a rule is needed when the rule is taken out.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from contract.players import Attempt, wait_until
from interleavings.meddler import Meddler

import coordkit
from coordkit import waitlist
from coordkit.deadline import Deadline
from coordkit.wire import messages

COMPACT = "/etcdserverpb.KV/Compact"
ALARM = "/etcdserverpb.Maintenance/Alarm"

NAME = "stage"  # of the one lock that is played with


class Violation(AssertionError):
    """Something was seen that must never be."""


class Stage:
    """One play.  Its lock is `lock(coordinator)`, its line the keys under `prefix`."""

    def __init__(
        self, endpoint: str, namespace: str, meddler: Meddler, patience_s: float, settle_s: float
    ) -> None:
        self.meddler = meddler
        self.settle_s = settle_s  # how long what must not happen is waited for
        self.patience_s = patience_s  # how long what must happen may take before it counts as a violation
        self.prefix = f"/{namespace}/lock/{NAME}/".encode()
        self._url = f"etcd://{endpoint}/{namespace}"
        self._members: list[coordkit.Coordinator] = []
        self._attempts: list[Attempt] = []
        self.witness = self.enter()

    def enter(self, ttl: float = 30) -> coordkit.Coordinator:
        """One more coordinator.  A TTL this long keeps safety reads out of the play."""
        member = coordkit.connect(self._url, ttl=ttl)
        self._members.append(member)
        self.meddler.clients.append(member.client)
        _ = member.session
        return member

    def close(self) -> None:
        self.meddler.end()
        for member in reversed(self._members):
            member.close()
        for attempt in self._attempts:
            attempt.over.wait(self.patience_s)

    # The line.

    def lock(self, member: coordkit.Coordinator) -> coordkit.Lock:
        return member.lock(NAME)

    def line(self, member: coordkit.Coordinator) -> waitlist.Line:
        return waitlist.line_at(member.session.link, self.prefix)

    def attempt(self, lock: coordkit.Lock, **arguments: Any) -> Attempt:
        made = Attempt(lock, **arguments)
        self._attempts.append(made)
        return made

    def join(self, lock: coordkit.Lock, **arguments: Any) -> Attempt:
        """An acquire whose key is in line when this returns."""
        before = set(self.keys())
        made = self.attempt(lock, **arguments)
        wait_until(lambda: set(self.keys()) - before, what="joining the line")
        return made

    def stranger(self, name: str) -> bytes:
        """A place in line that hangs on no session of ours, as another program may have."""
        key = self.prefix + name.encode()
        self.witness.kv.put(key, b"")
        return key

    def keys(self) -> list[bytes]:
        """The line, oldest first."""
        return [place.key for place in self.lock(self.witness).contenders()]

    def found(self) -> list[bytes]:
        """All keys under the prefix, by name."""
        return [stored.key for stored in self.witness.kv.range(self.prefix)]

    def delete(self, *keys: bytes) -> None:
        for key in keys:
            assert self.witness.kv.delete(key), f"{key!r} was not there"

    def watch_early(self, member: coordkit.Coordinator) -> None:
        """Let a member wait once, so that its watch on the line stands from now on, for a while."""
        blocker = self.stranger("early")
        attempt = self.join(self.lock(member))
        wait_until(lambda: self.line(member)._covered_from, what="the watch")
        self.delete(blocker)
        attempt.wait_until_held().lock.release()

    # The server.

    def compact(self) -> None:
        """Forget history up to now."""
        revision = self.witness.kv.put("/compacted", b"")
        request = messages.CompactionRequest(revision=revision, physical=True)
        self.witness.client.unary(COMPACT, request, messages.CompactionResponse, Deadline.after(5))

    def alarm(self, on: bool) -> None:
        """Raise or clear the alarm of a server that is out of space."""
        action = messages.AlarmRequest.ACTIVATE if on else messages.AlarmRequest.DEACTIVATE
        member = messages.AlarmRequest(action=messages.AlarmRequest.GET)
        client = self.witness.client
        status = client.unary(
            "/etcdserverpb.Maintenance/Status",
            messages.StatusRequest(),
            messages.StatusResponse,
            Deadline.after(5),
        )
        member = messages.AlarmRequest(
            action=action, memberID=status.header.member_id, alarm=messages.NOSPACE
        )
        client.unary(ALARM, member, messages.AlarmResponse, Deadline.after(5))

    # What must be seen.

    def must(self, state: Callable[[], Any], what: str) -> None:
        """It comes true, or is a violation."""
        try:
            wait_until(state, self.patience_s)
        except AssertionError:
            raise Violation(what) from None

    def must_be_held(self, attempt: Attempt, what: str = "it was its turn") -> None:
        self.must(lambda: not attempt.waiting, f"{what}, and it was not granted")
        if attempt.result is not True:
            raise Violation(f"{what}, and the acquire ended with {attempt.error!r}")

    def must_wait(self, attempt: Attempt, what: str) -> None:
        if not attempt.waiting:
            raise Violation(f"{what}, and the acquire ended: {attempt.result} {attempt.error!r}")


def mutate(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, rule: str, instead: str, count: int = 1
) -> None:
    """Take a rule out of a function: its source with `instead` in place of `rule`.

    When the source has changed so that the rule is not found, this fails: say here where the rule is now.
    """
    home = next(kind for kind in owner.__mro__ if name in vars(kind))
    function = inspect.unwrap(vars(home)[name])
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(rule) == count, f"{name} does not say {rule!r} {count} time(s)"
    scope: dict[str, Any] = {}
    code = compile(
        "from __future__ import annotations\n" + source.replace(rule, instead), f"<{name}>", "exec"
    )
    exec(code, function.__globals__, scope)
    monkeypatch.setattr(owner, name, scope[name])
