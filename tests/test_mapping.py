"""From status to public error: what the user is told, and whether the request may have been applied."""

from __future__ import annotations

import pytest

from coordkit import errors
from coordkit.etcd import mapping
from coordkit.wire.grpc import CallFailed, Code, Status

NONE, UNKNOWN = errors.Outcome.NONE, errors.Outcome.UNKNOWN

#: What etcd says, by code and text; the error; and its outcome, where there is any doubt.
SAID = [
    (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", errors.QuotaExceeded, None),
    (Code.INVALID_ARGUMENT, "etcdserver: request is too large", errors.TooLarge, None),
    (Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max (9 vs. 2)", errors.TooLarge, None),
    (Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", errors.TooLarge, None),
    (Code.NOT_FOUND, "etcdserver: requested lease not found", errors.LeaseNotFound, None),
    (Code.PERMISSION_DENIED, "etcdserver: permission denied", errors.PermissionDenied, None),
    (Code.PERMISSION_DENIED, "says a proxy", errors.PermissionDenied, None),
    (
        Code.INVALID_ARGUMENT,
        "etcdserver: authentication failed, invalid user ID or password",
        errors.Unauthenticated,
        None,
    ),
    (Code.INVALID_ARGUMENT, "etcdserver: user name is empty", errors.Unauthenticated, None),
    (Code.UNAUTHENTICATED, "etcdserver: invalid auth token", errors.Unauthenticated, None),
    (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", errors.Unauthenticated, None),
    (Code.UNKNOWN, "auth: revision in header is old", errors.Unauthenticated, None),
    (Code.UNAUTHENTICATED, "says a proxy", errors.Unauthenticated, None),
    (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", errors.Gap, None),
    (
        Code.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
        errors.Rejected,
        None,
    ),
    (Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", errors.Rejected, None),
    (Code.INVALID_ARGUMENT, "etcdserver: key is not provided", errors.Rejected, None),
    (Code.FAILED_PRECONDITION, "etcdserver: lease already exists", errors.Rejected, None),
    (Code.UNIMPLEMENTED, "unknown method", errors.Rejected, None),
    (Code.DATA_LOSS, "etcdserver: corrupt cluster", errors.Rejected, None),
    (Code.UNAVAILABLE, "etcdserver: no leader", errors.Unavailable, NONE),
    (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", errors.Unavailable, NONE),
    (Code.UNAVAILABLE, "etcdserver: not capable", errors.Unavailable, NONE),
    (Code.UNAVAILABLE, "etcdserver: rpc not supported for learner", errors.Unavailable, NONE),
    (Code.UNAVAILABLE, "etcdserver: leader changed", errors.Unavailable, UNKNOWN),
    (Code.UNAVAILABLE, "etcdserver: request timed out", errors.Unavailable, UNKNOWN),
    (
        Code.UNAVAILABLE,
        "etcdserver: request timed out, possibly due to previous leader failure",
        errors.Unavailable,
        UNKNOWN,
    ),
    (Code.UNAVAILABLE, "etcdserver: server stopped", errors.Unavailable, UNKNOWN),
    (Code.CANCELLED, "etcdserver: request cancelled", errors.Unavailable, UNKNOWN),
    (Code.INTERNAL, "anything", errors.Unavailable, UNKNOWN),
    (Code.UNKNOWN, "anything", errors.Unavailable, UNKNOWN),
    (Code.ABORTED, "anything", errors.Unavailable, UNKNOWN),
    (Code.DEADLINE_EXCEEDED, "context deadline exceeded", errors.DeadlineExceeded, UNKNOWN),
    (Code.UNKNOWN, "context deadline exceeded", errors.DeadlineExceeded, UNKNOWN),
]


@pytest.mark.parametrize(("code", "text", "kind", "outcome"), SAID)
def test_what_etcd_says(code, text, kind, outcome):
    """
    Refusals are of their kind; whatever may pass by itself is Unavailable, with what is known of the request.
    """
    error = mapping.public_error(CallFailed("m", Status(code, text, from_server=True)), "put a")

    assert type(error) is kind
    assert str(error).startswith(f"put a: {text}")
    assert getattr(error, "outcome", None) is outcome


@pytest.mark.parametrize("outcome", [NONE, UNKNOWN])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.UNAVAILABLE, errors.Unavailable),
        (Code.INTERNAL, errors.Unavailable),
        (Code.CANCELLED, errors.Unavailable),
        (Code.UNAUTHENTICATED, errors.Unavailable),
        (Code.PERMISSION_DENIED, errors.Unavailable),
        (Code.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
    ],
)
def test_what_we_conclude_ourselves(code, kind, outcome):
    """
    A broken exchange is no refusal of etcd's, whatever code it was given; what we know of it is passed on.
    """
    error = mapping.public_error(CallFailed("m", Status(code, "broken", outcome=outcome)), "put a")

    assert type(error) is kind
    assert error.outcome is outcome


@pytest.mark.parametrize(
    "text", ["etcdserver: no leader", "etcdserver: too many requests", "database space exceeded"]
)
def test_only_etcd_itself_can_vouch_for_what_was_not_applied(text):
    """
    The same words from elsewhere, as in the reason of a broken connection, prove nothing.
    """
    status = Status(Code.UNAVAILABLE, text, from_server=False, outcome=UNKNOWN)

    assert not mapping.is_certainly_not_applied(status)
    assert mapping.public_error(CallFailed("m", status), "put a").outcome is UNKNOWN


@pytest.mark.parametrize(
    ("text", "stale"),
    [
        ("etcdserver: invalid auth token", True),
        ("etcdserver: revision of auth store is old", True),
        ("auth: revision in header is old", True),
        ("etcdserver: permission denied", False),
        ("etcdserver: user name is empty", False),
        ("", False),
    ],
)
def test_when_a_new_token_may_help(text, stale):
    """
    It is unknown, or older than the accounts; not when the user is the wrong one.
    """
    assert mapping.is_stale_token_text(text) is stale


def test_no_servers_text_disturbs_a_terminal():
    """
    Control characters are replaced, and no text goes on for ever.
    """
    text = "a\x1b[2Jb\nc\x7f" + "x" * 10_000

    shown = str(mapping.public_error(CallFailed("m", Status(Code.UNKNOWN, text, from_server=True)), "get a"))

    assert shown.startswith("get a: a?[2Jb?c?xxx")
    assert len(shown) < 600
