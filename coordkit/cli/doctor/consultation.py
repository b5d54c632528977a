"""One visit: every examination in turn, as far as the one before allows, and what follows from each."""

from __future__ import annotations

import attrs

from coordkit import errors, settings
from coordkit.cli.doctor import examination, health, origins, refusals, trial
from coordkit.cli.doctor.finding import advice, merged
from coordkit.cli.doctor.report import Report
from coordkit.etcd import client as clients


def prefix_of(namespace: str) -> str:
    """Where all keys of a namespace are."""
    return f"/{namespace}/" if namespace else "/"


def consult(chosen: settings.Settings, told: Report) -> None:
    """Fill the report.

    Raises:
        InvalidValue: A certificate's file cannot be used.
    """
    options = chosen.options
    if any(address.tls for address in options.endpoints):
        options.credentials.context()  # raises, once and for all endpoints
    told.findings += origins.of_settings(chosen)
    for address in options.endpoints:
        told.endpoints.append(examination.examine(address, options))
    told.findings += health.of_endpoints(told.endpoints)
    told.revision = max(endpoint.revision for endpoint in told.endpoints)
    healthy = tuple(
        address
        for address, seen in zip(options.endpoints, told.endpoints, strict=True)
        if seen.usable and seen.cluster == _first_cluster(told.endpoints)
    )
    if healthy:
        client = clients.Client(attrs.evolve(options, endpoints=healthy))
        try:
            _try(client, chosen, told)
        finally:
            client.close()
        told.revision = max(told.revision, client.seen_revision)
    told.findings += health.of_space(told.endpoints, told.compacted, told.revision)
    told.findings = merged(told.findings)


def _first_cluster(endpoints: list[health.Endpoint]) -> int:
    return next((endpoint.cluster for endpoint in endpoints if endpoint.usable), 0)


def _try(client: clients.Client, chosen: settings.Settings, told: Report) -> None:
    """What needs a cluster that works."""
    try:
        told.members = examination.members(client, chosen.options.timeout_s)
    except errors.CoordError as error:
        told.findings.append(advice("members", f"etcd does not tell them: {error}", "grant the user more"))
    attempt = trial.Trial(client, chosen.namespace, chosen.terms.ttl_s)
    try:
        attempt.run()
    finally:
        told.rights = attempt.rights
    full = any(health.NOSPACE in alarm for endpoint in told.endpoints for alarm in endpoint.alarms)
    told.findings += refusals.of_rights(told.rights, told.prefix, chosen.options.user, full)
    if attempt.left:
        told.findings.append(advice(told.prefix, attempt.left, "nothing, it is gone soon"))
    if attempt.rights[0].error is None:  # a lease can be had
        _look_at_the_clock(client, chosen.terms.ttl_s, told)
    told.compacted = attempt.history()


def _look_at_the_clock(client: clients.Client, ttl_s: int, told: Report) -> None:
    try:
        told.clock = trial.examine_clock(client, ttl_s)
        told.findings += health.of_clock(told.clock)
    except errors.CoordError as error:
        told.findings.append(refusals.of_failure("lease", "asking for a lease's time", error))
