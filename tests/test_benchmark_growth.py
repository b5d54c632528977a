"""Points of growth: what a server saw, what memory was held, and which bars those points met."""

from __future__ import annotations

import pytest

import coordkit
from benchmarks.growth import __main__ as growth
from benchmarks.growth import axes, served
from coordkit.testing import LocalEtcd


@pytest.fixture
def server():
    """With no other clients."""
    with LocalEtcd() as etcd:
        yield etcd


class TestServed:
    def test_streams_are_those_that_began_and_did_not_end(self):
        """
        However they ended; messages on a stream are no calls.
        """
        lines = [
            'grpc_server_started_total{grpc_method="Watch",grpc_type="bidi_stream"} 5',
            'grpc_server_handled_total{grpc_code="OK",grpc_method="Watch",grpc_type="bidi_stream"} 1',
            'grpc_server_handled_total{grpc_code="Canceled",grpc_method="Watch",grpc_type="bidi_stream"} 2',
            'grpc_server_started_total{grpc_method="Range",grpc_type="unary"} 7',
            'grpc_server_started_total{grpc_method="Txn",grpc_type="unary"} 1e+06',
            'grpc_server_msg_received_total{grpc_method="LeaseKeepAlive",grpc_type="bidi_stream"} 9',
        ]

        assert served.parse("\n".join(lines)) == served.Requests(2, 0, 9, 1_000_007)

    def test_a_server_that_counts_nothing_is_an_error(self):
        """
        No streams at all would look like a bar that is met.
        """
        with pytest.raises(RuntimeError, match="counts no requests"):
            served.parse("etcd_server_version 1\n")

    def test_each_client_with_a_watch_of_its_own_is_seen(self, server):
        """
        Two that share nothing have two streams.
        """
        with coordkit.connect(server.url) as one, coordkit.connect(server.url) as other:
            _ = one.session, other.session

            assert served.requests(server.endpoint).watch_streams == 2


class TestPoints:
    def test_idle_sessions_share_their_streams_and_only_renew(self, server, monkeypatch):
        """
        As the server sees them.
        """
        monkeypatch.setattr(axes, "_TTL_S", 4)
        with coordkit.connect(server.url, ttl=4) as coord:
            found = axes.sessions(coord, 20)

        assert (found["watch_streams"], found["lease_streams"]) == (1, 1)
        assert found["renewals_per_s"] > 0
        assert found["requests_each_per_s"] * 20 == pytest.approx(
            found["renewals_per_s"] + found["calls_per_s"]
        )

    @pytest.mark.parametrize("axis", ["waiters", "bare-threads"])
    def test_waiters_are_counted_when_all_of_them_wait(self, coord, axis):
        """
        And all of them come to an end.
        """
        found = axes.AXES[axis](coord, 5)

        assert found.keys() >= {"kib_each"}

    @pytest.mark.parametrize("axis", ["bare-threads", "bare-greenlets"])
    def test_each_axis_runs_in_the_process_that_it_wants(self, etcd, axis):
        """
        Patched for greenlets, else not; a point says so itself.
        """
        assert growth._point(axis, 3, etcd.url, 60.0).keys() == {"kib_each"}

    def test_greenlets_in_a_process_that_is_not_patched_are_refused(self, etcd, monkeypatch):
        """
        They would be threads.
        """
        monkeypatch.setattr(axes, "GREENLETS", ())

        with pytest.raises(RuntimeError, match="patched"):
            growth._point("bare-greenlets", 3, etcd.url, 60.0)


class TestBars:
    def test_a_bar_is_told_where_its_points_were_measured(self):
        """
        By the figure of another count where it says so.
        """
        few, many = {"count": 10, "hand_over_p50_ms": 1.0, "kib_each": 9}, {"count": 1000, "kib_each": 21}
        found = {"waiters": [few, {**many, "hand_over_p50_ms": 3.0}]}

        assert [(bar.measured, bar.passed) for bar in growth.met(found)] == [(3, False), (21, False)]
        assert [bar.measured for bar in growth.met({"waiters": [{**many, "hand_over_p50_ms": 3.0}]})] == [21]
        assert growth.met({"waiters": [few]}) == []
