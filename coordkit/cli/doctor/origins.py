"""The settings, each with its source, fit to be shown: of a password only that there is one.  Pure."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from coordkit import settings
from coordkit.cli.doctor.examination import url_of
from coordkit.cli.doctor.finding import Finding, advice
from coordkit.wire import address

HIDDEN = "(hidden)"
UNSET = "-"


@attrs.frozen
class Setting:
    """One value; None is not set."""

    name: str
    value: str | None
    source: str | None


def settings_of(chosen: settings.Settings, where: str, environment: Mapping[str, str]) -> list[Setting]:
    """Every setting.

    Args:
        chosen: As `settings.resolve` put them together.
        where: The option that the URL or the endpoints came by.
        environment: To tell which variable it was.
    """
    options, credentials = chosen.options, chosen.options.credentials
    values = {
        "endpoints": ", ".join(map(url_of, options.endpoints)),
        "namespace": chosen.namespace or "(none: keys begin with a slash)",
        "user": options.user,
        "password": None if options.password is None else HIDDEN,
        "cacert": credentials.cacert,
        "cert": credentials.cert,
        "key": credentials.key,
        "ttl": f"{chosen.terms.ttl_s} s",
        "timeout": f"{options.timeout_s:g} s",
        "identity": chosen.identity,
    }
    return [
        Setting(name, value, None if value is None else source_of(name, chosen.sources, where, environment))
        for name, value in values.items()
    ]


def source_of(name: str, sources: Mapping[str, str], where: str, environment: Mapping[str, str]) -> str:
    """Where a value came from: an option, a variable, or the default."""
    layer = sources.get(name, "default")
    if layer == "argument":
        return f"--{name}"
    if layer == "URL":
        return where
    if "COORDKIT" in layer:
        own = f"COORDKIT_{name.upper()}"
        return own if own in environment else "COORDKIT_URL"
    if "ETCDCTL" in layer:
        if name == "password" and ":" in environment.get("ETCDCTL_USER", ""):
            return "ETCDCTL_USER"
        return "ETCDCTL_DIAL_TIMEOUT" if name == "timeout" else f"ETCDCTL_{name.upper()}"
    return layer


def of_settings(chosen: settings.Settings) -> list[Finding]:
    """What is odd about them before anybody is asked."""
    options, sources = chosen.options, chosen.sources
    found = []
    if options.password is not None and options.user is None:
        found.append(advice("settings", "there is a password but no user: it is not used", "name the user"))
    elif options.password is None and options.user is not None:
        text = f"the user {options.user!r} has no password"
        found.append(advice("settings", text, "set COORDKIT_PASSWORD, or write it into the URL"))
    elif options.user is not None and _are_strangers(sources.get("user", ""), sources.get("password", "")):
        text = "user and password come from different places: do they belong together?"
        found.append(advice("settings", text, "give both in one place"))
    if options.password and any(_is_open(each) for each in options.endpoints):
        text = "the password travels over the network without TLS"
        found.append(advice("settings", text, "use TLS: etcds://, with etcd's --cert-file and --key-file"))
    return found


def _are_strangers(*layers: str) -> bool:
    """Whether one of two is etcdctl's and the other is not."""
    return len({"ETCDCTL" in layer for layer in layers}) > 1


def _is_open(endpoint: address.Address) -> bool:
    """Whether others can listen."""
    local = endpoint.path or endpoint.host in ("localhost", "::1") or endpoint.host.startswith("127.")
    return not (endpoint.tls or local)
