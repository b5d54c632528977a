"""What a client needs to know before it can dial."""

from __future__ import annotations

import attrs

from coordkit.wire import address, tls


@attrs.frozen
class Options:
    """Where etcd is, and how to talk to it."""

    endpoints: tuple[address.Address, ...]
    timeout_s: float = 5.0  # for dialling, and for requests whose caller names no timeout
    user: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    credentials: tls.Credentials = tls.NO_CREDENTIALS
