"""KeptCluster: servers on loopback that can come back: names, ports and data are kept in a folder.

POSIX only.  For development: the members are on one machine.  Cost: two processes for each member.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
from collections.abc import Sequence

import attrs

from coordkit import deadline, errors
from coordkit.testing import cluster, etcd_server, loopback

PLAN = "coordkit.json"


@attrs.frozen
class Seat:
    """One member's name and ports."""

    name: str
    client_port: int
    peer_port: int


class KeptCluster(cluster.EtcdCluster):
    """Some etcd servers, like `EtcdCluster`.

    Args:
        size: How many members; None is as many as the folder has, or 1.
        folder: Where the data is kept; without one it goes with the servers.
        port: Of the first member's clients; the next one is for its peers, and so on.  By default those of
            the last time, or free ones.

    Raises:
        EtcdNotFound: There is no server.
        InvalidValue: The folder was made with another number of members, or cannot be used.
    """

    def __init__(
        self,
        size: int | None = None,
        folder: str | os.PathLike[str] | None = None,
        port: int | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.kept = None if folder is None else pathlib.Path(folder).absolute()
        self._seats = self._known()
        if self._seats and size not in (None, len(self._seats)):
            raise errors.InvalidValue(f"{self.kept} was made with {len(self._seats)} members, not {size}")
        if self._seats and port not in (None, self._seats[0].client_port):
            # The members know each other by their ports.
            kept = self._seats[0].client_port
            raise errors.InvalidValue(f"{self.kept} was made with port {kept}, and keeps it")
        super().__init__(size or len(self._seats) or 1, arguments=arguments)
        if not self._seats and port is not None:
            self._seats = [
                Seat(each.name, port + 2 * n, port + 2 * n + 1) for n, each in enumerate(self.members)
            ]

    def stop(self) -> None:
        """End the members, in good order where their data is kept."""
        if self.kept is not None:
            for member in self.members:
                if member.running:
                    member._end(signal.SIGTERM)
        super().stop()

    def _known(self) -> list[Seat]:
        if self.kept is None or not (self.kept / PLAN).exists():
            return []
        try:
            found = [Seat(**each) for each in json.loads((self.kept / PLAN).read_text())]
        except (OSError, ValueError, TypeError) as error:
            raise errors.InvalidValue(f"{self.kept / PLAN} makes no sense: {error}") from error
        return found

    def _start_anywhere(self, limit: deadline.Deadline) -> None:
        chosen = bool(self._seats)
        while True:
            seats = self._seats or self._free()
            if chosen:
                _check_free(seats)
            self._sit(seats)
            try:
                for member in self.members:
                    member._await_ready(limit)
                break
            except etcd_server.EtcdFailed:
                if chosen or limit.expired or not any(member._lacks_port() for member in self.members):
                    raise
            for member in self.members:
                member.kill()
        self._keep(seats)

    def _free(self) -> list[Seat]:
        ports = iter(loopback.free_ports(2 * len(self.members)))
        return [Seat(each.name, next(ports), next(ports)) for each in self.members]

    def _sit(self, seats: list[Seat]) -> None:
        """Start all members on their seats."""
        everybody = ",".join(f"{each.name}=http://127.0.0.1:{each.peer_port}" for each in seats)
        arguments = self._launch.arguments
        for member, seat in zip(self.members, seats, strict=True):
            member._name, member._client_port, member._peer_port = attrs.astuple(seat)
            member._initial_cluster = everybody
            if self.kept is not None:
                where = f"--data-dir={self.kept / seat.name}"
                member._launch = attrs.evolve(self._launch, arguments=(*arguments, where))
            member._spawn()

    def _keep(self, seats: list[Seat]) -> None:
        if self.kept is None:
            return
        self.kept.mkdir(parents=True, exist_ok=True)
        (self.kept / PLAN).write_text(json.dumps([attrs.asdict(each) for each in seats], indent=2))


def _check_free(seats: list[Seat]) -> None:
    """Raises:
    EtcdFailed: Somebody listens there, or nobody may.
    """
    for port in (port for each in seats for port in (each.client_port, each.peer_port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError) as error:
                raise etcd_server.EtcdFailed(f"port {port} cannot be had: {error}") from error
