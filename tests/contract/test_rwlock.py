"""RWLock: readers together, writers alone, in one line; Go's keys."""

from __future__ import annotations

from contract.locklikes import visit
from contract.players import queue_up, wait_until

import coordkit
from coordkit import errors, linewatch


def test_readers_share_and_writers_do_not(coord, crew):
    """
    Readers of any process hold it together; a writer holds it alone.
    """
    (other,) = crew(1)
    here, there = coord.rwlock("x"), other.rwlock("x")

    with here.read, here.read, there.read:
        assert here.write.acquire(blocking=False) is False
        assert there.read.acquire(timeout=5)
        there.read.release()

    with there.write:
        assert here.read.acquire(blocking=False) is False
        assert here.write.acquire(blocking=False) is False
        assert here.read.acquire(timeout=0.05) is False


def test_writers_are_not_starved(coord, crew):
    """
    A reader that comes behind a waiting writer waits for it; a reader before it does not.
    """
    a, b, c = crew(3)
    first = a.rwlock("x").read
    first.acquire()
    (writer,) = queue_up(b.rwlock("x").write)
    (late,) = queue_up(c.rwlock("x").read)
    assert c.rwlock("x").read.acquire(blocking=False) is False
    assert not writer.over.wait(0.05) and late.waiting

    first.release()

    writer.wait_until_held()
    assert late.waiting
    writer.lock.release()
    late.wait_until_held().lock.release()


def test_readers_behind_a_released_writer_all_go(coord, crew):
    """
    Those of its own process and those of others; a writer behind them waits for the last of them.
    """
    a, b = crew(2)
    holder = a.rwlock("x").write
    holder.acquire()
    readers = queue_up(*(member.rwlock("x").read for member in (a, b, b, a)))
    (writer,) = queue_up(b.rwlock("x").write)

    holder.release()

    for reader in readers:
        reader.wait_until_held()
    assert writer.waiting
    for reader in readers:
        assert writer.waiting
        reader.lock.release()
    writer.wait_until_held().lock.release()


def test_a_reader_that_leaves_wakes_no_reader(crew, monkeypatch):
    """
    Who waits to read hears of writers only.
    """
    told = []
    strike = linewatch.Watched.strike
    monkeypatch.setattr(
        linewatch.Watched, "strike", lambda line, events: told.append(line) or strike(line, events)
    )
    a, b, c = crew(3)
    first, second = a.rwlock("x").read, a.rwlock("x").read
    first.acquire()
    second.acquire()
    (writer,) = queue_up(b.rwlock("x").write)
    (reader,) = queue_up(c.rwlock("x").read)
    wait_until(lambda: reader.lock._latest_line._covered_from and writer.lock._latest_line._covered_from)

    first.release()
    wait_until(lambda: told)
    second.release()
    writer.wait_until_held()

    assert reader.lock._latest_line not in told
    writer.lock.release()
    reader.wait_until_held().lock.release()


def test_a_writer_that_gives_up_lets_readers_pass(coord, crew):
    """
    The reader behind it joins the readers before it.
    """
    a, b, c = crew(3)
    with a.rwlock("x").read:
        writer = visit(b.rwlock("x").write)
        reader = visit(c.rwlock("x").read)
        assert not reader.over.wait(0.05)

        writer.lock.cancel()

        assert isinstance(writer.end().error, errors.Cancelled)
        reader.wait_until_held()
        reader.give_back()


def test_a_reader_whose_key_somebody_deletes_joins_again(coord, crew):
    """
    It is not granted in the place that it has no more, but behind the writer that came meanwhile.
    """
    a, b, c = crew(3)
    first = a.rwlock("x").write
    first.acquire()
    (reader,) = queue_up(b.rwlock("x").read)
    (writer,) = queue_up(c.rwlock("x").write)
    coord.kv.delete(first.contenders()[1].key)

    first.release()

    writer.wait_until_held()
    wait_until(lambda: len(first.contenders()) == 2)
    assert reader.waiting
    writer.lock.release()
    reader.wait_until_held().lock.release()


def test_more_writers_than_a_reader_can_know(coord):
    """
    Far back in the line, too, a reader waits for each older writer, and for no other key.
    """
    lock = coordkit.RWLock.at(coord.session, "/far")
    before = [f"/far/write/{number:02}" for number in range(20)]
    for key in before:
        coord.kv.put(key, b"")
    (reader,) = queue_up(lock.read)
    coord.kv.put("/far/write/late", b"")
    coord.kv.put("/far/read/late", b"")

    for key in before[1:]:
        coord.kv.delete(key)
    assert not reader.over.wait(0.1)
    coord.kv.delete(before[0])

    reader.wait_until_held().lock.release()
    coord.kv.delete_prefix("/far/")


def test_the_layout_of_keys_is_gos(coord, namespace):
    """
    Keys are read/<id> and write/<id>; with a prefix as it is, Go's keys count, in order.
    """
    with coord.rwlock("a/b").read as reader:
        assert reader.key.startswith(f"/{namespace}/rwlock/a%2Fb/read/".encode())
    lock = coordkit.RWLock.at(coord.session, "/go")
    coord.kv.put("/go/write/1690000000000000000", b"")

    assert lock.read.acquire(blocking=False) is False
    (reader,) = queue_up(lock.read)
    (writer,) = queue_up(lock.write)
    assert [place.key[:9] for place in lock.read.contenders()] == [b"/go/write", b"/go/read/", b"/go/write"]
    coord.kv.delete("/go/write/1690000000000000000")

    reader.wait_until_held().lock.release()
    writer.wait_until_held().lock.release()
