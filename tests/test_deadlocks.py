"""Who waits in a circle: on hand-written censuses, and as `coordkit doctor --deadlocks` tells it."""

from __future__ import annotations

import json
import socket

import pytest
from contract.players import Attempt, queue_up, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from coordkit.cli import failure, main
from coordkit.etcd.results import KeyValue
from coordkit.inspection import census, deadlocks, reading

ROOT = b"/shop/"
LIMIT = "semaphore/pool/limit/2"


def taken(*steps: str) -> census.Census:
    """Sessions a to f, and what they did in this order: "a lock/x" joins; "a:t1 lock/x" says who, too."""
    found = [
        KeyValue(b"%ssession/%016x" % (ROOT, lease), _value(who), lease, lease, 1, lease)
        for lease, who in enumerate("abcdef", 1)
    ]
    for revision, step in enumerate(steps, 10):
        who, _, path = step.rpartition(" ")
        if not who:
            found.append(KeyValue(ROOT + path.encode(), b"", revision, revision, 1, 0))
            continue
        lease = "abcdef".index(who[0]) + 1
        key = ROOT + f"{path}/{lease:016x}-{revision}".encode()
        found.append(KeyValue(key, _value(who), revision, revision, 1, lease))
    return census.take("shop", found, 100)


def _value(who: str) -> bytes:
    return json.dumps({"identity": who, "since": "2026-01-01T12:00:00Z", "host": "h", "pid": 7}).encode()


def circles(*steps: str) -> list[tuple[str, bool]]:
    """Who is in each circle, and whether it is certain."""
    found = deadlocks.find(taken(*steps))
    return [("".join(party.who[0] for party in each.parties), each.certain) for each in found]


def read(who: str) -> str:
    return f"{who} rwlock/r/read"


def write(who: str) -> str:
    return f"{who} rwlock/r/write"


def permit(who: str) -> str:
    return f"{who} semaphore/pool/holders"


class TestCircles:
    def test_two_that_wait_for_each_other_are_named(self):
        """
        What each holds, and what it waits for behind which fence.
        """
        (circle,) = deadlocks.find(taken("a lock/x", "b lock/y", "a lock/y", "b lock/x"))

        assert circle.certain
        assert [
            (each.who, [stake.name for stake in each.holds], each.awaits.name, each.behind)
            for each in circle.parties
        ] == [("a", ["x"], "y", (11,)), ("b", ["y"], "x", (10,))]
        assert circle.parties[0].session.pid == "7"

    @pytest.mark.parametrize(
        "steps",
        [
            ["a lock/x", "b lock/x", "c lock/x"],
            ["a lock/x", "b lock/y", "b lock/x", "c lock/y"],
            ["a lock/x", "b lock/y", "a lock/y"],
            ["a lock/x", "a lock/x"],
        ],
        ids=["a line", "a chain", "one waits", "its own"],
    )
    def test_who_waits_for_one_that_goes_on_is_in_none(self, steps):
        """
        However long the chain; nor is a thread behind another of its own session.
        """
        assert circles(*steps) == []

    def test_who_waits_behind_a_circle_is_not_in_it(self):
        """
        Nobody has to end that one.
        """
        assert circles("a lock/x", "b lock/y", "a lock/y", "b lock/x", "c lock/x", "c lock/z") == [
            ("ab", True)
        ]

    def test_the_shortest_comes_first(self):
        """
        Of three, then of two, that have nothing to do with each other.
        """
        three = ["a lock/x", "b lock/y", "c lock/z", "a lock/y", "b lock/z", "c lock/x"]
        two = ["d lock/v", "e lock/w", "d lock/w", "e lock/v"]

        assert circles(*three, *two) == [("de", True), ("abc", True)]

    def test_elections_and_locks_make_one_circle(self):
        """
        A leader that waits for a lock whose holder campaigns.
        """
        assert circles("a election/e", "b lock/x", "a lock/x", "b election/e") == [("ab", True)]


class TestReadersAndWriters:
    def test_a_writer_waits_for_every_reader(self):
        """
        One of them in the circle is enough.
        """
        assert circles(read("c"), read("a"), "b lock/x", "a lock/x", write("b")) == [("ab", True)]

    def test_a_reader_does_not_wait_for_readers(self):
        """
        It holds together with them.
        """
        assert circles(read("a"), "b lock/x", "a lock/x", read("b")) == []

    def test_a_reader_waits_for_the_writer_before_it(self):
        """
        Which waits for the readers before it: so three are in the circle.
        """
        assert circles(read("a"), "b lock/x", write("c"), read("b"), "a lock/x") == [("bca", True)]

    def test_a_reader_waits_for_the_writer_that_holds(self):
        """
        As in a lock; who waits behind the reader does not matter.
        """
        assert circles(write("a"), "b lock/x", "a lock/x", read("b"), write("c")) == [("ab", True)]
        assert circles(write("a"), "b lock/x", "a lock/x", read("b")) == [("ab", True)]


class TestPermits:
    def test_all_holders_of_permits_have_to_be_in_it(self):
        """
        Any of them that goes on frees one.
        """
        begin = [" " + LIMIT, permit("a"), permit("c"), "b lock/x", "a lock/x", permit("b")]

        assert circles(*begin) == []
        assert circles(*begin, "c lock/x") == [("abc", True)]

    def test_one_that_waits_for_others_is_no_part_unless_those_wait_for_it(self):
        """
        The second holder waits, but for somebody who goes on.
        """
        begin = [" " + LIMIT, permit("a"), permit("c"), "b lock/x", "a lock/x", permit("b")]

        assert circles(*begin, "d lock/y", "c lock/y") == []


class TestThreads:
    def test_a_session_with_two_waits_may_be_in_one(self):
        """
        Two threads at least use it, and whose each hold is cannot be told.
        """
        steps = ["a lock/x", "b lock/y", "a lock/y", "b lock/x", "c lock/z", "a lock/z"]

        assert circles(*steps) == [("ab", False)]
        assert circles("c lock/z", "a lock/z", *steps[:4]) == [("ab", False)]
        assert circles("a:1 lock/z", *steps[:4]) == [("ab", False)]

    def test_one_session_alone_may_be_in_one(self):
        """
        Its threads may take turns just as well.
        """
        assert circles("a lock/x", "a lock/y", "a lock/y", "a lock/x") == [("aa", False)]

    def test_what_is_younger_than_the_wait_is_another_threads(self):
        """
        Who waits does not join another line.
        """
        assert circles("b lock/y", "a lock/y", "a lock/x", "b lock/x") == []
        assert circles("a lock/x", "b lock/y", "a lock/y", "b lock/x", "a lock/z") == [("ab", False)]

    def test_values_that_name_threads_tell_more(self):
        """
        They make it certain, or tell that it is none.
        """
        assert circles("a:1 lock/x", "a:2 lock/y", "a:1 lock/y", "a:2 lock/x") == [("aa", True)]
        assert circles("a:1 lock/x", "a:2 lock/y", "a:3 lock/y", "a:4 lock/x") == []
        assert circles("a:1 lock/x", "a:1 lock/x") == [("a", True)]


PATHS = ["lock/x", "lock/y", "election/e", "rwlock/r/read", "rwlock/r/write", "semaphore/pool/holders"]


class TestAnyCensus:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(PATHS)), max_size=14))
    def test_each_circle_is_closed(self, steps):
        """
        Each of it waits behind somebody of it; for a permit, all holders are in it.
        """
        found = taken(" " + LIMIT, *(f"{who} {path}" for who, path in steps))

        for circle in deadlocks.find(found):
            places = {stake.place.fence for each in circle.parties for stake in (*each.holds, each.awaits)}
            for each in circle.parties:
                assert each.behind and places.intersection(each.behind)
                if each.awaits.kind == "semaphore":
                    assert len(each.behind) == 2 and places.issuperset(each.behind)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(PATHS)), max_size=14))
    def test_where_each_waits_once_what_can_go_on_goes_on(self, steps):
        """
        Played out by brute force: whoever does not wait leaves everything; who is left is in a circle or
        behind one.
        """
        waiting: set[str] = set()
        played: list[str] = [" " + LIMIT]
        for who, path in steps:
            own = taken(*played)
            mine = next(each for each in own.sessions if each.identity == who).stakes
            if who in waiting or any(each.kind == path.split("/")[0] for each in mine):
                continue  # it waits already, or would wait for itself
            played.append(f"{who} {path}")
            if any(each.how == "awaits" and each.place.identity == who for each in _stakes(taken(*played))):
                waiting.add(who)

        left = set("abcd")
        while True:
            now = taken(*(each for each in played if each[0] in left or each[0] == " "))
            going = left - {each.place.identity for each in _stakes(now) if each.how == "awaits"}
            if not going:
                break
            left -= going

        assert bool(deadlocks.find(taken(*played))) == bool(left)
        assert {each.who for circle in deadlocks.find(taken(*played)) for each in circle.parties} <= left


def _stakes(found: census.Census) -> list[census.Stake]:
    return [stake for each in found.sessions for stake in each.stakes]


HOLD_AND_WAIT = """
import sys
import coordkit

url, mine, theirs = sys.argv[1:]
with coordkit.connect(url) as coord, coord.lock(mine):
    print("holds", flush=True)
    sys.stdin.readline()
    with coord.lock(theirs).within(60):
        print("through", flush=True)
"""


class TestDoctor:
    @pytest.fixture
    def doctor(self, mode, capsys, etcd, namespace):
        if mode != "threads":
            pytest.skip("the command line is no program that gevent patches")

        def run(*words: str) -> tuple[int, str]:
            where = f"etcd://{etcd.endpoint}/{namespace}"
            status = main.main(["doctor", "--deadlocks", "--url", where, *words])
            return status, capsys.readouterr().out

        return run

    def test_two_processes_that_wait_in_a_circle_are_named(self, doctor, coord, coord_factory):
        """
        Exit status 1 while they do, 0 before and after.
        """
        anna, bert = (coord_factory(identity=name) for name in ("anna", "bert"))
        held = [Attempt(anna.lock("x")).wait_until_held(), Attempt(bert.lock("y")).wait_until_held()]
        (first,) = queue_up(anna.lock("y"))
        before = doctor()
        (second,) = queue_up(bert.lock("x"))

        status, told = doctor()
        document = json.loads(doctor("--json")[1])
        (circle,) = deadlocks.find(reading.Reader(coord.client, coord.settings.namespace).census())
        held[0].lock.release()
        second.wait_until_held().lock.release()
        after = doctor()

        assert before[0] == after[0] == 0
        assert status == failure.VIOLATION
        assert "deadlock: 2 wait in a circle" in told
        for each, name, what in zip(document["circles"][0]["parties"], ("anna", "bert"), "yx", strict=True):
            assert (each["identity"], each["awaits"]["name"], each["pid"]) == (name, what, each["pid"])
            assert f"  {name} (session {each['session']}, pid {each['pid']} on {each['host']})" in told
            assert f"waits for lock {what}, fence {each['awaits']['fence']}, since " in told
        assert [each.who for each in circle.parties] == ["anna", "bert"]
        held[1].lock.release()
        first.wait_until_held().lock.release()

    def test_two_processes_are_named_with_host_and_pid(self, doctor, coord, etcd, namespace, child):
        """
        Each has one lock and waits for the other's, until one of them is killed.
        """
        members = [
            child(HOLD_AND_WAIT, f"etcd://{etcd.endpoint}/{namespace}?ttl=2", *names)
            for names in ("xy", "yx")
        ]
        assert [each.stdout.readline() for each in members] == ["holds\n"] * 2
        before = doctor()
        for each in members:
            each.stdin.write("wait\n")
            each.stdin.flush()
        wait_until(lambda: [len(coord.lock(name).contenders()) for name in "xy"] == [2, 2])

        status, told = doctor()
        (circle,) = json.loads(doctor("--json")[1])["circles"]
        members[0].kill()
        members[0].wait()
        assert members[1].stdout.readline() == "through\n"
        after = doctor()

        assert (before[0], status, after[0]) == (0, failure.VIOLATION, 0)
        assert "deadlock: 2 wait in a circle" in told
        found = {(str(each["pid"]), each["host"], each["awaits"]["name"]) for each in circle["parties"]}
        host = socket.gethostname()
        assert found == {(str(members[0].pid), host, "y"), (str(members[1].pid), host, "x")}
        for each in members:
            assert f"pid {each.pid} on {host})" in told
        assert members[1].wait(15) == 0

    def test_threads_of_one_session_may_be_in_one(self, doctor, coord):
        """
        It is said so, and is no problem.
        """
        held = [Attempt(coord.lock(name)).wait_until_held() for name in "xy"]
        waiting = [*queue_up(coord.lock("y")), *queue_up(coord.lock("x"))]

        status, told = doctor()
        for each in held:
            each.lock.release()
        for each in waiting:
            each.wait_until_held().lock.release()

        assert status == 0
        assert told.startswith("this may be a deadlock: 2 wait in a circle")
        assert "no deadlock; 2 wait, at revision " in told
