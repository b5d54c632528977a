"""A queue does what a small model of it does, whatever is done in whatever order."""

from __future__ import annotations

import heapq
import secrets

import hypothesis
from contract.queueing import stored, take
from hypothesis import strategies as st

MOST = 3  # deliveries


class Model:
    """Items in order, and what became of them."""

    def __init__(self) -> None:
        self.free: list[tuple[str, bytes, int]] = []  # a heap of (id, value, deliveries so far)
        self.out: dict[str, tuple[bytes, int]] = {}
        self.dead: set[str] = set()

    def put(self, id_: str, value: bytes) -> None:
        heapq.heappush(self.free, (id_, value, 0))

    def claim(self, count: int) -> list[tuple[str, bytes, int]]:
        taken: list[tuple[str, bytes, int]] = []
        last_chance = any(attempt == MOST for _, attempt in self.out.values())
        passed = []
        while self.free and len(taken) < count:
            id_, value, deliveries = self.free[0]
            if deliveries and taken:
                break
            heapq.heappop(self.free)
            if deliveries == MOST - 1 and last_chance:
                passed.append((id_, value, deliveries))
                continue
            taken.append((id_, value, deliveries + 1))
            if deliveries:
                break
        for each in passed:
            heapq.heappush(self.free, each)
        self.out.update({id_: (value, attempt) for id_, value, attempt in taken})
        return taken

    def nack(self, id_: str) -> None:
        value, attempt = self.out.pop(id_)
        if attempt == MOST:
            self.dead.add(id_)
        else:
            heapq.heappush(self.free, (id_, value, attempt))


STEPS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 2), st.integers(1, 4)),
    st.tuples(st.just("claim"), st.integers(1, 5), st.just(0)),
    st.tuples(st.sampled_from(["ack", "nack", "nack"]), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("requeue"), st.just(0), st.just(0)),
)


def test_any_sequence_of_calls(coord, namespace):
    """
    What comes, which delivery it is, what is left, what is dead.
    """

    @hypothesis.settings(max_examples=30, deadline=None, database=None)
    @hypothesis.given(st.lists(STEPS, min_size=5, max_size=25))
    def run(steps) -> None:
        name = secrets.token_hex(4)
        queue, model, jobs = coord.queue(name, max_deliveries=MOST), Model(), {}
        for what, number, more in steps:
            if what == "put":
                values = [secrets.token_bytes(4) for _ in range(more)]
                ids = queue.put_many(values, priority=number)
                for id_, value in zip(ids, values, strict=True):
                    model.put(id_, value)
            elif what == "claim":
                taken = take(queue, number)
                assert [(job.id, job.value, job.attempt) for job in taken] == model.claim(number)
                jobs.update({job.id: job for job in taken})
            elif what == "requeue":
                assert queue.dead_letters.requeue_all() == len(model.dead)
                for id_ in model.dead:
                    model.put(id_, values_of[id_])
                model.dead.clear()
            elif jobs:
                id_ = sorted(jobs)[number % len(jobs)]
                job = jobs.pop(id_)
                values_of[id_] = job.value
                getattr(job, what)()
                if what == "nack":
                    model.nack(id_)
                else:
                    model.out.pop(id_)
            assert queue.qsize() == len(model.free)
        assert {letter.id for letter in queue.dead_letters} == model.dead
        kinds = {"items": len(model.free) + len(model.out), "claims": len(model.out), "dead": len(model.dead)}
        found = stored(queue)
        found.pop("attempts", None)
        assert found == {kind: count for kind, count in kinds.items() if count}
        queue.purge(claimed=True)
        queue.dead_letters.drop_all()

    values_of: dict[str, bytes] = {}
    run()
