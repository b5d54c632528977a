"""Value: versions, compare-and-set, update, and a watch that ends at the newest."""

from __future__ import annotations

import threading

import pytest
from contract.players import wait_until

import coordkit
from coordkit import codecs, errors
from coordkit.testing import FaultProxy, LocalEtcd, faults

pytestmark = pytest.mark.coordkit_leaves("keys")


class TestVersions:
    def test_a_value_that_nobody_set(self, coord):
        """
        It is None, and its version 0.
        """
        assert coord.value("config").get() == (None, 0)

    def test_versions_rise(self, coord, coord_factory):
        """
        Everybody sees the same value and version; a later version is larger, also after a delete.
        """
        value, other = coord.value("config"), coord_factory().value("config")

        first = value.set("a")
        assert other.get() == (b"a", first)
        second = other.set("b")
        assert value.delete(second) is True
        third = value.set("a")

        assert first < second < third
        assert value.get() == other.get() == (b"a", third)

    def test_compare_and_set(self, coord):
        """
        It takes effect only on the very version that was seen; 0 is for what is not set.
        """
        value = coord.value("config")

        first = value.compare_and_set(0, "a")
        assert first is not None
        assert value.compare_and_set(0, "b") is None
        second = value.compare_and_set(first, "c")
        assert second is not None
        assert value.compare_and_set(first, "d") is None
        assert value.delete(first) is False

        assert value.get() == (b"c", second)

    def test_a_codec(self, coord):
        """
        Values go through it; what it cannot read is an error that does not show the value.
        """
        numbers = coord.value("config", codecs.JSON)
        numbers.set({"limit": 3})
        assert numbers.get().value == {"limit": 3}

        coord.value("config").set(b"{secret")

        with pytest.raises(errors.InvalidValue) as told:
            numbers.get()
        assert "secret" not in str(told.value)
        with pytest.raises(errors.InvalidValue):
            numbers.set(object())

    @pytest.mark.parametrize("version", [-1, "1", 1.0, True, None])
    def test_what_is_no_version_is_refused(self, coord, version):
        """
        Nothing is sent.
        """
        with pytest.raises(errors.InvalidValue):
            coord.value("config").compare_and_set(version, b"x")
        with pytest.raises(errors.InvalidValue):
            coord.value("config").delete(0)


class TestUpdate:
    def test_no_update_is_lost(self, coord, coord_factory):
        """
        Six threads on two connections, 15 updates each: all are there.
        """
        values = [each.value("tally", codecs.JSON) for each in (coord, coord_factory())]

        def work(value) -> None:
            for _ in range(15):
                value.update(lambda number: (number or 0) + 1, timeout=30)

        crew = [threading.Thread(target=work, args=(values[i % 2],)) for i in range(6)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()

        assert values[0].get().value == 90

    def test_others_that_are_always_faster(self, coord):
        """
        When the time is up, DeadlineExceeded with outcome NONE: nothing of it was applied.
        """
        value = coord.value("tally", codecs.JSON)

        def interfere(number):
            value.set("somebody else's")
            return 1

        with pytest.raises(errors.DeadlineExceeded) as told:
            value.update(interfere, timeout=0.3)

        assert told.value.outcome is errors.Outcome.NONE
        assert value.get().value == "somebody else's"

    def test_an_error_of_the_change_itself(self, coord):
        """
        It is the caller's, and nothing is written.
        """
        value = coord.value("tally")

        with pytest.raises(ZeroDivisionError):
            value.update(lambda _: 1 // 0)

        assert value.get().version == 0


class TestWatch:
    def test_it_begins_with_what_is_there(self, coord, coord_factory):
        """
        Then it tells each change, a delete too, with its version.
        """
        value, other = coord.value("config"), coord_factory().value("config")
        watching = value.watch(timeout=30)
        assert next(watching) == (None, 0)

        seen = []
        for text in ("a", "b"):
            version = other.set(text)
            seen.append(next(watching) == (text.encode(), version))
        other.delete(version)
        seen.append(next(watching) == (None, 0))

        assert all(seen)

    def test_who_is_slow_gets_the_newest(self, coord, coord_factory):
        """
        Changes that nobody waited for are passed over, never the last one.
        """
        value, other = coord.value("config"), coord_factory().value("config")
        watching = value.watch(timeout=30)
        next(watching)
        for number in range(20):
            last = other.set(b"%d" % number)

        while (now := next(watching)).version != last:
            assert now.version < last

        assert now.value == b"19"

    def test_it_ends_when_its_time_is_up(self, coord):
        """
        Without an error.
        """
        assert [each.version for each in coord.value("config").watch(timeout=0.1)] == [0]

    def test_cancel_ends_it(self, coord):
        """
        Cancelled, from another thread.
        """
        value = coord.value("config")
        watching = value.watch()
        next(watching)
        ended: list[BaseException] = []

        def follow() -> None:
            try:
                next(watching)
            except errors.CoordError as error:
                ended.append(error)

        thread = threading.Thread(target=follow)
        thread.start()
        wait_until(lambda: value._vigil._view is not None)  # it waits
        value.cancel()
        thread.join()

        assert isinstance(ended[0], errors.Cancelled)

    def test_compaction_and_a_broken_connection(self, etcd_binary, namespace):
        """
        History that is gone costs the changes in between, never the newest one.
        """
        with LocalEtcd(etcd_binary) as server, FaultProxy(server.endpoint) as proxy:
            url = f"etcd://{proxy.endpoint}/{namespace}"
            with coordkit.connect(server.url) as direct, coordkit.connect(url) as coord:
                path = f"/{namespace}/value/config"
                following = coord.value("config").watch(timeout=30)
                next(following)
                direct.kv.put(path, b"1")
                assert next(following).value == b"1"

                proxy.refuse()
                proxy.reset()
                for number in range(2, 9):
                    direct.kv.put(path, b"%d" % number)
                faults.compact(direct)
                proxy.heal()

                assert next(following).value == b"8"
                direct.kv.put(path, b"9")
                assert next(following).value == b"9"
