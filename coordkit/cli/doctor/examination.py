"""Looks at each endpoint: dials it, asks it who it is and how it is.  What it means, others say.

Cost: two connections and some six requests for each endpoint, some twelve where it tells its state to root
alone; none of them writes.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import statistics
import time
from collections.abc import Iterator

import attrs

from coordkit import errors
from coordkit.cli.doctor import health, refusals
from coordkit.cli.doctor.finding import problem, shorten
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import mapping
from coordkit.etcd import options as opts
from coordkit.inspection import reading
from coordkit.wire import address as addresses
from coordkit.wire import channel as channels
from coordkit.wire import grpc, messages

STATUS = "/etcdserverpb.Maintenance/Status"
MEMBERS = "/etcdserverpb.Cluster/MemberList"

ROUND_TRIPS = 5
ASIDE_S = 2.0  # for what is good to know, but not worth a long wait
METRICS_BYTES = 8 * 2**20

_QUOTA = re.compile(rb"^etcd_server_quota_backend_bytes (\S+)$", re.MULTILINE)
_VERSION = re.compile(rb'^etcd_server_version\{server_version="([^"]+)"\} 1$', re.MULTILINE)


def url_of(address: addresses.Address) -> str:
    """As people write it."""
    if address.path:
        return f"{'unixs' if address.tls else 'unix'}://{address.path}"
    return f"{'https' if address.tls else 'http'}://{address}"


def examine(address: addresses.Address, options: opts.Options) -> health.Endpoint:
    """What one endpoint says."""
    url = url_of(address)
    alone = attrs.evolve(options, endpoints=(address,))
    limit = Deadline.after(options.timeout_s)
    began = time.monotonic()
    try:
        channel = channels.Channel.connect(address, limit, options.credentials)
    except grpc.CallFailed as failure:
        cause = failure.__cause__
        otherwise = _answers_otherwise(address, options, cause)
        trouble = refusals.of_dial(url, failure.status.message, cause, otherwise)
        return health.Endpoint(url, reached=False, trouble=trouble)
    seen = health.Endpoint(url, dial_ms=_since_ms(began))
    try:
        seen = _identify(seen, channel, limit)
    except grpc.CallFailed as failure:
        seen = _give_up(seen, failure, options)
    finally:
        channel.close()
    seen = _log_in(seen, alone)
    page = _metrics(address, options)
    version = _VERSION.search(page)
    if version is not None and not seen.version:
        seen = attrs.evolve(seen, version=shorten(version[1].decode(errors="replace")))
    return attrs.evolve(seen, quota_bytes=_quota(page))


def _identify(
    seen: health.Endpoint, channel: channels.Channel, limit: Deadline, metadata: grpc.Metadata = ()
) -> health.Endpoint:
    request = messages.StatusRequest().SerializeToString()
    reply, round_trip_ms = _ask(channel, STATUS, request, limit, metadata)
    status = messages.StatusResponse.FromString(reply)
    return attrs.evolve(
        seen,
        trouble=None,
        round_trip_ms=round_trip_ms,
        version=shorten(status.version),
        cluster=status.header.cluster_id,
        member=status.header.member_id,
        leader=status.leader,
        term=status.raftTerm,
        revision=status.header.revision,
        learner=status.isLearner,
        size_bytes=status.dbSize,
        used_bytes=status.dbSizeInUse,
        alarms=tuple(shorten(each) for each in status.errors),
    )


def _recognise(
    seen: health.Endpoint, channel: channels.Channel, limit: Deadline, metadata: grpc.Metadata
) -> health.Endpoint:
    """What any reply tells; this one, that there is no such lease, comes only where there is a leader."""
    request = messages.LeaseTimeToLiveRequest(ID=1).SerializeToString()
    reply, round_trip_ms = _ask(channel, reading.TIME_TO_LIVE, request, limit, metadata)
    header = messages.LeaseTimeToLiveResponse.FromString(reply).header
    return attrs.evolve(
        seen,
        trouble=None,
        round_trip_ms=round_trip_ms,
        cluster=header.cluster_id,
        member=header.member_id,
        term=header.raft_term,
        revision=header.revision,
        reticent=True,
    )


def _ask(
    channel: channels.Channel, method: str, request: bytes, limit: Deadline, metadata: grpc.Metadata
) -> tuple[bytes, float]:
    """The last of some replies, and how long one takes in milliseconds."""
    times_ms = []
    for _ in range(ROUND_TRIPS):
        began = time.monotonic()
        reply = channel.call(method, request, limit, metadata)
        times_ms.append(_since_ms(began))
    return reply, statistics.median(times_ms)


def _give_up(seen: health.Endpoint, failure: grpc.CallFailed, options: opts.Options) -> health.Endpoint:
    """It does not say who it is: because of who we are, or because it is not etcd."""
    if failure.status.code is grpc.Code.UNIMPLEMENTED:
        trouble = problem(seen.url, "it speaks gRPC, but is not etcd", "correct host and port")
    else:
        error = mapping.public_error(failure, "status")
        trouble = refusals.of_refusal(seen.url, error, options.user)
    return attrs.evolve(seen, trouble=trouble)


def _log_in(seen: health.Endpoint, alone: opts.Options) -> health.Endpoint:
    """Whether it takes user and password; with them, ask again what it would not tell a stranger."""
    if alone.user is None or (seen.trouble is not None and seen.cluster):
        return seen
    limit = Deadline.after(alone.timeout_s)
    client = clients.Client(alone)
    try:
        channel = client.channel(limit)
        if seen.cluster:
            return attrs.evolve(seen, authenticates=bool(client.metadata))
        try:
            seen = _identify(seen, channel, limit, client.metadata)
        except grpc.CallFailed as failure:
            if not isinstance(mapping.public_error(failure, "status"), errors.PermissionDenied):
                raise
            seen = _recognise(seen, channel, limit, client.metadata)
        return attrs.evolve(seen, authenticates=True)
    except grpc.CallFailed as failure:
        error = mapping.public_error(failure, "authenticate")
        return attrs.evolve(seen, trouble=refusals.of_refusal(seen.url, error, alone.user))
    finally:
        client.close()


def members(client: clients.Client, timeout_s: float) -> dict[int, tuple[str, tuple[str, ...]]]:
    """The cluster's members by id: name and client URLs.

    Raises:
        CoordError: It does not tell.
    """
    request = messages.MemberListRequest()
    limit = client.deadline(min(timeout_s, ASIDE_S))
    reply = client.unary(MEMBERS, request, messages.MemberListResponse, limit)
    return {member.ID: (shorten(member.name), tuple(member.clientURLs)) for member in reply.members}


#: These leave no doubt about the scheme, or nobody to ask.
_CLEAR = (
    ssl.SSLCertVerificationError,
    ConnectionRefusedError,
    FileNotFoundError,
    TimeoutError,
    socket.gaierror,
    UnicodeError,
)


def _answers_otherwise(
    address: addresses.Address, options: opts.Options, cause: BaseException | None
) -> bool | None:
    """Whether the port speaks TLS where we spoke none, or the other way round; None: it was not asked."""
    if isinstance(cause, _CLEAR):
        return None
    other = attrs.evolve(address, tls=not address.tls)
    limit = Deadline.after(min(options.timeout_s, ASIDE_S))
    try:
        channels.Channel.connect(other, limit, options.credentials).close()
    except grpc.CallFailed as failure:
        # Whoever shows a certificate, or refuses ours, speaks TLS.
        error = failure.__cause__
        return other.tls and isinstance(error, ssl.SSLError) and "does not speak" not in str(error)
    return True


# --- the page of metrics, which alone tells the quota


def _metrics(address: addresses.Address, options: opts.Options) -> bytes:
    if address.path:
        return b""
    try:
        with _http(address, options) as connection:
            connection.request("GET", "/metrics")
            return connection.getresponse().read(METRICS_BYTES)
    except (OSError, ValueError, http.client.HTTPException):
        return b""  # a proxy, a firewall, metrics on another port


def _quota(page: bytes) -> int | None:
    found = _QUOTA.search(page)
    try:
        size_bytes = int(float(found[1])) if found else 0
    except (ValueError, OverflowError):
        return None
    return size_bytes if size_bytes > 0 else None


@contextlib.contextmanager
def _http(address: addresses.Address, options: opts.Options) -> Iterator[http.client.HTTPConnection]:
    timeout_s = min(options.timeout_s, ASIDE_S)
    if address.tls:
        context = options.credentials.context()
        context.set_alpn_protocols(["http/1.1"])
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            address.host, address.port, timeout=timeout_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    try:
        yield connection
    finally:
        connection.close()


def _since_ms(began_s: float) -> float:
    return (time.monotonic() - began_s) * 1000
