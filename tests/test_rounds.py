"""The barriers' protocol against a model of etcd: members arrive, hear late, run out of time and die.

The transactions are the real ones; the store is in memory, and every request may be applied once more later.
"""

from __future__ import annotations

import random
import types
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from coordkit import errors
from coordkit.attention import View
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv
from coordkit.recipes import assembly, rounds
from coordkit.wire import messages

PLAYS = 150


class Store:
    """etcd in memory: transactions of compares on create revisions and values, puts, deletes and ranges."""

    def __init__(self) -> None:
        self.views = [View(1, {})]
        self.requests: list[kv.TxnRequest] = []

    @property
    def now(self) -> View:
        return self.views[-1]

    def change(self, puts: dict[bytes, bytes], gone: list[bytes]) -> None:
        kvs, revision = dict(self.now.kvs), self.now.revision + 1
        for key in gone:
            kvs.pop(key, None)
        for key, value in puts.items():
            old = kvs.get(key)
            created, version = (old.create_revision, old.version + 1) if old else (revision, 1)
            kvs[key] = kv.KeyValue(key, value, created, revision, version, 0)
        if puts or kvs.keys() != self.now.kvs.keys():
            self.views.append(View(revision, kvs))

    def txn(self, request: kv.TxnRequest) -> kv.TxnResult:
        self.requests.append(request)
        wanted = messages.TxnRequest.FromString(request.SerializeToString())
        holds = all(map(self._holds, wanted.compare))
        puts: dict[bytes, bytes] = {}
        gone: list[bytes] = []
        reply = messages.TxnResponse(succeeded=holds)
        for op in wanted.success if holds else wanted.failure:
            answer = reply.responses.add()
            if op.HasField("request_put"):
                puts[op.request_put.key] = op.request_put.value
                answer.response_put.SetInParent()
            elif op.HasField("request_delete_range"):
                gone += self._under(op.request_delete_range.key, op.request_delete_range.range_end)
                answer.response_delete_range.SetInParent()
            else:
                kvs = {**self.now.kvs}
                answer.response_range.SetInParent()
                for key, value in puts.items():  # a range after the put sees it
                    kvs[key] = kv.KeyValue(key, value, self.now.revision + 1, self.now.revision + 1, 1, 0)
                for each in kvs.values():
                    answer.response_range.kvs.add(
                        key=each.key,
                        value=each.value,
                        create_revision=each.create_revision,
                        mod_revision=each.mod_revision,
                    )
        if holds:
            self.change(puts, gone)
        return kv.TxnResult(reply, self.now.revision)

    def _under(self, key: bytes, end: bytes) -> list[bytes]:
        return [each for each in self.now.kvs if key <= each < (end or key + b"\0")]

    def _holds(self, compare: messages.Compare) -> bool:
        assert compare.result == messages.Compare.EQUAL
        found = [self.now.kvs[key] for key in self._under(compare.key, compare.range_end)]
        if compare.target == messages.Compare.VALUE:
            return bool(found) and all(each.value == compare.value for each in found)
        assert compare.target == messages.Compare.CREATE
        return all(each.create_revision == compare.create_revision for each in found) and (
            bool(found) or compare.create_revision == 0
        )


class Client:
    """As much of a client as an assembly needs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.options = types.SimpleNamespace(timeout_s=5.0)
        self.seen_revision = 0

    def deadline(self, timeout: float | None) -> Deadline:
        return NEVER

    def txn(self, request: kv.TxnRequest, deadline: Deadline) -> kv.TxnResult:
        return self._store.txn(request)

    def read(self, request: messages.RangeRequest, deadline: Deadline) -> messages.RangeResponse:
        reply = messages.RangeResponse()
        reply.header.revision = self._store.now.revision
        for each in self._store.now.kvs.values():
            reply.kvs.add(key=each.key, value=each.value, create_revision=each.create_revision)
        return reply


class Session:
    """One lease."""

    identity_json = b'"model"'

    def __init__(self, store: Store, lease_id: int) -> None:
        self._store, self.lease_id, self._nonces = store, lease_id, 0

    def nonce(self) -> str:
        self._nonces += 1
        return f"{self._nonces:x}"

    def create(self, key: bytes, value: bytes, deadline: Deadline, when: Any, then: Any) -> Any:
        result = self._store.txn(kv.txn_request([kv.create(key) == 0, *when], [kv.put(key, value), *then]))
        self._store.requests.pop()  # its epoch fences every copy
        if not result.succeeded:
            return None
        return types.SimpleNamespace(create_revision=result.revision, result=result)


class Link:
    """What an assembly asks of a link."""

    def __init__(self, store: Store) -> None:
        self.client = Client(store)


class Member:
    """One wait."""

    def __init__(self, stay: rounds.Round, at: int) -> None:
        self.stay = stay
        self.at = at  # the index of the newest view that it has seen
        self.seen: rounds.Conclusion | None = None
        self.told: rounds.Verdict | None = None
        self.alive = True


class Model:
    """Barriers; the double barrier differs in what a loss and a timeout do."""

    LAYOUT = rounds.Layout(b"/m/barrier/it/", b"", b"verdict")

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.store = Store()
        self.link = Link(self.store)
        self.members: list[Member] = []
        self.verdicts: dict[int, bytes] = {}
        self.leases = 0
        self.parties = self.chance.randint(1, 4)
        self.handles = [
            assembly.Assembly(lambda deadline: None, self.link, self.LAYOUT, "it", self.parties)
            for _ in range(2)
        ]

    def play(self, steps: int = 60) -> None:
        """One thing after the other, as the seed says; then all come to an end."""
        happenings = [self.arrive, self.hear, self.act, self.run_out_of_time, self.die]
        happenings += [self.the_told_ones_end, self.a_copy_arrives_late, self.reset]
        for _ in range(steps):
            self.chance.choices(happenings, [8, 12, 12, 4, 1, 1, 3, 1])[0]()
            self.note_verdicts()
            del self.store.views[: self.oldest_needed()]
            self.somebody_ends_it()
        self.end()

    # What happens.

    def arrive(self) -> None:
        self.leases += 1
        handle = self.chance.choice(self.handles)
        try:
            stay, seen = handle.arrive(Session(self.store, self.leases), NEVER)
        except errors.BrokenBarrier:
            assert self.broken_now()
            handle.forget()
            return
        at = next(i for i, view in enumerate(self.store.views) if view.revision == stay.create_revision)
        member = Member(stay, at)
        member.seen = seen
        self.members.append(member)

    def hear(self) -> None:
        """The watch tells a member something."""
        for member in self.picked(concluded=False):
            for _ in range(self.chance.randint(1, 4)):
                if member.seen is None and member.at + 1 < len(self.store.views):
                    member.at += 1
                    member.seen = member.stay.look(self.store.views[member.at])

    def act(self) -> None:
        """A member does what it has concluded."""
        for member in self.picked(concluded=True):
            self.conclude(member)

    def run_out_of_time(self) -> None:
        for member in self.picked(concluded=False):
            member.seen = self.out_of_time(member)
            if member.seen is None:
                member.alive = False
            self.conclude(member)

    def die(self) -> None:
        for member in self.picked():
            member.alive = False
            self.store.change({}, [member.stay.key])

    def the_told_ones_end(self) -> None:
        """Sessions of members that have been told end, all together."""
        gone = [member.stay.key for member in self.members if member.told]
        self.store.change({}, gone)

    def a_copy_arrives_late(self) -> None:
        if self.store.requests:
            self.store.txn(self.chance.choice(self.store.requests))
            self.store.requests.pop()

    def reset(self) -> None:
        handle = self.chance.choice(self.handles)
        view = self.store.now
        generation = rounds.Generation.of(self.LAYOUT, view)
        if generation.number:
            handle.reset(generation, view, NEVER)
            handle.forget()

    # How.

    def picked(self, concluded: bool | None = None) -> list[Member]:
        waiting = [member for member in self.members if member.alive and member.told is None]
        if concluded is not None:
            waiting = [member for member in waiting if (member.seen is not None) is concluded]
        return [self.chance.choice(waiting)] if waiting else []

    def out_of_time(self, member: Member) -> rounds.Conclusion | None:
        return self.handles[0].decide(member.stay, rounds.Verdict((), "late"), (), NEVER)

    def lost(self, member: Member) -> rounds.Conclusion | None:
        return self.handles[0].decide(member.stay, rounds.Verdict((), "lost"), (), NEVER)

    def conclude(self, member: Member) -> None:
        seen = member.seen
        if not isinstance(seen, rounds.Forgotten):
            member.seen = None
        if isinstance(seen, rounds.Told):
            member.told = seen.verdict
            self.judge(member)
        elif isinstance(seen, rounds.Full):
            passed = tuple(member.stay.name_of(each.key) for each in seen.counted)
            member.seen = self.handles[0].decide(member.stay, rounds.Verdict(passed), seen.counted, NEVER)
        elif isinstance(seen, rounds.Lost):
            member.seen = self.lost(member)
        if isinstance(member.seen, rounds.Forgotten):
            member.seen = None  # the watch will tell it
        # What a refused transaction showed is newer than what the watch has told.
        while (
            member.at + 1 < len(self.store.views)
            and self.store.views[member.at + 1].revision <= member.stay.revision
        ):
            member.at += 1

    def broken_now(self) -> bool:
        number = rounds.Generation.of(self.LAYOUT, self.store.now).number
        told = rounds.verdict(self.LAYOUT, self.store.now, number)
        return told is not None and told.broken

    def judge(self, member: Member) -> None:
        assert member.told is not None
        self.note_verdicts()
        number = member.stay.generation.number
        assert member.told == rounds.Verdict.decode(self.verdicts[number]), "all obey the same one"

    # What must always be true.

    def note_verdicts(self) -> None:
        for before, view in zip(self.store.views[:-1], self.store.views[1:], strict=True):
            for key, stored in view.kvs.items():
                if not key.endswith(self.LAYOUT.verdict) or stored.mod_revision != view.revision:
                    continue
                number = int(key.split(b"/")[4])
                assert self.verdicts.setdefault(number, stored.value) == stored.value, "it was rewritten"
                assert stored.version == 1
                self.check_passed(number, rounds.Verdict.decode(stored.value), before)

    def oldest_needed(self) -> int:
        needed = [member.at for member in self.members if member.alive and member.told is None]
        cut = min([*needed, len(self.store.views) - 1])
        for member in self.members:
            member.at -= cut
        return cut

    def check_passed(self, number: int, verdict: rounds.Verdict, before: View) -> None:
        if verdict.broken:
            return
        there = [each.key for each in rounds.members(self.LAYOUT, before, number)]
        prefix = self.LAYOUT.members_of(number)
        assert len(set(verdict.passed)) == len(verdict.passed) == self.parties
        assert all(prefix + each.encode() in there for each in verdict.passed), "all were there"

    def somebody_ends_it(self) -> None:
        """Where enough are in the current generation, somebody who hears of it all will end it."""
        generation = rounds.Generation.of(self.LAYOUT, self.store.now)
        if not generation.number or rounds.verdict(self.LAYOUT, self.store.now, generation.number):
            return
        there = rounds.members(self.LAYOUT, self.store.now, generation.number)
        if len(there) >= generation.parties:
            last = there[generation.parties - 1].key
            assert any(member.stay.key == last and member.alive for member in self.members)

    def end(self) -> None:
        """When everybody has heard of everything and done what was to be done, no wait is too long."""
        for _ in range(20):
            for member in list(self.members):
                while member.alive and member.told is None:
                    if member.seen is None and member.at + 1 < len(self.store.views):
                        member.at += 1
                        member.seen = member.stay.look(self.store.views[member.at])
                        assert not isinstance(member.seen, rounds.Forgotten)
                    elif member.seen is not None:
                        self.conclude(member)
                    else:
                        break
        waiting = [member for member in self.members if member.alive and member.told is None]
        assert len(waiting) < self.parties
        assert len({member.stay.generation.number for member in waiting}) <= 1


class DoubleModel(Model):
    """Losses break nothing, and who is out of time withdraws."""

    LAYOUT = rounds.Layout(b"/m/double_barrier/it/", b"waiters/", b"ready")

    def out_of_time(self, member: Member) -> rounds.Conclusion | None:
        seen = self.handles[0].withdraw(member.stay, NEVER)
        if seen is None:
            number = member.stay.generation.number
            verdict = rounds.verdict(self.LAYOUT, self.store.now, number)
            assert verdict is None or member.stay.id not in verdict.passed
        return seen

    def lost(self, member: Member) -> rounds.Conclusion | None:
        if member.stay.key not in self.store.now.kvs:
            member.alive = False
            return None
        return member.stay.look(member.stay.latest)

    def reset(self) -> None:
        """There is none."""


class TestProtocol:
    @pytest.mark.parametrize("model", [Model, DoubleModel])
    def test_every_play_ends_well(self, model):
        """
        One verdict a generation, told to all; who passes was there; who withdrew is counted by nobody.
        """
        for seed in range(PLAYS):
            try:
                model(seed).play()
            except Exception as error:
                raise AssertionError(f"seed {seed}") from error


class TestVerdict:
    @pytest.mark.parametrize(
        "stored", [b"", b"\xff", b"[]", b"{}", b'{"passed":[]}', b'{"passed":[1]}', b"[" * 9999]
    )
    def test_what_cannot_be_read_lets_nobody_pass(self, stored):
        """
        Whoever wrote it.
        """
        assert rounds.Verdict.decode(stored).broken

    @hypothesis.given(st.lists(st.text(), min_size=1), st.text())
    def test_it_comes_back_as_it_was(self, passed, why):
        """
        Either kind.
        """
        for verdict in (rounds.Verdict(tuple(passed)), rounds.Verdict((), why)):
            assert rounds.Verdict.decode(verdict.encode()) == verdict
