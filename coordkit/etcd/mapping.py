"""From how a call ended to what the user is told: the one place that knows etcd's error texts.

Pure.  The texts are those of etcd's api/v3rpc/rpctypes/error.go.
"""

from __future__ import annotations

import re

from coordkit import errors
from coordkit.wire import grpc

Outcome = errors.Outcome

# Refusals after which the request cannot have been applied, although the code says UNAVAILABLE.
_NOT_APPLIED = ("etcdserver: no leader", "too many requests", "etcdserver: not capable", "learner")

# What only this member says: the others may be of more use.
_OTHERS_MAY = ("etcdserver: no leader", "not supported for learner")

_REFUSALS: tuple[tuple[str, type[errors.Rejected]], ...] = (
    ("database space exceeded", errors.QuotaExceeded),
    ("request is too large", errors.TooLarge),
    ("larger than max", errors.TooLarge),
    ("too many operations in txn", errors.TooLarge),
    ("requested lease not found", errors.LeaseNotFound),
    ("permission denied", errors.PermissionDenied),
    ("authentication failed", errors.Unauthenticated),
    ("user name is empty", errors.Unauthenticated),
    ("invalid auth token", errors.Unauthenticated),
    ("revision of auth store is old", errors.Unauthenticated),
    ("revision in header is old", errors.Unauthenticated),
)

_SIZE = "; it has {size_bytes} bytes, and etcd takes 1572864 unless its --max-request-bytes says otherwise"
_HINTS = {
    "user name is empty": "; this etcd wants a user and a password: user=, password=, or COORDKIT_USER",
    "request is too large": _SIZE,
    "larger than max": _SIZE,
    "too many operations in txn": "; etcd takes 128 unless its --max-txn-ops says otherwise",
}

# The token is unknown, has run out, or is older than the last change of the accounts.  The last text is that
# of servers up to 3.5 at least, which let the error of their store through, with code UNKNOWN.
_STALE = ("invalid auth token", "revision of auth store is old", "revision in header is old")

# The server counts the caller's time too, and may be the first to find it up: etcd 3.5 says so with UNKNOWN.
_OUT_OF_TIME = "context deadline exceeded"


def is_stale_token(status: grpc.Status) -> bool:
    """Whether a fresh token may help.  JWT tokens fail as INVALID_ARGUMENT (etcd issue 13300)."""
    return is_stale_token_text(status.message)


def is_stale_token_text(message: str) -> bool:
    """The same for a watch, which reports in-band."""
    return any(text in message for text in _STALE)


def is_no_use(status: grpc.Status) -> bool:
    """Whether a member says that it is cut off from the others, or only learns from them."""
    return status.from_server and any(text in status.message for text in _OTHERS_MAY)


def is_certainly_not_applied(status: grpc.Status) -> bool:
    """Whether the same request may be sent again without a second thought."""
    if not status.from_server:
        return status.outcome is Outcome.NONE
    return any(text in status.message for text in _NOT_APPLIED) or is_stale_token(status)


def public_error(failure: grpc.CallFailed, what: str, size_bytes: int = 0) -> errors.CoordError:
    """The error for the user.

    Args:
        failure: How the call ended.
        what: The operation and its key, for the message.
        size_bytes: Of the request.
    """
    status = failure.status
    code, message = status.code, f"{what}: {_plain(status.message)}"
    outcome = Outcome.NONE if is_certainly_not_applied(status) else Outcome.UNKNOWN
    if code is grpc.Code.DEADLINE_EXCEEDED or (status.from_server and status.message.endswith(_OUT_OF_TIME)):
        return errors.DeadlineExceeded(message, outcome)
    if status.from_server:
        for text, kind in _REFUSALS:
            if text in status.message:
                return kind(message + _HINTS.get(text, "").format(size_bytes=size_bytes))
        if "has been compacted" in status.message:
            return errors.Gap(message, 0)
        if code is grpc.Code.PERMISSION_DENIED:
            return errors.PermissionDenied(message)
        if code is grpc.Code.UNAUTHENTICATED:
            return errors.Unauthenticated(message)
        if code not in _TRANSIENT:
            return errors.Rejected(f"{message} ({code.name})")
    return errors.Unavailable(message, outcome)


_TRANSIENT = {
    grpc.Code.UNAVAILABLE,
    grpc.Code.CANCELLED,
    grpc.Code.INTERNAL,
    grpc.Code.UNKNOWN,
    grpc.Code.RESOURCE_EXHAUSTED,
    grpc.Code.ABORTED,
}


def _plain(message: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", "?", message)[:500]
