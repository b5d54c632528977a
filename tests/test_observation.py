"""Who is at the head of a line, from events alone: the pure part, against histories drawn at random."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordkit.etcd.changes import Event
from coordkit.observation import Candidate, Places


class Etcd:
    """A prefix of keys, and what a watch would tell of each change."""

    def __init__(self) -> None:
        self.revision = 10
        self.line: dict[bytes, Candidate] = {}
        self.heads: list[Candidate | None] = []  # after each revision

    def put(self, key: bytes, value: bytes) -> list[Event]:
        self.revision += 1
        known = self.line.get(key)
        fence = known.fence if known else self.revision
        self.line[key] = Candidate(key, value, 7, fence, self.revision)
        return self._told([Event(key, value, False, fence, self.revision, 7)])

    def delete(self, *keys: bytes) -> list[Event]:
        """As a lease does: all of them in one revision."""
        gone = [key for key in keys if self.line.pop(key, None)]
        self.revision += bool(gone)
        return self._told([Event(key, b"", True, 0, self.revision, 0) for key in gone])

    def _told(self, events: list[Event]) -> list[Event]:
        if events:
            self.heads.append(min(self.line.values(), key=lambda each: each.fence, default=None))
        return events


KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.sampled_from([b"1", b"2"])),
        st.tuples(st.just("delete"), st.sets(KEYS, min_size=1)),
    ),
    max_size=40,
)


def apply(etcd: Etcd, change: tuple) -> list[Event]:
    return etcd.put(*change[1:]) if change[0] == "put" else etcd.delete(*change[1])


@given(CHANGES, CHANGES, st.integers(0, 40))
def test_each_head_is_the_oldest_key_at_that_revision(before, after, overlap):
    """
    From a snapshot on, whatever events come that it contains, each revision's head is told, in order.
    """
    etcd, places = Etcd(), Places()
    contained = [event for change in before for event in apply(etcd, change)]
    snapshot = sorted(etcd.line.values(), key=lambda each: each.fence)
    etcd.heads.clear()

    first = places.take(snapshot, etcd.revision)
    events = contained[len(contained) - overlap :] if overlap < len(contained) else contained
    told = list(places.apply([*events, *(event for change in after for event in apply(etcd, change))]))

    assert first == next(iter(snapshot), None)
    assert told == etcd.heads


def test_a_lease_that_takes_the_first_two_keys_makes_nobody_leader_in_between():
    """
    All deletions of a revision count before the next head is told.
    """
    etcd, places = Etcd(), Places()
    for key in (b"a", b"b", b"c"):
        etcd.put(key, b"")
    places.take(sorted(etcd.line.values(), key=lambda each: each.fence), etcd.revision)

    told = list(places.apply(etcd.delete(b"a", b"b")))

    assert [each.key for each in told] == [b"c"]


def test_a_name_that_comes_back_stands_at_the_end():
    """
    Also when its deletion was never told: the create revision says it.
    """
    places = Places()
    places.take([Candidate(b"a", b"", 1, 2, 2), Candidate(b"b", b"", 1, 3, 3)], 3)

    (head,) = places.apply([Event(b"a", b"", False, 5, 5, 1)])

    assert head.key == b"b"
