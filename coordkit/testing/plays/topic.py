"""Two topics, a live and a retained one: some publish, the others follow, or share a cursor.

A cursor is judged, too: once a place was stored for certain, nobody who begins afterwards is given anything
at or before it.
"""

from __future__ import annotations

import itertools
import random
import threading
import typing
import weakref
from collections.abc import Callable, Sequence

import coordkit
from coordkit import deadline, errors
from coordkit.testing import checkers, plays
from coordkit.testing.history import Kind, Operation, Result
from coordkit.testing.recorder import Told, Witness

LIVE, KEPT, CURSOR = "live", "kept", "cursor"
STRETCH_S = 0.4
RETAIN = 10**9
PERSISTENT = ("/topic/",)

_numbers = itertools.count()
#: How far each has come in the retained topic.
_places: weakref.WeakKeyDictionary[Witness, tuple[int, int]] = weakref.WeakKeyDictionary()


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """Publish, or follow for a while."""
    if plays.number_of(witness) % 2 == 0:
        _publish(coord, witness, random.choice((LIVE, KEPT)), random.choice((1, 2, 12, 60)))
        threading.Event().wait(random.uniform(0, 0.01))
    else:
        random.choice((_follow_live, _follow_kept, _share, _share))(coord, witness)


def finish(coord: coordkit.Coordinator, witness: Witness) -> None:
    """One reads all that is retained, up to a last message."""
    _publish(coord, witness, KEPT, 1)
    _follow_kept(coord, witness, stretch_s=5.0)


def _topic(coord: coordkit.Coordinator, name: str) -> coordkit.Topic:
    return coord.topic(name, retain=RETAIN if name == KEPT else None)


def _publish(coord: coordkit.Coordinator, witness: Witness, name: str, count: int) -> None:
    topic, subject = _topic(coord, name), f"m{next(_numbers)}."
    values = [f"{subject}{number}" for number in range(count)]

    def publish() -> Told:
        return Told(revision=topic.publish_many(values, timeout=random.choice((0.05, 5.0))))

    witness.call(Kind.PUBLISH, publish, name=name, subject=subject, number=count)


def _gap(witness: Witness, name: str, revision: int | None = None) -> None:
    witness.saw(Kind.GAP, Told(revision=revision), name=name)


def _follow_live(coord: coordkit.Coordinator, witness: Witness) -> None:
    _gap(witness, LIVE)  # what came before it is not for us
    with _topic(coord, LIVE).subscribe("new", timeout=2, buffer=40, overflow="gap") as subscription:
        _deliver(subscription, witness, LIVE, STRETCH_S, lambda message: True)


def _follow_kept(coord: coordkit.Coordinator, witness: Witness, stretch_s: float = STRETCH_S) -> None:
    last = _places.get(witness, (0, 0))
    start: int | typing.Literal["all"] = last[0] or "all"

    def is_new(message: coordkit.Message) -> bool:
        place = (message.revision, message.index)
        if place <= last:
            return False  # the rest of the transaction where we had stopped begins with what we know
        _places[witness] = place
        return True

    with _topic(coord, KEPT).subscribe(start, timeout=2, buffer=40) as subscription:
        _deliver(subscription, witness, KEPT, stretch_s, is_new)


def _deliver(
    subscription: coordkit.Subscription,
    witness: Witness,
    name: str,
    stretch_s: float,
    is_new: Callable[[coordkit.Message], bool],
) -> None:
    limit = deadline.Deadline.after(stretch_s)
    while not limit.expired:
        try:
            message = subscription.get(timeout=min(0.3, limit.remaining()))
        except errors.Gap as gap:
            _gap(witness, name, None if name == LIVE else gap.revision)
            continue
        if message is not None and is_new(message):
            told = Told(subject=message.value.decode(), revision=message.revision, number=message.index)
            witness.saw(Kind.DELIVER, told, name=name)


def _share(coord: coordkit.Coordinator, witness: Witness) -> None:
    """A few messages, stored as done one by one, on a cursor that others use as well."""
    cursor = coordkit.Cursor(CURSOR, auto=False)
    subscriptions: list[coordkit.Subscription] = []
    messages: list[coordkit.Message] = []

    def begin() -> Told:
        subscriptions.append(_topic(coord, KEPT).subscribe(cursor, timeout=2, buffer=40))
        first = subscriptions[0].get(timeout=0.2)
        if first is None:
            return Told(done=False)
        messages.append(first)
        return Told(revision=first.revision, number=first.index)

    def commit() -> Told:
        subscriptions[0].commit(messages[-1])
        return Told(revision=messages[-1].revision, number=messages[-1].index)

    try:
        witness.call(Kind.OBSERVE, begin, name=CURSOR)
        for _ in range(random.randrange(1, 6)):
            if not messages or witness.call(Kind.WRITE, commit, name=CURSOR) is None:
                return
            threading.Event().wait(random.uniform(0, 0.05))
            following = subscriptions[0].get(timeout=0.05)
            messages += [] if following is None else [following]
    finally:
        for subscription in subscriptions:
            subscription.close()


def judge(operations: Sequence[Operation]) -> list[str]:
    """What was published and delivered; and the cursor."""
    published = [each for each in operations if each.name != CURSOR]
    return plays.words(checkers.check_topic(published)) + _rewound(operations)


def _rewound(operations: Sequence[Operation]) -> list[str]:
    """Who began after a place had been stored, and was given that place, or one before it."""
    on_cursor = [each for each in operations if each.name == CURSOR and each.result is Result.OK]
    stored = [(each.completed_ns or 0, _place(each)) for each in on_cursor if each.kind is Kind.WRITE]
    wrong = []
    for begun in (each for each in on_cursor if each.kind is Kind.OBSERVE):
        before = max((place for ended, place in stored if ended < begun.invoked_ns), default=(0, 0))
        if _place(begun) <= before:
            wrong.append(f"rewound: a subscriber began at {_place(begun)} when {before} had been stored")
    return wrong


def _place(operation: Operation) -> tuple[int, int]:
    return operation.revision or 0, operation.number or 0
