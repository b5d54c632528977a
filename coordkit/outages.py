"""What etcd's absence ends, done again until etcd is back or the time is up."""

from __future__ import annotations

import typing

from coordkit import errors
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import kv

T = typing.TypeVar("T")


def outlast(action: typing.Callable[[], T], deadline: Deadline) -> T:
    """Do what may find etcd unavailable, until it works or the time is up.

    Raises:
        AcquireTimeout: It is.
    """
    pause_s = clients.FIRST_PAUSE_S
    while True:
        try:
            return action()
        except errors.OUTAGE as error:  # also one that outlasts a limit of the action's own
            pause_s = clients.pause(pause_s, deadline, errors.AcquireTimeout(str(error), error.outcome))


def patiently(client: clients.Client, request: kv.TxnRequest, deadline: Deadline) -> kv.TxnResult:
    """A transaction whose copy does no harm, repeated through outages until the time is up.

    Raises:
        Unavailable, DeadlineExceeded: It is.
    """
    pause_s = clients.FIRST_PAUSE_S
    while True:
        try:
            return client.txn(request, deadline.sooner(client.options.timeout_s))
        except errors.OUTAGE as error:
            pause_s = clients.pause(pause_s, deadline, error)
