"""Group commit: transactions that come at the same time travel as one, each with its own compares and result.

Inside of etcd they are nested transactions of one outer one: one call, one raft entry, one disk sync.  All of
them take effect at one revision, and their compares see the state before it.  So what goes together must not
depend on what else goes: no two puts of one key (etcd refuses that), and never two places in one line, or in
two lines of which one lies within the other: they would get the same create revision, and the order would be
gone.  Who sends here answers for that.

If one member spoils it (a lease that is gone, a value that is too large), etcd refuses the whole, certainly,
and each is sent again on its own.  Out of space is no certain refusal: then all are told, and each finds out.

Source: DeWitt et al., "Implementation techniques for main memory database systems" (1984).
Cost: one commit for all that wait while another is on its way; a lone transaction is sent at once.
"""

from __future__ import annotations

import typing

from coordkit import coalescer, errors
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import kv

MOST = 40  # a transaction: etcd allows 128 operations, and each of these has a few

_Entry = coalescer.Entry[kv.TxnRequest, kv.TxnResult]


class Group:
    """One for each client."""

    def __init__(self, client: clients.Client) -> None:
        self._client = client
        self._coalescer: coalescer.Coalescer[kv.TxnRequest, kv.TxnResult] = coalescer.Coalescer(
            "group commit", self._send, MOST
        )

    def txn(self, request: kv.TxnRequest, deadline: Deadline) -> kv.TxnResult:
        """As `Client.txn`, perhaps together with others.

        Raises:
            As `Client.txn`: what becomes of the others is theirs.
        """
        return self._coalescer.submit(request, deadline)

    def _send(self, batch: typing.Sequence[_Entry], deadline: Deadline) -> None:
        if len(batch) == 1:
            batch[0].succeed(self._client.txn(batch[0].payload, deadline))
            return
        try:
            whole = kv.txn_request([], [kv.within(entry.payload) for entry in batch])
            result = self._client.txn(whole, deadline)
        except errors.QuotaExceeded as error:
            # It may have been committed, so nobody's part is simply sent again.
            for entry in batch:
                entry.fail(errors.QuotaExceeded(*error.args))
            return
        for index, entry in enumerate(batch):
            entry.succeed(result.inner(index))
