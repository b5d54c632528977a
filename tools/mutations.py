"""Rules of coordkit, each with the source that keeps it and what the source would be without it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One rule taken out."""

    name: str
    play: str
    module: str  # below coordkit/
    rule: str  # stands there exactly once
    instead: str
    arguments: tuple[str, ...] = ()  # for the trial


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
        "lock",
        "waitlist.py",
        "if not found.kvs or found.kvs[0].key != ticket.key:",
        "if False:",
    ),
    Mutation(
        "window mistaken for the whole line",
        "lock",
        "ticket.py",
        "if snapshot.more:",
        "if False:",
        ("--members", "24"),
    ),
    Mutation(
        "local hand-over without the head",
        "lock",
        "waitlist.py",
        "heir = self._tickets.get(head.key)",
        "heir = next((t for t in self._tickets.values() if t.phase is Phase.WAITING), None)",
    ),
    Mutation(
        "prefix without slash",
        "lock",
        "recipes/lock.py",
        'b"%s%s/" % (keys.prefix(session.link.namespace, "lock"), self._segment.encode())',
        'b"%s%s" % (keys.prefix(session.link.namespace, "lock"), self._segment.encode())',
    ),
    Mutation(
        "withdrawal without ending the epoch",
        "lock",
        "leased.py",
        "[kv.put(self.key, self._value, lease=self.lease_id), kv.delete(key), self.read_key],",
        "[kv.delete(key), self.read_key, self.read_key],",
    ),
)
