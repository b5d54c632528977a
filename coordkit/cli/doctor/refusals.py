"""Why etcd cannot be reached or refuses us, in plain words, and what to do about it.  Pure."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Sequence

import attrs

from coordkit import errors
from coordkit.cli.doctor.finding import Finding, problem, shorten


@attrs.frozen
class Right:
    """One thing that coordkit must be allowed to do; `error` is None when it could."""

    name: str
    needs: str  # the grant, as etcdctl calls it; empty: any user will do
    took_ms: float
    error: errors.CoordError | None = None


# --- an endpoint that does not answer


def of_dial(url: str, message: str, cause: BaseException | None, otherwise: bool | None) -> Finding:
    """Why a dial failed.

    Args:
        url: The endpoint, `http://` or `https://`.
        message: What the channel said.
        cause: The error beneath it.
        otherwise: Whether the port answers with the other scheme; None when that was not tried.
    """
    if otherwise and url.startswith("https:"):
        return problem(url, "TLS was spoken to a port without TLS", "write etcd:// or http://, without the s")
    if otherwise:
        return problem(url, "this port wants TLS", "write etcds:// or https://, and name cacert if need be")
    if isinstance(cause, ConnectionRefusedError):
        remedy = "start etcd there, or correct host and port; see its --listen-client-urls"
        return problem(url, "nobody listens there", remedy)
    if isinstance(cause, (socket.gaierror, UnicodeError)):
        return problem(url, "the host's name is not known here", "correct the name, or mend the name service")
    if isinstance(cause, FileNotFoundError):
        return problem(url, "there is no such socket", "correct the path, or start etcd")
    if isinstance(cause, TimeoutError):
        remedy = "look for a firewall, a stopped or overloaded server, or another program on that port"
        return problem(url, "no answer in time", remedy)
    if isinstance(cause, ssl.SSLError):
        return _of_tls(url, cause)
    remedy = "is it etcd that listens there?  Look at the port, the network and etcd's log"
    return problem(url, shorten(message.removeprefix(f"{url.partition('://')[2]}: ")), remedy)


_TLS = (
    ("is no name of a host", "the host's name cannot be one", "correct it"),
    ("has expired", "the server's certificate has expired", "renew it"),
    ("not yet valid", "the server's certificate is not valid yet", "look at the clocks of both machines"),
    (
        "mismatch",
        "the server's certificate is for another name",
        "dial a name that it holds, or issue one that holds this name",
    ),
    (
        "certificate verify failed",
        "an unknown authority signed the server's certificate",
        "name the authority's certificate: cacert, COORDKIT_CACERT or ETCDCTL_CACERT",
    ),
    (
        "alert bad certificate",
        "the server does not take our certificate, or wants one and got none",
        "name cert and key of a client that its --trusted-ca-file knows",
    ),
    (
        "certificate required",
        "the server wants a certificate of ours",
        "name cert and key of a client that its --trusted-ca-file knows",
    ),
    (
        "alert unknown ca",
        "the server does not know the authority of our certificate",
        "take one that its --trusted-ca-file knows",
    ),
    ("does not speak TLS", "TLS was spoken to a port without TLS", "write etcd:// or http://, without the s"),
    ("HTTP/2", "the server speaks TLS, but not HTTP/2", "is it etcd, or a proxy that cannot pass gRPC on?"),
)


def _of_tls(url: str, cause: ssl.SSLError) -> Finding:
    text = str(cause)
    for part, means, remedy in _TLS:
        if part in text:
            return problem(url, means, remedy)
    return problem(url, f"TLS failed: {shorten(text)}", "compare the certificates and versions of both sides")


# --- authentication


def of_refusal(url: str, error: errors.CoordError, user: str | None) -> Finding:
    """Why an endpoint that answers does not work for us."""
    text = str(error)
    if isinstance(error, errors.Unauthenticated):
        if user is None:
            remedy = "set COORDKIT_USER and COORDKIT_PASSWORD, or write etcd://user:password@host"
            return problem(url, "etcd wants authentication, and no user was given", remedy)
        if "authentication failed" in text:
            remedy = "compare both sources above: user and password may come from different places"
            return problem(url, f"wrong password for the user {user!r}, or no such user", remedy)
    return problem(url, shorten(text), "see etcd's log")


# --- rights


def of_rights(rights: Iterable[Right], prefix: str, user: str | None, full: bool) -> list[Finding]:
    """What coordkit may not do, and which grant is missing.

    Args:
        rights: What was tried.
        prefix: Of the namespace, as `/coordkit/`.
        user: Who tried.
        full: Whether the database is known to be out of space, so that no write can pass.
    """
    failed = {right: right.error for right in rights if right.error is not None}
    strangers = [error for error in failed.values() if isinstance(error, errors.Unauthenticated)]
    if strangers:
        return [of_refusal(prefix, strangers[0], user)]  # all other refusals follow from this
    denied = [right for right, error in failed.items() if isinstance(error, errors.PermissionDenied)]
    found = [_of_denial(prefix, denied, user)] if denied else []
    for right, error in failed.items():
        if right in denied or (full and isinstance(error, errors.QuotaExceeded)):
            continue
        finding = of_failure(prefix, right.name, error)
        if finding not in found:
            found.append(finding)
    return found


def _of_denial(prefix: str, denied: Sequence[Right], user: str | None) -> Finding:
    needs = {right.needs for right in denied if right.needs}
    missing = " and ".join(sorted(needs)) or "the"
    names = ", ".join(right.name for right in denied)
    who = "this connection" if user is None else f"the user {user!r}"
    text = f"{who} has no {missing} permission on the namespace (refused: {names})"
    # Both kinds, whichever is missing: a grant replaces an earlier one of the same prefix.
    return problem(prefix, text, f"etcdctl role grant-permission ROLE readwrite --prefix=true {prefix}")


def of_failure(prefix: str, name: str, error: errors.CoordError) -> Finding:
    """Why one request got no good answer, when it was neither user nor grant."""
    if isinstance(error, errors.QuotaExceeded):
        return out_of_space(prefix)
    if isinstance(error, errors.OUTAGE):
        remedy = "is there a majority of members?  Look at their logs and disks"
        return problem(prefix, f"{name} was not answered in time: {shorten(str(error))}", remedy)
    return problem(prefix, f"{name} failed: {shorten(str(error))}", "see etcd's log")


def out_of_space(url: str) -> Finding:
    """The alarm NOSPACE, however we learned of it."""
    text = "etcd is out of space (alarm NOSPACE): reads and deletes pass, no other write does"
    remedy = "etcdctl compact REVISION and defrag, or raise --quota-backend-bytes; then etcdctl alarm disarm"
    return problem(url, text, remedy)
