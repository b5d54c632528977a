"""A world small enough to be played through thousands of times: one process, and an etcd in memory around it.

The lock, the line and the session under test are the real ones; the client and the watches are replaced.  All
of it runs on one thread: whenever the code under test sends, reads or waits, the world acts, as a seeded
random number generator says.  It lets others join and leave, gives names back, tells watches late, loses
requests and replies, delivers copies late, answers from the past, forgets history, and deletes our keys.
"""

from __future__ import annotations

import math
import operator
import random
import types
from collections.abc import Callable
from typing import Any

import attrs

from coordkit import errors, keys
from coordkit import session as sessions
from coordkit.deadline import Deadline, boottime
from coordkit.etcd import kv, watch
from coordkit.etcd import lease as leases
from coordkit.recipes import lock as locks
from coordkit.wire import messages

NAMESPACE = "world"
PREFIX = b"/world/lock/it/"
LEASE = 7
QUIET_WAITS = 30  # so many waits in a world where nothing goes wrong any more are a stall


class Violation(AssertionError):
    """Something happened that must never happen."""


class Interrupt(BaseException):
    """Ctrl-C, a killed greenlet, or a caller whose time is up."""


@attrs.define
class Weather:
    """How often, of 1, what goes wrong."""

    act: float = 0.6  # something happens between two steps of ours
    lose: float = 0.06  # a request, or the reply to one
    stale: float = 0.1  # a read is answered from the past
    own: float = 0.03  # an action is the deletion of a key of ours
    gap: float = 0.05  # an action is the end of a watch's history
    session: float = 0.003  # an action is the deletion of our session key
    interrupt: float = 0.02  # a step of ours that waits is interrupted
    few: float = 0.5  # who joins takes one of few names, as Go's sessions do
    back: float = 0.0  # who leaves is one of those right before us
    others: int = 20  # who stands in line at the start, at most
    acts: int = 40  # what happens before it grows quiet
    brief: float = 0.1  # where several of ours hold in turn: an action is that a holder lets go


class Store:
    """etcd's keys at one revision."""

    def __init__(self) -> None:
        self.revision = 1
        self.keys: dict[bytes, messages.KeyValue] = {}
        self.deletions: list[tuple[int, bytes, int]] = []  # revision, key, its create revision
        self.given_up: list[tuple[int, bytes, int]] = []  # those of our own doing
        self.past: list[tuple[int, dict[bytes, messages.KeyValue]]] = []

    def commit(self, puts: list[messages.PutRequest], deletes: list[bytes], ours: bool = False) -> bool:
        gone = [key for key in deletes if key in self.keys]
        if not puts and not gone:
            return False
        self.past.append((self.revision, dict(self.keys)))
        self.revision += 1
        for put in puts:
            old = self.keys.get(put.key)
            created = old.create_revision if old else self.revision
            self.keys[put.key] = messages.KeyValue(
                key=put.key, create_revision=created, mod_revision=self.revision, version=1, lease=put.lease
            )
        for key in gone:
            deletion = (self.revision, key, self.keys.pop(key).create_revision)
            self.deletions.append(deletion)
            if ours:
                self.given_up.append(deletion)
        return True

    def txn(self, request: messages.TxnRequest) -> messages.TxnResponse:
        holds = all(map(self._holds, request.compare))
        branch = request.success if holds else request.failure
        puts = [op.request_put for op in branch if op.HasField("request_put")]
        deletes = [op.request_delete_range.key for op in branch if op.HasField("request_delete_range")]
        self.commit(puts, deletes, ours=True)
        reply = messages.TxnResponse(succeeded=holds)
        reply.header.revision = self.revision
        for op in branch:
            answer = reply.responses.add()
            if op.HasField("request_range"):
                answer.response_range.CopyFrom(self.range(op.request_range, self.revision, self.keys))
            elif op.HasField("request_put"):
                answer.response_put.SetInParent()
            else:
                answer.response_delete_range.SetInParent()
        return reply

    def _holds(self, compare: messages.Compare) -> bool:
        holds = {messages.Compare.EQUAL: operator.eq, messages.Compare.GREATER: operator.gt}[compare.result]
        name = {messages.Compare.CREATE: "create_revision", messages.Compare.MOD: "mod_revision"}[
            compare.target
        ]
        end = compare.range_end or compare.key + b"\0"
        found = [stored for key, stored in self.keys.items() if compare.key <= key < end]
        stored_or_none = found or [messages.KeyValue()]
        return all(holds(getattr(stored, name), getattr(compare, name)) for stored in stored_or_none)

    @staticmethod
    def range(
        request: messages.RangeRequest, revision: int, stored: dict[bytes, messages.KeyValue]
    ) -> messages.RangeResponse:
        end = request.range_end or request.key + b"\0"
        most = request.max_create_revision or math.inf
        found = [
            each for key, each in stored.items() if request.key <= key < end and each.create_revision <= most
        ]
        newest_first = request.sort_order == messages.RangeRequest.DESCEND
        found.sort(key=lambda each: each.create_revision, reverse=newest_first)
        shown = found[: request.limit] if request.limit else found
        reply = messages.RangeResponse(kvs=shown, count=len(found), more=len(shown) < len(found))
        reply.header.revision = revision
        return reply


class Watch:
    """A watch on the store's deletions, told when the world sees fit."""

    def __init__(self, world: World, key: bytes, range_end: bytes, listener: Any) -> None:
        self._world = world
        self._key = key
        self._range_end = range_end or key + b"\0"
        self._listener = listener
        self._told = 0  # up to which revision
        self.stands = False
        self.ended = False

    def begin(self) -> None:
        self.stands = True
        self._told = self._world.store.revision
        self._world.see(self._told)
        self._listener.on_created(self._told)

    def untold(self) -> list[tuple[int, bytes, int]]:
        return [
            deletion
            for deletion in self._world.store.deletions
            if deletion[0] > self._told and self._key <= deletion[1] < self._range_end
        ]

    def tell(self, most: int) -> None:
        """The next few deletions; all of one revision together, as when a lease takes its keys."""
        untold = self.untold()
        if not untold:
            return
        self._told = untold[:most][-1][0]
        events = [each for each in untold if each[0] <= self._told]
        self._world.see(self._told)
        self._listener.on_events([watch.Event(key, b"", True, 0, revision, 0) for revision, key, _ in events])

    def resume(self) -> None:
        """The stream broke and was opened again: nothing is missed, and `on_created` comes once more."""
        self._listener.on_created(self._world.store.revision)

    def forget(self) -> None:
        """History is compacted under it."""
        self.cancel()
        self._listener.on_gap(self._world.store.revision)

    def cancel(self) -> None:
        self.ended = True
        if self in self._world.watches:
            self._world.watches.remove(self)


class Client:
    """Stands in for the client: every call is a chance for the world to act."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.options = types.SimpleNamespace(timeout_s=5.0)
        self.seen_revision = 0

    def deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(-1)

    def txn(self, request: kv.TxnRequest, deadline: Deadline) -> kv.TxnResult:
        world = self._world
        message = messages.TxnRequest.FromString(request.SerializeToString())
        world.joined.extend(op.request_put.key for op in message.success if op.HasField("request_put"))
        world.act()
        if world.chance(world.weather.lose):
            fate = world.random.choice(["never sent", "lost", "late", "reply lost"])
            if fate == "reply lost":
                world.store.txn(message)
                world.act()
            copies = world.random.choice({"late": [1, 2], "reply lost": [0, 0, 1]}.get(fate, [0]))
            world.late.extend([lambda: world.store.txn(message)] * copies)
            world.interrupt()
            outcome = errors.Outcome.NONE if fate == "never sent" else errors.Outcome.UNKNOWN
            raise errors.Unavailable(fate, outcome)
        reply = world.store.txn(message)
        world.act()
        world.see(reply.header.revision)
        return kv.TxnResult(reply, reply.header.revision)

    def read(self, request: messages.RangeRequest, deadline: Deadline) -> messages.RangeResponse:
        world = self._world
        world.act()
        world.interrupt()
        if world.chance(world.weather.lose):
            raise errors.Unavailable("no answer")
        revision, stored = world.store.revision, world.store.keys
        if world.store.past and world.chance(world.weather.stale):
            revision, stored = world.random.choice(world.store.past[-10:])
        reply = world.store.range(request, revision, stored)
        world.act()
        world.see(revision)
        return reply

    def unary(self, method: str, request: Any, reply_type: Any, deadline: Deadline, repeatable: bool) -> Any:
        assert method == leases.REVOKE
        self._world.revoke(request.ID)

    def wait(self, waiter: Any, deadline: Deadline) -> bool:
        if not waiter.done:
            self._world.interrupt()
            self._world.pass_time()
        return bool(waiter.done)

    def drop_channel(self, reason: str) -> None:
        pass


class World:
    """One play: a seed and a weather decide all of it."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.random = random.Random(seed)
        self.weather = weather
        self.store = Store()
        self.watches: list[Watch] = []
        self.late: list[Callable[[], Any]] = []
        self.chores: list[Callable[[], None]] = []
        self.timers: list[Callable[[], None]] = []
        self._left = 0  # so many things happen before it grows quiet
        self._quiet_waits = 0
        self._depth = 0
        self._names = 0
        self._release: Callable[[], None] | None = None
        self.granted: set[int] = set()  # fences
        self.joined: list[bytes] = []  # the names that were asked for since `stir`
        self.unwanted: dict[bytes, int] = {}  # names that nobody waits in any more, from a revision on
        self.leases: set[int] = set()  # of our sessions
        self.client = self._make_client()
        self._link = self._make_link()
        self.session = self.open_session()

    def _make_client(self) -> Client:
        return Client(self)

    def _make_link(self) -> sessions.Link:
        attendant = types.SimpleNamespace(
            news=None,
            after=lambda delay_s, action: self.timers.append(action),
            remove=lambda pulse: None,
        )
        watcher = types.SimpleNamespace(watch=self._watch, watch_prefix=self._watch_prefix)
        group = types.SimpleNamespace(txn=self.client.txn)
        return sessions.Link(self.client, watcher, NAMESPACE, "me", attendant, group)  # type: ignore[arg-type]

    def open_session(self) -> sessions.Session:
        """One more, all on one link."""
        lease = LEASE + len(self.leases)
        self.leases.add(lease)
        session = sessions.Session(self._link, sessions.Terms(), lease, 10**6, boottime())
        session._chores = types.SimpleNamespace(submit=self.chores.append)  # type: ignore[assignment]
        self.store.commit([messages.PutRequest(key=session.key, lease=lease)], [])
        session.key_created = self.store.revision
        session._enter_epoch(self.store.revision)
        return session

    def _watch(self, key: bytes, listener: Any, *, range_end: bytes = b"", filters: Any = ()) -> Watch:
        made = Watch(self, key, range_end, listener)
        self.watches.append(made)
        return made

    def _watch_prefix(self, prefix: bytes, listener: Any, **options: Any) -> Watch:
        return self._watch(prefix, listener, range_end=keys.range_end(prefix), **options)

    def see(self, revision: int) -> None:
        self.client.seen_revision = max(self.client.seen_revision, revision)

    def chance(self, of_one: float) -> bool:
        return self._left > 0 and self.random.random() < of_one

    def revoke(self, lease: int) -> None:
        self.store.commit([], [key for key, stored in self.store.keys.items() if stored.lease == lease])

    # What happens.

    def stir(self) -> None:
        """It is not quiet any more."""
        self._left = self.weather.acts
        self.joined.clear()
        self._quiet_waits = 0

    def interrupt(self) -> None:
        """Perhaps the caller does not wait any longer; what runs in the background is never interrupted."""
        if self._depth == 0 and self.chance(self.weather.interrupt):
            raise Interrupt

    def act(self) -> None:
        """Perhaps something; not within something that happens already."""
        if self._depth == 0:
            self._depth += 1
            while self.chance(self.weather.act):
                self._left -= 1
                self._something()
            self._depth -= 1

    def _something(self) -> None:
        pick, weather = self.random.random(), self.weather
        if pick < weather.session:
            self.store.commit([], [self.session.key])
        elif pick < weather.session + weather.own:
            self._delete(self.of_mine())
        elif pick < weather.session + weather.own + weather.gap:
            self._one_of(self.watches, Watch.forget if self.random.random() < 0.5 else Watch.resume)
        elif pick < 0.3:
            self._begin_a_watch()
        elif pick < 0.55:
            self._one_of(self.watches, lambda each: each.tell(self.random.randint(1, 4)))
        elif pick < 0.65:
            self.join()
        elif pick < 0.85:
            self._somebody_leaves()
        elif pick < 0.92:
            self._take_one(self.late)
        elif pick < 0.97 or self._release is None:
            self._take_one(self.random.choice([self.chores, self.timers]))
        else:
            self._let_the_holder_go()

    def pass_time(self) -> None:
        """The code under test waits: something happens, or, when it is quiet, all that is outstanding."""
        if self._left > 0:
            self._left -= 1
            self._depth += 1
            self._something()
            self._depth -= 1
            return
        self._quiet_waits += 1
        if self._quiet_waits > QUIET_WAITS:
            raise Violation("it waits for ever")
        self.store.commit([], self.others())
        self.calm()

    def calm(self) -> None:
        """Everything outstanding happens, and nothing else."""
        self._left = 0
        self._let_the_holder_go()
        for _ in range(len(self.timers)):  # those that are due now; some wind themselves up again
            self.timers.pop(0)()
        while self.chores or self.late or self._unfinished_watches():
            self._take_one(self.late)
            self._take_one(self.chores)
            self._begin_a_watch()
            for each in list(self.watches):
                if each.stands:
                    each.tell(10**6)

    def _unfinished_watches(self) -> bool:
        return any(not each.stands or each.untold() for each in self.watches)

    def _one_of(self, watches: list[Watch], action: Callable[[Watch], None]) -> None:
        standing = [each for each in watches if each.stands]
        if standing:
            action(self.random.choice(standing))

    def _begin_a_watch(self) -> None:
        """One create is pending at a time."""
        waiting = next((each for each in self.watches if not each.stands), None)
        if waiting is not None:
            waiting.begin()

    def _somebody_leaves(self) -> None:
        others = self.others()
        if self.random.random() < self.weather.back:
            mine = min((each.create_revision for each in self.line() if each.lease in self.leases), default=0)
            self._delete([each.key for each in self.line() if each.create_revision < mine][-3:])
        else:
            self._delete(others[:3] if self.random.random() < 0.7 else others)

    def _delete(self, names: list[bytes]) -> None:
        if names:
            self.store.commit([], [self.random.choice(names)])

    def _take_one(self, jobs: list[Callable[[], Any]]) -> None:
        if jobs:
            jobs.pop(self.random.randrange(len(jobs)))()

    # Who is there.

    def line(self) -> list[messages.KeyValue]:
        return sorted(
            (stored for key, stored in self.store.keys.items() if key.startswith(PREFIX)),
            key=lambda stored: stored.create_revision,
        )

    def others(self) -> list[bytes]:
        """Keys of other processes, oldest first."""
        return [stored.key for stored in self.line() if stored.lease not in self.leases]

    def of_mine(self) -> list[bytes]:
        return [stored.key for stored in self.line() if stored.lease in self.leases]

    def join(self) -> None:
        """Another process joins, with a name that is new, or, as Go does it, with one of few."""
        self._names += 1
        few = self.random.random() < self.weather.few
        name = b"%x" % self.random.randrange(4) if few else b"%016x-%d" % (99, self._names)
        if PREFIX + name not in self.store.keys:
            self.store.commit([messages.PutRequest(key=PREFIX + name, lease=99)], [])

    def hold_first(self) -> None:
        """Another thread of this process holds the lock, and releases it at some time."""
        holder = locks.Lock(self.session, "it")
        assert holder.acquire()
        self.granted.add(holder.fence)

        def release() -> None:
            self._release = None
            try:
                holder.release()
            except (errors.LockLost, errors.SessionLost):
                pass  # somebody deleted its key, or the session's

        self._release = release

    def _let_the_holder_go(self) -> None:
        if self._release is not None:
            self._depth += 1
            self._release()
            self._depth -= 1

    # What must hold.

    def judge_the_end(self) -> None:
        """None of our keys is left, and no place was given up that somebody still waited in."""
        if self.of_mine():
            raise Violation(f"left behind: {self.of_mine()}")
        for _, key, created in self.store.given_up:
            wanted = created not in self.granted and created <= self.unwanted.get(key, created)
            if wanted and not self.session.lost.is_set():
                raise Violation(f"{key!r} with fence {created} was given up by who waited in its place")

    def judge_grant(self, key: bytes, fence: int) -> None:
        """At some revision our key was there and no older one was."""
        self.granted.add(fence)
        older = [stored.key for stored in self.line() if stored.create_revision < fence]
        if older:
            raise Violation(f"granted with fence {fence} while {older} stand before it")
        gone = [(revision, name, created) for revision, name, created in self.store.deletions]
        mine = next(
            (revision for revision, name, created in gone if created == fence and name == key), math.inf
        )
        last = max(
            (revision for revision, name, created in gone if created < fence and name.startswith(PREFIX)),
            default=0,
        )
        if mine < last:
            raise Violation(
                f"granted with fence {fence}: its key went at {mine}, the last before it at {last}"
            )


def play(seed: int, weather: Weather) -> str:
    """A few times an acquire and a release; returns how the last one ended.

    Raises:
        Violation: A grant that was none, a wait without end, or a key that was left behind.
    """
    world = World(seed, weather)
    if world.random.random() < 0.4:
        world.hold_first()
    for _ in range(world.random.randint(0, weather.others)):
        world.join()
    lock = locks.Lock(world.session, "it")
    ended = ""
    for _ in range(world.random.randint(1, 4)):  # the name of a key that was released at once comes back
        ended = _cycle(world, lock)
    world.calm()
    world.judge_the_end()
    return ended


def _cycle(world: World, lock: locks.Lock) -> str:
    world.stir()
    start = world.store.revision
    try:
        assert lock.acquire()
        world.judge_grant(lock.key, lock.fence)
        return _release(world, lock)
    except errors.SessionLost:
        return "session lost"
    except Interrupt:
        world.unwanted.update(dict.fromkeys(world.joined, start))
        return "interrupted"


def _release(world: World, lock: locks.Lock) -> str:
    key, fence = lock.key, lock.fence
    try:
        lock.release()
    except errors.LockLost:
        if any(name == key and created == fence for _, name, created in world.store.deletions):
            return "lost"
        if not world.session.lost.is_set():
            raise Violation("the release reports a loss, and its key is there") from None
        return "lost"
    if key in world.store.keys:
        raise Violation("the release is done, and its key is there")
    return "released"
