"""Where the settings come from: arguments, then the URL, then COORDKIT_*, then ETCDCTL_*, then defaults."""

from __future__ import annotations

import os
import socket
import typing
import urllib.parse

import attrs

from coordkit import errors, keys
from coordkit.etcd import options as opts
from coordkit.terms import Terms
from coordkit.wire import address, tls

DEFAULT_URL = "etcd://127.0.0.1:2379/coordkit"
DEFAULT_NAMESPACE = "coordkit"
DEFAULT_TIMEOUT_S = 5.0

_SCHEMES = {"etcd": False, "http": False, "etcds": True, "https": True}
_IN_URL = {"ttl", "timeout", "cacert", "cert", "key", "identity"}
_ETCDCTL = {
    "endpoints": "ETCDCTL_ENDPOINTS",
    "cacert": "ETCDCTL_CACERT",
    "cert": "ETCDCTL_CERT",
    "key": "ETCDCTL_KEY",
    "timeout": "ETCDCTL_DIAL_TIMEOUT",
}


@attrs.frozen
class Settings:
    """Everything that `connect` needs, and for each value where it came from."""

    options: opts.Options
    namespace: str
    identity: str
    terms: Terms
    sources: dict[str, str] = attrs.field(factory=dict)


def resolve(url: str | typing.Iterable[str] | None, arguments: dict[str, typing.Any]) -> Settings:
    """Put the settings together.

    Args:
        url: `etcd://user:pw@h1:2379,h2:2379/namespace?ttl=10`, `etcds://` for TLS, or several endpoints.
        arguments: Those of `connect`; None stands for not given.

    Raises:
        InvalidValue: Names the setting and where it was found.
    """
    layers: list[tuple[str, dict[str, typing.Any]]] = [
        ("argument", {name: value for name, value in arguments.items() if value is not None})
    ]
    if url is not None:
        layers.append(("URL", from_url(url) if isinstance(url, str) else {"endpoints": tuple(url)}))
    layers.extend(_from_environment())
    layers.append(
        (
            "default",
            {
                **from_url(DEFAULT_URL),
                "ttl": Terms().ttl_s,
                "timeout": DEFAULT_TIMEOUT_S,
                "identity": f"{socket.gethostname()}:{os.getpid()}",
            },
        )
    )
    values: dict[str, typing.Any] = {}
    sources: dict[str, str] = {}
    for source, layer in layers:
        for name, value in layer.items():
            if name not in values:
                values[name], sources[name] = value, source
    return _build(values, sources)


def _build(values: dict[str, typing.Any], sources: dict[str, str]) -> Settings:
    def number(name: str) -> float:
        try:
            value = float(str(values[name]).removesuffix("s"))
        except ValueError:
            value = -1.0
        if isinstance(values[name], bool) or not 0 < value < 1e10:
            where = f"(from the {sources[name]})"
            raise errors.InvalidValue(
                f"{name} must be a positive number of seconds, not {values[name]!r} {where}"
            )
        return value

    secure = bool(values.get("tls"))
    endpoints = tuple(address.Address.parse(each, secure) for each in values["endpoints"])
    if not endpoints:
        raise errors.InvalidValue(f"no endpoint was given (from the {sources['endpoints']})")
    _check_certificates(endpoints, values, sources)
    options = opts.Options(
        endpoints=endpoints,
        timeout_s=number("timeout"),
        user=values.get("user"),
        password=values.get("password"),
        credentials=tls.Credentials(values.get("cacert"), values.get("cert"), values.get("key")),
    )
    for name in ("user", "password"):
        _check_text(name, values.get(name), sources)
    identity = values["identity"]
    if not isinstance(identity, str) or not identity:
        raise errors.InvalidValue(f"identity must be a str that is not empty, not {identity!r}")
    terms = Terms.of(number("ttl"), values.get("max_hold"), values.get("on_lost"))
    return Settings(options, keys.namespace(values["namespace"]), identity, terms, sources)


def _check_text(name: str, value: object, sources: dict[str, str]) -> None:
    """What travels as text; the value is not shown."""
    try:
        usable = value is None or (isinstance(value, str) and value.encode() is not None)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise errors.InvalidValue(f"{name} must be a str that UTF-8 can encode (from the {sources[name]})")


def _check_certificates(
    endpoints: tuple[address.Address, ...], values: dict[str, typing.Any], sources: dict[str, str]
) -> None:
    """Whoever gives certificates wants TLS: a password must not travel in the clear over a missing letter."""
    if any(each.tls for each in endpoints):
        return
    for name in ("cacert", "cert", "key"):
        if values.get(name) is not None and "ETCDCTL" not in sources[name]:
            raise errors.InvalidValue(
                f"{name} was given (from the {sources[name]}), but no endpoint uses TLS: write etcds:// or https://"
            )


def from_url(url: str) -> dict[str, typing.Any]:
    """The settings that a URL holds; a plain `host:port[,host:port]` is one, too.

    Raises:
        InvalidValue: The message never shows the password.
    """
    if url.startswith(("unix:", "unixs:")):
        return {"endpoints": (url,)}
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "etcd", url
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    _check_userinfo(authority, path, query)
    hosts_and_path = rest.rpartition("@")[2]
    shown = f"{scheme}://{hosts_and_path}" if mark else hosts_and_path
    if scheme not in _SCHEMES:
        raise errors.InvalidValue(f"{shown!r} is no URL of etcd: expected etcd://host:port/namespace")
    userinfo, at, hosts = authority.rpartition("@")
    found: dict[str, typing.Any] = {"tls": _SCHEMES[scheme]}
    if hosts:
        found["endpoints"] = tuple(hosts.split(","))
    if at:
        user, colon, password = userinfo.partition(":")
        found["user"] = urllib.parse.unquote(user)
        if colon:
            found["password"] = urllib.parse.unquote(password)
    if slash and path:
        found["namespace"] = urllib.parse.unquote(path)
    for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if name not in _IN_URL:
            known = ", ".join(sorted(_IN_URL))
            raise errors.InvalidValue(f"{shown!r} has an unknown setting {name!r}; known are {known}")
        found[name] = value
    return found


def _check_userinfo(authority: str, path: str, query: str) -> None:
    """A password that is cut short by its own `/` or `?` would end up in host names, keys and errors."""
    names = [part.partition("=")[0] for part in query.split("&")]
    if "@" in path or ("@" not in authority and any("@" in name for name in names)):
        raise errors.InvalidValue(
            "the URL has an '@' behind its first '/' or '?': in a user or a password '/' is written %2F and "
            "'?' is written %3F; in a namespace '@' is written %40"
        )


def _from_environment() -> list[tuple[str, dict[str, typing.Any]]]:
    ours: dict[str, typing.Any] = {}
    if "COORDKIT_URL" in os.environ:
        ours.update(from_url(os.environ["COORDKIT_URL"]))
    for name in (*_IN_URL, "user", "password", "namespace"):
        if f"COORDKIT_{name.upper()}" in os.environ:
            ours[name] = os.environ[f"COORDKIT_{name.upper()}"]
    if "COORDKIT_ENDPOINTS" in os.environ:
        ours["endpoints"] = tuple(os.environ["COORDKIT_ENDPOINTS"].split(","))
    theirs: dict[str, typing.Any] = {
        name: os.environ[variable] for name, variable in _ETCDCTL.items() if variable in os.environ
    }
    if "endpoints" in theirs:
        theirs["endpoints"] = tuple(theirs["endpoints"].split(","))
    if "ETCDCTL_USER" in os.environ:
        theirs["user"], colon, password = os.environ["ETCDCTL_USER"].partition(":")
        if colon:
            theirs["password"] = password
        elif "ETCDCTL_PASSWORD" in os.environ:
            theirs["password"] = os.environ["ETCDCTL_PASSWORD"]
    return [("environment (COORDKIT_*)", ours), ("environment (ETCDCTL_*)", theirs)]
