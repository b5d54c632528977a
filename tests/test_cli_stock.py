"""`coordkit queue ls` and `coordkit topic ls`: for people, for programs, and in pipes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

import coordkit
from coordkit.cli import main

pytestmark = pytest.mark.coordkit_leaves("keys")

ODD = "a/b \x1b[31m\n"


@pytest.fixture
def ls(mode, etcd, namespace, coord, capfdbinary) -> Callable[..., bytes]:
    """Runs one of them; what it printed."""
    if mode != "threads":
        pytest.skip("the command line is no program that gevent patches")

    def run(kind: str, *options: str) -> bytes:
        status = main.main([kind, "ls", "--url", f"etcd://{etcd.endpoint}/{namespace}", *options])
        printed, complained = capfdbinary.readouterr()
        assert (status, complained) == (0, b"")
        return printed

    return run


class TestQueues:
    def test_how_many_items_are_where(self, ls, coord, namespace):
        """
        Free, claimed, delayed and dead ones, of each queue apart, though its name begins as another's.
        """
        jobs, more = coord.queue("jobs"), coord.queue("jobs2")
        jobs.put_many([b"x"] * 5)
        jobs.put(b"later", delay=60)
        claimed = jobs.claim_many(3, timeout=5)
        claimed[0].bury("it is no use")
        more.put(b"x")
        coord.kv.put(f"/{namespace}/queue/stray", b"somebody else's")

        (first, second) = json.loads(ls("queue", "--json"))["queues"]

        assert first == {"name": "jobs", "free": 2, "claimed": 2, "delayed": 1, "dead": 1}
        assert second == {"name": "jobs2", "free": 1, "claimed": 0, "delayed": 0, "dead": 0}
        jobs.ack_many(claimed[1:])

    def test_a_large_queue_is_counted_and_not_read(self, ls, coord, monkeypatch):
        """
        The connection brings a few bytes, however many items there are.
        """
        coord.queue("large").put_many([b"x" * 1000] * 2000)
        received = []
        close = coordkit.Coordinator.close

        def closing(self: coordkit.Coordinator, *arguments: object) -> None:
            if not self.closed:
                received.append(self.statistics().bytes_received)
            close(self, *arguments)

        monkeypatch.setattr(coordkit.Coordinator, "close", closing)

        printed = ls("queue")

        assert b"2000" in printed
        assert received[0] < 10_000


class TestTopics:
    def test_what_kind_they_are_and_what_they_keep(self, ls, coord):
        """
        Live ones keep nothing; of a retained one the messages of all partitions are counted.
        """
        coord.topic("chat").publish_many([b"a", b"b"])
        coord.topic("log", retain=100).publish_many([b"x"] * 7)
        parts = coord.topic("parts", retain=100, partitions=3)
        for number in range(9):
            parts.publish(b"x", key=str(number))
        with coord.topic("log", retain=100).subscribe(coordkit.Cursor("archiver")) as subscription:
            subscription.commit(subscription.get(timeout=5))

        topics = json.loads(ls("topic", "--json"))["topics"]

        assert topics == [
            {"name": "chat", "kind": "live", "partitions": 1, "messages": None, "cursors": 0},
            {"name": "log", "kind": "retained", "partitions": 1, "messages": 7, "cursors": 1},
            {"name": "parts", "kind": "retained", "partitions": 3, "messages": 9, "cursors": 0},
        ]
        assert b"retained" in ls("topic")

    def test_a_topic_to_which_nobody_has_published(self, ls, coord):
        """
        Its kind is open yet.
        """
        coord.topic("new", retain=10).subscribe(group="early").close()

        (topic,) = json.loads(ls("topic", "--json"))["topics"]

        assert topic == {"name": "new", "kind": None, "partitions": None, "messages": None, "cursors": 0}


class TestNames:
    @pytest.fixture
    def named(self, coord) -> None:
        """A queue and a topic whose name does not fit on a line."""
        coord.queue(ODD).put(b"x")
        coord.queue("plain").put(b"x")
        coord.topic(ODD).publish(b"x")

    def test_alone_in_a_pipe_and_exact(self, ls, named):
        """
        One on a line, or with NUL between them, for those that have newlines.
        """
        assert ls("queue", "--names", "-0") == ODD.encode() + b"\0plain\0"
        assert ls("queue", "--names") == ODD.encode() + b"\nplain\n"
        assert ls("topic", "--names", "--null") == ODD.encode() + b"\0"

    @pytest.mark.parametrize("kind", ["queue", "topic"])
    def test_a_table_is_fit_for_a_terminal(self, ls, named, kind):
        """
        Nothing in a name moves the cursor.
        """
        printed = ls(kind)

        assert b"a/b ?[31m?" in printed
        assert b"\x1b" not in printed

    @pytest.mark.parametrize("kind", ["queue", "topic"])
    def test_there_is_nothing(self, ls, kind):
        """
        That is said, unless one wants to hear nothing; in a pipe and as a document it is nothing.
        """
        assert ls(kind) == f"there are no {kind}s here\n".encode()
        assert ls(kind, "--quiet") == ls(kind, "--names") == b""
        assert json.loads(ls(kind, "--json")) == {f"{kind}s": []}
