"""The workers of `coordkit bench wire`: the same puts through two clients.

Each puts 100 bytes, again and again, from one caller or from many at once; callers are threads, or greenlets
where the process is patched. Both clients give every put a deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from coordkit.cli.bench import worker
from coordkit.cli.bench.contenders import sleep_until
from coordkit.cli.bench.histogram import Histogram
from coordkit.testing.history import clock_ns

_VALUE = b"x" * 100
_TIMEOUT_S = 5.0


class _Puts:
    """The closed loop around one client's put."""

    def __init__(self, put: Callable[[int], object]) -> None:
        self._put = put

    def round(self, start_ns: int, measure_ns: int, until_ns: int, in_flight: int) -> dict[str, Any]:
        """Puts completed between `measure_ns` and `until_ns`, their latencies, and the CPU they took."""
        callers = [_Caller(self._put, number, measure_ns, until_ns) for number in range(in_flight)]
        threads = [threading.Thread(target=caller.run, args=(start_ns,), daemon=True) for caller in callers]
        for thread in threads:
            thread.start()
        sleep_until(measure_ns)
        before = time.process_time_ns()
        sleep_until(until_ns)
        spent = time.process_time_ns() - before
        for thread in threads:
            thread.join()
        failures = [caller.failure for caller in callers if caller.failure]
        if failures:
            raise RuntimeError(f"{len(failures)} of {in_flight} callers failed; the first: {failures[0]}")
        latencies = Histogram()
        for caller in callers:
            latencies.merge(caller.latencies)
        return {"cpu_ns": spent, "latencies": latencies.as_json()}


class _Caller:
    def __init__(self, put: Callable[[int], object], number: int, measure_ns: int, until_ns: int) -> None:
        self._put, self._number = put, number
        self._measure_ns, self._until_ns = measure_ns, until_ns
        self.latencies = Histogram()
        self.failure: str | None = None

    def run(self, start_ns: int) -> None:
        sleep_until(start_ns)
        try:
            self._loop(clock_ns())
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"

    def _loop(self, start_ns: int) -> None:
        while start_ns < self._until_ns:
            self._put(self._number)
            end_ns = clock_ns()
            if self._measure_ns <= end_ns < self._until_ns:
                self.latencies.record(end_ns - start_ns)
            start_ns = end_ns


class CoordkitPuts(_Puts):
    """Through `coord.kv.put`."""

    def __init__(self, url: str, endpoint: str) -> None:
        import coordkit

        self._coord = coordkit.connect(url, timeout=_TIMEOUT_S)
        kv = self._coord.kv
        super().__init__(lambda number: kv.put(f"/bench-wire/{number}", _VALUE))

    def close(self) -> None:
        self._coord.close()


class GrpcioPuts(_Puts):
    """Through a channel of grpcio's, with our message classes."""

    def __init__(self, url: str, endpoint: str) -> None:
        import grpc

        from coordkit.wire import messages

        if worker.patched():
            import grpc.experimental.gevent

            grpc.experimental.gevent.init_gevent()
        self._channel = grpc.insecure_channel(endpoint)
        put = self._channel.unary_unary(
            "/etcdserverpb.KV/Put",
            request_serializer=messages.PutRequest.SerializeToString,
            response_deserializer=messages.PutResponse.FromString,
        )

        def put_one(number: int) -> object:
            request = messages.PutRequest(key=f"/bench-wire/{number}".encode(), value=_VALUE)
            return put(request, timeout=_TIMEOUT_S)

        super().__init__(put_one)

    def close(self) -> None:
        self._channel.close()
