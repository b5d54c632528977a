"""Rules of coordkit, each with the source that keeps it and what the source would be without it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One rule taken out."""

    name: str
    play: str  # or "": what a trial cannot do, tests must
    module: str  # below coordkit/
    rule: str  # stands there exactly once
    instead: str
    arguments: tuple[str, ...] = ()  # for the trial, or for pytest


MUTATIONS = (
    Mutation(
        "no epoch compare",
        "lock",
        "leased.py",
        "[kv.create(key) == 0, in_epoch, *when],",
        "[kv.create(key) == 0, *when],",
    ),
    Mutation(
        "unlock by name",
        "lock",
        "leased.py",
        "[kv.create(key) == create_revision], [kv.delete(key), *then], [self.read_key]",
        "[], [kv.delete(key), *then], [self.read_key]",
    ),
    Mutation(
        "strike by name alone",
        "lock",
        "ticket.py",
        "if self.ahead and self.ahead.get(key, revision) < revision:",
        "if self.ahead and key in self.ahead:",
    ),
    Mutation(
        "grant without own key",
        "brief",
        "waitlist.py",
        "if not seen.shows_us:",
        "if False:",
    ),
    Mutation(
        "grant from a stale read",
        "",
        "waitlist.py",
        "if seen.revision < floor:",
        "if False:",
        ("tests/interleavings/test_world.py", "-k", "no_grant_is_wrong and storm"),
    ),
    Mutation(
        "watch from the reply's revision without confirming",
        "brief",
        "linewatch.py",
        "return covered_from is not None and covered_from <= revision",
        "return covered_from is not None",
    ),
    Mutation(
        "window mistaken for the whole line",
        "crowd",
        "ticket.py",
        "        if more:\n",
        "        if False:\n",
    ),
    Mutation(
        "local hand-over without the head",
        "lock",
        "waitlist.py",
        """heir = self._tickets.get(head.key)
            # Its key may have been deleted since it joined; only the head that the transaction read counts.
            if (
                heir is None
                or heir.phase is not Phase.WAITING
                or heir.create_revision != head.create_revision
            ):""",
        """heir = next((each for each in self._tickets.values() if each.phase is Phase.WAITING), None)
            if heir is None:""",
    ),
    Mutation(
        "prefix without slash",
        "lock",
        "recipes/locklike.py",
        'prefix = b"%s%s/" % (keys',
        'prefix = b"%s%s" % (keys',
    ),
    Mutation(
        "withdrawal without ending the epoch",
        "lock",
        "leased.py",
        "[kv.put(self.key, self._value, lease=self.lease_id), *deletes, self.read_key],",
        "[self.read_key, *deletes, self.read_key],",
    ),
    Mutation(
        "a permit too many",
        "semaphore",
        "ticket.py",
        "return self.is_free or (self.ahead is not None and len(self.ahead) < self.places)",
        "return self.is_free or (self.ahead is not None and len(self.ahead) <= self.places)",
    ),
    Mutation(
        "deadline from receipt",
        "session",
        "session.py",
        "session = cls(link, terms, lease_id, ttl_s, granted_s)",
        "session = cls(link, terms, lease_id, ttl_s, boottime())",
    ),
    Mutation(
        "session key unwatched",
        "session",
        "session.py",
        "self._watch = self.link.watcher.watch(self.key, _KeyWatch(self), filters=(watch.NO_PUTS,))",
        'self._watch = self.link.watcher.watch(self.key + b"?", _KeyWatch(self))',
    ),
    Mutation(
        "resume from the header's revision",
        "",
        "etcd/watch.py",
        "watch.next_revision = events[-1].mod_revision + 1",
        "watch.next_revision = header.revision + 1",
        ("tests/test_watch.py", "-k", "resumes_behind_its_last_event"),
    ),
    Mutation(
        "retry without a nonce",
        "counter",
        "cell.py",
        "if flight.doubtful and receipt is not None and receipt.value == flight.nonce:",
        "if flight.doubtful and receipt is not None:",
    ),
    Mutation(
        "a cell without its compare",
        "counter",
        "cell.py",
        "            [kv.mod(self.key) == revision],\n            # The receipt always",
        "            [],\n            # The receipt always",
    ),
    Mutation(
        "a publish in doubt is sent again without a nonce",
        "topic",
        "recipes/topic/log.py",
        "mine = parsed is not None and parsed[0].nonce == header.nonce",
        "mine = False",
    ),
    Mutation(
        "cursor without compare",
        "topic",
        "recipes/topic/cursors.py",
        "[kv.mod(self._key) == self._mod], [kv.put(self._key, value)], [kv.get(self._key)]",
        "[], [kv.put(self._key, value)], [kv.get(self._key)]",
        ("--members", "10"),
    ),
    Mutation(
        "cursor by stamp: a publish without the compare of the head",
        "topic",
        "recipes/topic/log.py",
        "when = [kv.mod(names.head) == head.revision]",
        "when: list[kv.Compare] = []",
    ),
    Mutation(
        "cursor by stamp: a queue is read from the head of the last look on",
        "",
        "recipes/queue/fetcher.py",
        'start = b"" if found is None else found.last_key + b"\\0"',
        """start = layout.item(self._first) if self._first else b""
            if found is not None:
                start = found.last_key + b"\\0\"""",
        ("tests/contract/test_queue_faults.py", "-k", "comes_late"),
    ),
    Mutation(
        "ack without the claim compare",
        "queue",
        "recipes/queue/delivery.py",
        "return kv.create(self.layout.claim(delivery.id)) == delivery.revision",
        "return kv.create(self.layout.claim(delivery.id)) > 0",
    ),
    Mutation(
        "claim without the item compare",
        "queue",
        "recipes/queue/claiming.py",
        "            kv.mod(item) == candidate.mod_revision,\n",
        "",
    ),
    Mutation(
        "claim without the compares of the claim and of the count",
        "queue",
        "recipes/queue/claiming.py",
        """            kv.create(claim_key) == 0,
            kv.mod(item) == candidate.mod_revision,
            kv.version(attempt) == candidate.deliveries,
""",
        "            kv.mod(item) == candidate.mod_revision,\n",
    ),
    Mutation(
        "barrier: a verdict over a verdict",
        "barrier",
        "recipes/assembly.py",
        "when = [*rounds.undecided(self.layout, generation), *rounds.still_there(counted)]",
        "when = [*rounds.still_there(counted)]",
    ),
    Mutation(
        "barrier without verdict: who counts enough passes",
        "barrier",
        "recipes/assembly.py",
        "return rounds.Told(verdict) if view is None else stay.look(view)",
        "return rounds.Told(verdict)",
    ),
    Mutation(
        "observe from a lagging member",
        "",
        "observation.py",
        "if revision < max(feed.stands_from, self._places.revision):",
        "if False:",
        ("tests/test_observation.py", "-k", "before_the_watch"),
    ),
    Mutation(
        "proclaim without compare",
        "election",
        "recipes/leadership.py",
        "[kv.mod(self.key) == self._proclaimed],",
        "[],",
    ),
    Mutation(
        "once: the next attempt without compare",
        "once",
        "recipes/once.py",
        "when = [kv.mod(key) == place.mod_revision, _alive(session)]",
        "when = [_alive(session)]",
    ),
)
