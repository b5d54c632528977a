"""What can be done to a session, a process, a network and a history behind the back of those who use them.

Cost: `expire` and `compact` one commit each; `pause` two signals; `partition` four short processes or more.
"""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Iterator

from coordkit import coordinator, deadline, errors, session
from coordkit.etcd import client as clients
from coordkit.etcd import lease as leases
from coordkit.testing import cluster, netns, processes
from coordkit.wire import messages

RANGE = "/etcdserverpb.KV/Range"
COMPACT = "/etcdserverpb.KV/Compact"
PATIENCE_S = 10.0


class Process(typing.Protocol):
    """A `subprocess.Popen`, a `LocalEtcd`, a member of an `EtcdCluster`."""

    @property
    def pid(self) -> int:
        """Its process id."""


def expire(of: session.Session) -> None:
    """End a session as etcd does when its lease runs out: all its keys go, in one revision.

    The session learns of it as it would from etcd: by its watch, and by the next renewal.

    Raises:
        Unavailable: etcd did not answer.
    """
    witness = clients.Client(of.client.options)
    try:
        leases.revoke(witness, of.lease_id, deadline.Deadline.after(PATIENCE_S))
    finally:
        witness.close()


@contextlib.contextmanager
def pause(process: Process | int) -> Iterator[None]:
    """SIGSTOP a process, and SIGCONT it at the end of the block.

    Args:
        process: It, or its process id.
    """
    pid = process if isinstance(process, int) else process.pid
    processes.pause(pid)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # killed meanwhile
            processes.resume(pid)


@contextlib.contextmanager
def partition(of: netns.NetnsCluster, *members: cluster.Member) -> Iterator[None]:
    """Cut members off from the others, both ways, until the end of the block; clients reach all of them.

    Args:
        of: The cluster; on one that is no `NetnsCluster` nobody can.
        members: Who stands on one side.

    Raises:
        NetworkFailed: It could not be done.
    """
    of.cut_off(*members)
    try:
        yield
    finally:
        of.heal()


def compact(coord: coordinator.Coordinator, revision: int | None = None) -> int:
    """Let etcd forget its history: watches from before `revision` can never catch up.

    Args:
        coord: A coordinator of that etcd.
        revision: What is kept begins here; the present one by default.

    Returns:
        The revision.

    Raises:
        Gap: That revision was compacted already.
        Rejected: It lies in the future.
    """
    limit = deadline.Deadline.after(PATIENCE_S)
    kept = _revision_now(coord, limit) if revision is None else revision
    request = messages.CompactionRequest(revision=kept, physical=True)
    try:
        coord.client.unary(COMPACT, request, messages.CompactionResponse, limit)
    except errors.Gap:
        if revision is not None:
            raise  # else nothing was written since the last compaction
    return kept


def _revision_now(coord: coordinator.Coordinator, limit: deadline.Deadline) -> int:
    question = messages.RangeRequest(key=b"\0", count_only=True)
    found = coord.client.unary(RANGE, question, messages.RangeResponse, limit, repeatable=True)
    return found.header.revision
