"""The pure parts of a queue: ids and keys, and who is to get what of the head."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit.recipes.queue import names, window
from coordkit.recipes.queue.crowd import Crowd
from coordkit.recipes.queue.window import Candidate, Want

LAYOUT = names.Layout(b"/demo/queue/jobs/")


def fresh(*ids, deliveries=0):
    return [Candidate(id_, 1, deliveries) for id_ in ids]


def shared(candidates, *wants, most=100, last_chance_out=False):
    shares = window.plan(candidates, wants, most, last_chance_out)
    return ["".join(each.id for each in share) for share in shares]


class TestNames:
    @given(st.integers(0, 999), st.integers(0, 2**63), st.integers(0, 2**31))
    def test_an_id_comes_back_from_each_of_its_keys(self, priority, stamp, number):
        """
        And says what it is made of.
        """
        id_ = names.item_id(priority, stamp, names.new_producer(), number)

        assert LAYOUT.id_of_item(LAYOUT.item(id_)) == id_
        assert LAYOUT.id_behind(LAYOUT.claims, LAYOUT.claim(id_)) == id_
        assert LAYOUT.id_behind(LAYOUT.attempts, LAYOUT.attempt(id_)) == id_
        assert LAYOUT.of_delayed(LAYOUT.delayed_item(77, id_)) == (77, id_)
        assert names.priority_of(id_) == priority

    @given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 2**63), st.integers(0, 2**31)), max_size=9))
    def test_items_sort_as_their_numbers_and_claims_as_their_items(self, parts):
        """
        By priority, stamp, producer, number.
        """
        ids = [names.item_id(priority, stamp, "abc", number) for priority, stamp, number in sorted(parts)]

        assert ids == sorted(ids)
        assert [LAYOUT.item(id_) for id_ in ids] == sorted(LAYOUT.item(id_) for id_ in ids)

    @given(st.binary(max_size=60))
    def test_foreign_keys_are_no_ids_and_raise_nothing(self, tail):
        """
        Whatever bytes they have.
        """
        found = [
            LAYOUT.id_of_item(LAYOUT.items + tail),
            LAYOUT.id_behind(LAYOUT.claims, LAYOUT.claims + tail),
            LAYOUT.of_delayed(LAYOUT.delayed + tail),
        ]

        assert all(each is None or b"-" in tail for each in found)


class TestPlan:
    def test_callers_are_served_in_order(self):
        """
        The oldest first, each with what it wants, as long as there is something.
        """
        candidates = fresh(*"abcdef")

        assert shared(candidates, Want(1, 5), Want(3, 5), Want(9, 5), Want(1, 5)) == ["a", "bcd", "ef", ""]
        assert shared(candidates, Want(4, 5), Want(1, 5), most=3) == ["abc", ""]

    def test_what_was_delivered_before_goes_alone(self):
        """
        It ends what stands before it, and comes first to the next.
        """
        candidates = [*fresh("a"), *fresh("S", deliveries=1), *fresh("b", "c")]

        assert shared(candidates, Want(9, 5), Want(9, 5), Want(9, 5)) == ["a", "S", "bc"]
        assert shared(candidates, Want(9, 5, fresh=False)) == ["a"]
        assert shared(candidates[1:], Want(9, 5, fresh=False)) == [""]

    def test_one_last_chance_at_a_time(self):
        """
        Others with theirs are left to somebody else; where one delivery is all there is, nobody has one.
        """
        candidates = [*fresh("X", "Y", deliveries=4), *fresh("a")]

        assert shared(candidates, Want(1, 5), Want(1, 5)) == ["X", "a"]
        assert shared(candidates, Want(1, 5), last_chance_out=True) == ["a"]
        assert shared(fresh("a", "b"), Want(2, 1), last_chance_out=True) == ["ab"]

    @given(
        st.lists(st.integers(0, 4), max_size=30),
        st.lists(st.integers(1, 9), max_size=6),
        st.integers(0, 20),
        st.booleans(),
    )
    def test_nothing_is_given_twice_or_out_of_order(self, deliveries, counts, most, last_chance_out):
        """
        And nobody gets more than was asked for.
        """
        candidates = [Candidate(f"{number:03d}", 1, each) for number, each in enumerate(deliveries)]

        shares = window.plan(candidates, [Want(count, 5) for count in counts], most, last_chance_out)

        given_out = [each.id for share in shares for each in share]
        assert given_out == sorted(set(given_out)) and len(given_out) <= most
        assert all(len(share) <= count for share, count in zip(shares, counts, strict=True))
        assert all(len(share) == 1 or not any(each.deliveries for each in share) for share in shares if share)
        assert sum(each.deliveries == 4 for share in shares for each in share) <= (not last_chance_out)


class TestSkip:
    @pytest.mark.parametrize(
        ("free", "wanted", "places", "first"),
        [(100, 1, 0, 0), (100, 1, 10, 10), (100, 1, 90, 64), (5, 1, 64, 4), (5, 9, 64, 0), (0, 1, 3, 0)],
    )
    def test_no_more_than_the_window_is_left_to_others(self, free, wanted, places, first):
        """
        And never so much that what is there would not do.
        """
        assert list(window.skip(range(free), wanted, places)) == list(range(first, free))


class TestCrowd:
    """Idle consumers that hear of single items, one after the other."""

    def test_one_of_them_comes_first_and_each_now_and_then(self):
        """
        Once all are known, every item has another order, and all reckon the same one.
        """
        leases = range(1, 33)
        crowd = Crowd()
        for lease in leases:
            crowd.claimed(str(lease), lease)
            crowd.ended(str(lease))

        firsts = []
        for number in range(1000):
            ranks = {crowd.rank(f"item-{number}", lease): lease for lease in leases}
            assert sorted(ranks) == list(range(32))
            firsts.append(ranks[0])

        assert set(firsts) == set(leases)
        assert max(map(firsts.count, leases)) < 100

    def test_who_has_something_in_hand_or_is_long_gone_keeps_nobody_waiting(self):
        """
        Until it is free again; and who was never seen keeps nobody waiting either.
        """
        crowd = Crowd()
        assert crowd.rank("x", 1) == 0
        crowd.claimed("a", 2)
        items = [f"item-{number}" for number in range(100)]

        assert not any(crowd.rank(each, 1) for each in items)
        crowd.ended("a")
        assert any(crowd.rank(each, 1) for each in items)

        for number in range(64):
            crowd.claimed(str(number), 1)
        assert not any(crowd.rank(each, 1) for each in items)
