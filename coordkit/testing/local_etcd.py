"""LocalEtcd: a private server on free loopback ports, stopped whatever happens.

POSIX only.  Cost: two processes; 0.2 s for the first start, 1 s (etcd's election timeout) for each later one.
"""

from __future__ import annotations

import os
import secrets
import types
from collections.abc import Mapping, Sequence

from coordkit import deadline
from coordkit.testing import certificates, etcd_server, lifeline, loopback


class LocalEtcd(etcd_server.EtcdServer):
    """One etcd server of our own.

    Used as a context manager, or with `start()` and `stop()`.  It dies with the process that started it, and
    only that process may command it: in a forked child `stop()` does nothing.

    Args:
        binary: The server's path; by default the first of `COORDKIT_ETCD`, the `etcd` extra's, PATH.
        arguments: More of the server's command line options; they come last, so they win.
        environment: Added to the server's environment, from which every other `ETCD_*` is taken away.
        tls: The server's certificate, and the authority whose client certificates it asks for.
        also_on: "ipv6" (on `::1`, the same port) and "unix" (a socket in its folder): see `endpoints`.
        start_timeout_s: How long a start may take.

    Raises:
        EtcdNotFound: There is none.
    """

    def __init__(
        self,
        binary: str | os.PathLike[str] | None = None,
        *,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        tls: certificates.Certificates | None = None,
        also_on: Sequence[str] = (),
        start_timeout_s: float = 30.0,
    ) -> None:
        super().__init__(
            etcd_server.Launch.of(
                binary,
                arguments=arguments,
                environment=environment,
                tls=tls,
                also_on=also_on,
                start_timeout_s=start_timeout_s,
            )
        )

    def __enter__(self) -> LocalEtcd:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until it answers; after `kill()` on the same ports with the same data.

        Raises:
            EtcdFailed: It ended, or did not answer in time.
        """
        if self._lifeline is not None:
            return super().start()
        self._name = f"coordkit-{secrets.token_hex(4)}"
        self._lifeline = lifeline.Lifeline("coordkit-etcd-")
        try:
            self._start_anywhere(self._limit())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and remove its data.  Nothing to do when it was not started."""
        self._remove()

    def _start_anywhere(self, limit: deadline.Deadline) -> None:
        """Until it has ports of its own: one that was free a moment ago can be taken by now."""
        while True:
            self._client_port, self._peer_port = loopback.free_ports(2)
            self._initial_cluster = f"{self._name}={self._listening.peer_url}"
            self._spawn()
            try:
                return self._await_ready(limit)
            except etcd_server.EtcdFailed:
                if limit.expired or not self._lacks_port():
                    raise
            self.kill()
