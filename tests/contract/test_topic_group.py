"""Groups: the members share a topic; each message goes to one of them, again if that one dies."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest
from contract.players import expire, wait_until
from contract.test_topic import numbers, take

import coordkit
from coordkit import errors

pytestmark = pytest.mark.coordkit_leaves("keys")

Join = Callable[..., coordkit.Subscription]


@pytest.fixture
def join(coord_factory) -> Join:
    """A member of the group `g` on a connection of its own."""

    def join(start="all", **arguments) -> coordkit.Subscription:
        return coord_factory(ttl=2).topic("jobs", retain=math.inf).subscribe(start, group="g", **arguments)

    return join


@pytest.fixture
def topic(coord) -> coordkit.Topic:
    return coord.topic("jobs", retain=math.inf)


def rest(subscription: coordkit.Subscription, within_s: float = 0.3) -> list[bytes]:
    """What still comes."""
    values = []
    while (message := subscription.get(within_s)) is not None:
        values.append(message.value)
    return values


def test_each_message_goes_to_one_member(topic, join):
    """
    Four members at work at once; nobody is left out of the order of its own.
    """
    topic.publish_many(numbers(60))
    members = [join() for _ in range(4)]
    seen: list[list[bytes]] = [[] for _ in members]

    def work(number: int) -> None:
        seen[number].extend(rest(members[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    topic.publish_many(numbers(60, start=60))
    for thread in threads:
        thread.join()

    together = sorted((value for own in seen for value in own), key=int)
    assert together == numbers(120)
    for own in seen:
        assert own == sorted(own, key=int)
    for member in members:
        member.close()


def test_a_group_goes_on_where_it_was(topic, join):
    """
    What is done does not come again, whoever comes.
    """
    topic.publish_many(numbers(5))
    with join() as first:
        assert take(first, 3) == numbers(3)
    topic.publish(b"5")

    with join() as second:
        assert take(second, 3) == numbers(3, start=3)


def test_what_a_dead_member_had_comes_again(coord, topic, join):
    """
    To another, once its lease has ended; and the dead one is told if it is not dead after all.
    """
    topic.publish_many(numbers(3))
    victim, heir = join(), join()
    message = victim.get(15)
    assert message.value == b"0"
    assert take(heir, 2) == numbers(2, start=1)

    expire(victim._supply.readers[0]._claims[message.position.order].session, coord)

    assert take(heir, 1) == numbers(1)
    with pytest.raises(coordkit.ClaimLost):
        victim.commit(message)
    heir.close()
    victim.close()


def test_what_was_not_done_is_given_back(topic, join):
    """
    At once, when a member leaves with an error.
    """
    topic.publish_many(numbers(2))
    heir = join()

    with pytest.raises(ZeroDivisionError), join() as clumsy:
        take(clumsy, 1)
        raise ZeroDivisionError

    assert sorted(take(heir, 2)) == numbers(2)
    heir.close()


def test_one_who_comes_after_a_death_finds_what_is_left(coord, topic, join):
    """
    Although nobody was there to hear of it.
    """
    topic.publish_many(numbers(2))
    victim = join()
    message = victim.get(15)
    session = victim._supply.readers[0]._claims[message.position.order].session
    expire(session, coord)
    wait_until(lambda: not coord.kv.range(f"/{coord.settings.namespace}/topic/jobs/groups/g/claims/"))

    with join() as heir:
        assert sorted(take(heir, 2)) == numbers(2)
    victim.close()


def test_done_leaves_nothing_behind(coord, topic, join):
    """
    But how far the group is.
    """
    topic.publish_many(numbers(10))
    with join() as member:
        take(member, 10)

    left = coord.kv.range(f"/{coord.settings.namespace}/topic/jobs/groups/")
    assert [found.key.rpartition(b"/")[2] for found in left] == [b"next"]


def test_explicit_commits_may_come_in_any_order(topic, join):
    """
    Each speaks for one message alone.
    """
    topic.publish_many(numbers(3))
    member = join()
    messages = []

    def take_one() -> None:  # on a thread of its own, whose message nobody else settles
        messages.append(member.get(15))

    for _ in range(3):
        thread = threading.Thread(target=take_one)
        thread.start()
        thread.join()
    member.commit(messages[2])
    member.commit(messages[0])
    member.close()

    with join() as heir:
        assert take(heir, 1) == [messages[1].value]
        assert rest(heir) == []


def test_a_new_group_begins_where_it_is_told_to(topic, join):
    """
    With what is new, for one.
    """
    topic.publish(b"old")
    member = join("new")
    topic.publish(b"0")

    assert take(member, 1) == numbers(1)
    member.close()


def test_a_group_of_a_live_topic_is_refused(coord):
    """
    Nobody could give a message again.
    """
    with pytest.raises(errors.UsageError, match="retained"):
        coord.topic("live").subscribe(group="g")
    with pytest.raises(coordkit.InvalidValue):
        coord.topic("jobs", retain=10).subscribe(coordkit.Cursor("c"), group="g")
