"""EtcdCluster: some etcd servers on loopback that form one cluster, stopped whatever happens.

POSIX only.  Cost: two processes for each member; 2 s to start, for a leader has to be elected.
"""

from __future__ import annotations

import collections
import os
import secrets
import shutil
import time
import types
from collections.abc import Mapping, Sequence

from coordkit import deadline, errors
from coordkit.testing import certificates, direct, etcd_server, lifeline, listening, loopback, processes
from coordkit.wire import messages

STATUS = "/etcdserverpb.Maintenance/Status"
MOVE_LEADER = "/etcdserverpb.Maintenance/MoveLeader"


class Member(etcd_server.EtcdServer):
    """One member of a cluster."""

    def __init__(self, launch: etcd_server.Launch, cluster: EtcdCluster, name: str) -> None:
        super().__init__(launch)
        self._cluster = cluster
        self._name = name

    @property
    def name(self) -> str:
        """As the cluster knows it."""
        return self._name

    @property
    def awake(self) -> bool:
        """Whether its process lives and is not paused."""
        return self.running and not processes.states(self.pid) <= {"T"}

    def status(self, limit: deadline.Deadline = deadline.NEVER) -> messages.StatusResponse:
        """What it says of itself.

        Raises:
            CoordError: It does not answer.
        """
        return direct.ask(self, STATUS, messages.StatusRequest(), messages.StatusResponse, limit)

    def _is_ready(self) -> bool:
        # Without a majority no member can serve, so the first ones to come back only have to be there.
        return super()._is_ready() or not self._cluster.has_quorum


class EtcdCluster:
    """An etcd cluster of our own.

    Used as a context manager, or with `start()` and `stop()`.  It dies with the process that started it, and
    only that process may command it.

    Args:
        size: How many members.
        binary: The servers' path; by default the first of `COORDKIT_ETCD`, the `etcd` extra's, PATH.
        arguments: More of each server's command line options; they come last, so they win.
        environment: Added to the servers' environment, from which every other `ETCD_*` is taken away.
        tls: The servers' certificate, and the authority whose client certificates they ask for; among
            themselves they speak in the clear.
        start_timeout_s: How long a start may take.

    Attributes:
        members: Each can be killed, started, restarted, paused and resumed.

    Raises:
        EtcdNotFound: There is no server.
    """

    def __init__(
        self,
        size: int = 3,
        binary: str | os.PathLike[str] | None = None,
        *,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        tls: certificates.Certificates | None = None,
        start_timeout_s: float = 60.0,
    ) -> None:
        self._launch = etcd_server.Launch.of(
            binary,
            arguments=arguments,
            environment=environment,
            tls=tls,
            start_timeout_s=start_timeout_s,
        )
        token = secrets.token_hex(4)
        names = (f"coordkit-{token}-{number}" for number in range(1, size + 1))
        self.members = tuple(Member(self._launch, self, name) for name in names)
        self._started = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {','.join(self.endpoints) if self._started else 'stopped'}>"

    def __enter__(self) -> EtcdCluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.stop()

    # --- what it is

    @property
    def endpoints(self) -> tuple[str, ...]:
        """One for each member, in their order; kept from the start to `stop()`."""
        return tuple(member.endpoint for member in self.members)

    @property
    def url(self) -> str:
        """For `coordkit.connect()`: all members; under TLS it names the client's certificate too."""
        return listening.url(self.endpoints, self._launch.tls)

    @property
    def binary(self) -> str:
        """The servers' path."""
        return self._launch.binary

    @property
    def version(self) -> str:
        """As in "3.5.1"."""
        return self.members[0].version

    @property
    def quorum(self) -> int:
        """How many members it takes to serve."""
        return len(self.members) // 2 + 1

    @property
    def has_quorum(self) -> bool:
        """Whether so many live and are not paused."""
        return sum(member.awake for member in self.members) >= self.quorum

    def leader(self, timeout_s: float = 30.0) -> Member:
        """Who leads, as a majority says; during an election its outcome is waited for.

        Raises:
            DeadlineExceeded: A majority agreed on nobody.
        """
        limit = deadline.Deadline.after(timeout_s, "timeout_s")
        while True:
            leader = self._leader_now(limit)
            if leader is not None:
                return leader
            if limit.expired:
                raise errors.DeadlineExceeded(f"a majority of {self} has named no leader in {timeout_s:g} s")
            time.sleep(0.02)

    # --- what can be done to it

    def start(self) -> None:
        """Start every member that does not run, and wait until all serve and one leads.

        Raises:
            EtcdFailed: A member ended, or did not answer in time.
        """
        if self._started:
            for member in self.members:
                member.start()
        else:
            self._started = True
            try:
                for member in self.members:
                    member._lifeline = lifeline.Lifeline("coordkit-etcd-")
                self._start_anywhere(self.members[0]._limit())
            except BaseException:
                self.stop()
                raise
        self.leader()

    def stop(self) -> None:
        """End the members and remove their data.  Nothing to do when it was not started."""
        for member in self.members:
            member.kill()
        for member in self.members:
            member._remove()
        self._started = False

    def move_leader(self, to: Member | None = None, timeout_s: float = 30.0) -> Member:
        """Let another member lead, without a fault; returns who leads now.

        Args:
            to: Who shall lead; by default the next member that is awake.
            timeout_s: Seconds for all of it.

        Raises:
            DeadlineExceeded: It does not lead by then.
            CoordError: The leader refused.
        """
        limit = deadline.Deadline.after(timeout_s, "timeout_s")
        leader = self.leader(limit.remaining())
        target = to or self._after(leader)
        if target is leader:
            return leader
        target_id = target.status(limit).header.member_id
        request = messages.MoveLeaderRequest(targetID=target_id)
        direct.ask(leader, MOVE_LEADER, request, messages.MoveLeaderResponse, limit)
        while self.leader(limit.remaining()) is not target:
            if limit.expired:
                raise errors.DeadlineExceeded(f"{target.name} does not lead after {timeout_s:g} s")
            time.sleep(0.02)
        return target

    # --- how

    def _start_anywhere(self, limit: deadline.Deadline) -> None:
        """Until all have ports of their own: those that were free a moment ago can be taken by now."""
        while True:
            ports = iter(loopback.free_ports(2 * len(self.members)))
            for member in self.members:
                member._client_port, member._peer_port = next(ports), next(ports)
            try:
                return self._found(limit)
            except etcd_server.EtcdFailed:
                if limit.expired or not any(member._lacks_port() for member in self.members):
                    raise
            for member in self.members:
                member.kill()
                shutil.rmtree(member.folder / "data", ignore_errors=True)

    def _found(self, limit: deadline.Deadline) -> None:
        """Start the members where they are to listen, as one new cluster."""
        everybody = ",".join(f"{member.name}={member._listening.peer_url}" for member in self.members)
        for member in self.members:
            member._initial_cluster = everybody
            member._spawn()
        for member in self.members:
            member._await_ready(limit)

    def _leader_now(self, limit: deadline.Deadline) -> Member | None:
        """Whom a majority names for one and the same term; a member that was cut off may name an old one."""
        votes: collections.Counter[tuple[int, int]] = collections.Counter()
        members: dict[int, Member] = {}
        for member in self.members:
            if not member.awake:
                continue
            try:
                said = member.status(limit)
            except errors.CoordError:
                continue
            members[said.header.member_id] = member
            votes[said.raftTerm, said.leader] += 1
        for (_, leader_id), count in votes.items():
            if count >= self.quorum and leader_id in members:
                return members[leader_id]
        return None

    def _after(self, leader: Member) -> Member:
        start = self.members.index(leader) + 1
        others = [*self.members[start:], *self.members[: start - 1]]
        awake = next((member for member in others if member.awake), None)
        if awake is None:
            raise errors.UsageError("no other member is awake to lead")
        return awake
