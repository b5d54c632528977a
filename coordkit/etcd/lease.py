"""Leases: grant and revoke.  Renewal is the heart's."""

from __future__ import annotations

import secrets

from coordkit import errors
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.wire import messages

GRANT = "/etcdserverpb.Lease/LeaseGrant"
REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"


def grant(client: clients.Client, ttl_s: int, deadline: Deadline) -> tuple[int, int]:
    """A new lease.

    The id is ours, drawn at random: so a repeated grant whose first reply was lost is recognized.

    Returns:
        Its id, and the seconds that etcd granted, which may be more than asked.

    Cost: 1 commit.
    """
    lease_id = secrets.randbits(62) + 1
    request = messages.LeaseGrantRequest(TTL=ttl_s, ID=lease_id)
    try:
        reply = client.unary(GRANT, request, messages.LeaseGrantResponse, deadline, repeatable=True)
    except errors.Rejected as error:
        if "lease already exists" not in str(error):
            raise
        return lease_id, ttl_s  # our own first attempt was applied
    return lease_id, reply.TTL


def revoke(client: clients.Client, lease_id: int, deadline: Deadline) -> None:
    """End a lease and delete its keys, in one revision.  A lease that is gone already is no error.

    Cost: 1 commit.
    """
    request = messages.LeaseRevokeRequest(ID=lease_id)
    try:
        client.unary(REVOKE, request, messages.LeaseRevokeResponse, deadline, repeatable=True)
    except errors.LeaseNotFound:
        pass
