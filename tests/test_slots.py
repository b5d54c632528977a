"""Names of slots, and records that anybody may have written."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

import coordkit
from coordkit import errors
from coordkit.recipes import slots
from coordkit.recipes.slots import Slot, SlotState

MOMENT = datetime.datetime(2026, 3, 29, 1, 7, 42, 5, datetime.timezone.utc)  # a Sunday


@pytest.mark.parametrize(
    ("period", "name"),
    [
        ("5m", "20260329T010500Z"),
        ("90s", "20260329T010730Z"),
        ("1h", "20260329T010000Z"),
        ("1d", "20260329T000000Z"),
        ("1w", "20260323T000000Z"),
        (datetime.timedelta(minutes=5), "20260329T010500Z"),
    ],
)
def test_a_period_stands_for_the_moment_at_which_it_began(period, name):
    """
    In UTC; a week begins on Monday.
    """
    assert slots.name_of(period, MOMENT) == name


def test_the_time_zone_of_the_clock_does_not_matter():
    """
    Replicas in different zones call the same slot by the same name.
    """
    there = MOMENT.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=45)))

    assert slots.name_of("1d", there) == slots.name_of("1d", MOMENT)


@given(
    st.datetimes(timezones=st.just(datetime.timezone.utc)), st.sampled_from(["7s", "5m", "2h", "1d", "1w"])
)
def test_a_slot_begins_once_a_period(now, period):
    """
    Not after now, and less than a period before.
    """
    length = slots.period(period)
    try:
        began = slots.name_of(period, now)
        before = slots.name_of(period, now - length)
    except OverflowError:
        return  # the calendar has an end

    assert began != before
    if now.year >= 1000:
        start = datetime.datetime.strptime(began + "+0000", "%Y%m%dT%H%M%SZ%z")
        assert datetime.timedelta(0) <= now - start < length


@pytest.mark.parametrize("slot", ["2026-11-25", "m", "run/7", "v5", "1e3s", "3-nightly"])
def test_any_other_text_is_the_name_itself(slot):
    """
    Whatever it holds.
    """
    assert slots.name_of(slot) == slot


@pytest.mark.parametrize(
    "slot", ["", "0m", b"5m", None, 5, datetime.timedelta(0), datetime.timedelta(seconds=1.5)]
)
def test_what_is_no_slot_is_refused(slot):
    """
    With a usage error that is a ValueError.
    """
    with pytest.raises((coordkit.InvalidName, coordkit.InvalidValue)):
        slots.name_of(slot)


@given(st.binary())
def test_foreign_bytes_are_unreadable(stored):
    """
    And stay so: the slot is taken, by whomever.
    """
    assert Slot.decode("x", stored).state is SlotState.UNREADABLE


@pytest.mark.parametrize(
    "stored",
    [b"[]", b"null", b'{"state":"running"}', b'{"state":"no","attempt":1,"session":"a"}', b"[" * 100_000],
)
def test_json_of_another_shape_is_unreadable(stored):
    """
    Nothing of it is believed.
    """
    assert Slot.decode("x", stored).state is SlotState.UNREADABLE


def test_a_record_is_read_as_it_was_written():
    """
    All of it.
    """
    slot = Slot("x", SlotState.FAILED, "h:1", 3, "then", "later", "ValueError", 0xABC, "n")

    assert Slot.decode("x", slot.encode()) == slot


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("5min", "the units are"),
        ("5M", "the units are"),
        ("90 sec", "the units are"),
        ("1.5h", "must be whole"),
        ("-5m", "have no sign"),
        ("5 m", "right behind"),
        ("99999999999w", "too long"),
    ],
)
def test_what_is_nearly_a_period_is_refused(text, why):
    """
    As a slot's name it would run once, and then not again until it is forgotten.  It is told what is wrong.
    """
    with pytest.raises(errors.InvalidValue, match=f"no period: .*{why}"):
        slots.name_of(text)
