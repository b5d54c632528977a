"""Which endpoints there are: those that were configured, and what the cluster has told of its members since.

What one client of a process has learnt serves all that were configured alike, the heart's own included.
"""

from __future__ import annotations

import typing

from coordkit import errors
from coordkit.etcd import options as opts
from coordkit.wire import address, messages

_LEARNT: dict[opts.Options, tuple[address.Address, ...]] = {}


def known(options: opts.Options) -> tuple[address.Address, ...]:
    """Where one may dial."""
    return _LEARNT.get(options, options.endpoints)


def learn(options: opts.Options, members: typing.Iterable[messages.Member]) -> tuple[address.Address, ...]:
    """Take what the cluster says: its members first, then what was configured and is not among them.

    A learner serves next to nothing, and a member that has not started yet names no URL: both are left out.
    So is, for whoever uses TLS, an address without it.
    """
    found: list[address.Address] = []
    for member in members:
        if not member.isLearner:
            found.extend(filter(None, map(_parsed, member.clientURLs)))
    encrypted = all(each.tls for each in options.endpoints)
    found = [each for each in found if each.tls or not encrypted]
    _LEARNT[options] = tuple(dict.fromkeys([*found, *options.endpoints]))
    return _LEARNT[options]


def _parsed(url: str) -> address.Address | None:
    try:
        return address.Address.parse(url)
    except errors.InvalidValue:
        return None  # a URL for others: it was never checked by anybody
