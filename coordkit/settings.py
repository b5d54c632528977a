"""Where the settings come from: arguments, then the URL, then COORDKIT_*, then ETCDCTL_*, then defaults."""

from __future__ import annotations

import collections.abc
import math
import os
import re
import socket
import typing
import urllib.parse

import attrs

from coordkit import errors, keys
from coordkit.etcd import options as opts
from coordkit.terms import LARGEST_TTL_S, LEAST_TTL_S, Terms
from coordkit.wire import address, tls

DEFAULT_URL = "etcd://127.0.0.1:2379/coordkit"
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


Layer = dict[str, tuple[typing.Any, str]]  # by setting: the value, and where it was found


def resolve(url: str | typing.Iterable[str] | None, arguments: dict[str, typing.Any]) -> Settings:
    """Put the settings together.

    Args:
        url: `etcd://user:pw@h1:2379,h2:2379/namespace?ttl=10`, `etcds://` for TLS, or several endpoints.
        arguments: Those of `connect`; None stands for not given.

    Raises:
        InvalidValue: Names the setting and where it was found.
    """
    found: Layer = {}
    for layer in (
        {name: (value, "argument") for name, value in arguments.items() if value is not None},
        {} if url is None else _from_argument(url),
        _from_environment(),
        _from_etcdctl(),
        _all_from(
            {
                **from_url(DEFAULT_URL),
                "ttl": Terms().ttl_s,
                "timeout": DEFAULT_TIMEOUT_S,
                "identity": f"{socket.gethostname()}:{os.getpid()}",
            },
            "default",
        ),
    ):
        found = {**layer, **found}
    values = {name: value for name, (value, _) in found.items()}
    return _build(values, {name: source for name, (_, source) in found.items()})


def _all_from(values: dict[str, typing.Any], source: str) -> Layer:
    return {name: (value, source) for name, value in values.items()}


def _from_argument(url: object) -> Layer:
    if isinstance(url, str):
        if not url.strip():
            raise errors.InvalidValue("url is empty; leave it out for COORDKIT_URL, or for the default")
        return _from_url(url, "URL")
    if isinstance(url, bytes) or not isinstance(url, collections.abc.Iterable):
        raise errors.InvalidValue(f"url must be a str or several of them, not {type(url).__name__}")
    return _all_from({"endpoints": tuple(url)}, "URL")


def _from_url(url: str, source: str) -> Layer:
    try:
        return _all_from(from_url(url), source)
    except errors.InvalidValue as error:
        raise errors.InvalidValue(f"{error} (from {source})") from None


def _build(values: dict[str, typing.Any], sources: dict[str, str]) -> Settings:
    for name in ("user", "password", "identity"):
        _check_text(name, values.get(name), sources)
    for name in ("cacert", "cert", "key"):
        _check_path(name, values.get(name), sources)
    endpoints = _endpoints(values["endpoints"], sources["endpoints"])
    _check_certificates(endpoints, values, sources)
    options = opts.Options(
        endpoints=endpoints,
        timeout_s=_seconds("timeout", values["timeout"], sources["timeout"]),
        user=values.get("user"),
        password=values.get("password"),
        credentials=tls.Credentials(values.get("cacert"), values.get("cert"), values.get("key")),
    )
    if not values["identity"]:
        raise errors.InvalidValue(f"identity must not be empty (from {sources['identity']})")
    ttl_s = _seconds("ttl", values["ttl"], sources["ttl"])
    if not LEAST_TTL_S <= ttl_s <= LARGEST_TTL_S:
        raise errors.InvalidValue(
            f"ttl must be at least {LEAST_TTL_S} s, not {values['ttl']!r} (from {sources['ttl']})"
        )
    terms = Terms.of(ttl_s, values.get("max_hold"), values.get("on_lost"))
    try:
        namespace = keys.namespace(values["namespace"])
    except errors.InvalidName as error:
        raise errors.InvalidName(f"{error} (from {sources['namespace']})") from error
    return Settings(options, namespace, values["identity"], terms, sources)


def _endpoints(texts: typing.Iterable[typing.Any], source: str) -> tuple[address.Address, ...]:
    try:
        endpoints = tuple(map(address.Address.parse, texts))
    except errors.InvalidValue as error:
        raise errors.InvalidValue(f"endpoints: {error} (from {source})") from error
    if not endpoints:
        raise errors.InvalidValue(f"endpoints: none was given (from {source})")
    return endpoints


def _seconds(name: str, value: object, source: str) -> float:
    """A number of seconds: as such, as text, or as Go writes durations: `10`, `2.5s`, `1m30s`, `500ms`."""
    seconds = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text):
            seconds = float(text)
        elif _DURATION.fullmatch(text):
            seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
    if not 0 < seconds < 1e10:
        raise errors.InvalidValue(
            f"{name} must be a positive number of seconds, not {value!r} (from {source})"
        )
    return seconds


_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "ns": 1e-9}
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+\.", re.ASCII)
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(h|ms|m|s|us|\u00b5s|ns)")
_DURATION = re.compile(f"(?:{_PART.pattern})+")


def _check_text(name: str, value: object, sources: dict[str, str]) -> None:
    """What travels as text; the value is not shown."""
    try:
        usable = value is None or (isinstance(value, str) and value.encode() is not None)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise errors.InvalidValue(f"{name} must be a str that UTF-8 can encode (from {sources[name]})")


def _check_path(name: str, value: object, sources: dict[str, str]) -> None:
    if not (value is None or (isinstance(value, (str, os.PathLike)) and str(value))):
        raise errors.InvalidValue(f"{name} must be the path of a file, not {value!r} (from {sources[name]})")


def _check_certificates(
    endpoints: tuple[address.Address, ...], values: dict[str, typing.Any], sources: dict[str, str]
) -> None:
    """Whoever gives certificates wants TLS: a password must not travel in the clear over a missing letter."""
    if any(each.tls for each in endpoints):
        return
    for name in ("cacert", "cert", "key"):
        if values.get(name) is not None and "ETCDCTL" not in sources[name]:
            raise errors.InvalidValue(
                f"{name} was given (from {sources[name]}), but no endpoint uses TLS: write etcds:// or https://"
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
    if not hosts:
        raise errors.InvalidValue(f"{shown!r} names no host: expected etcd://host:port/namespace")
    found: dict[str, typing.Any] = {"endpoints": tuple(f"{scheme}://{host}" for host in hosts.split(","))}
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
        if name in found:
            raise errors.InvalidValue(f"{shown!r} has the setting {name} twice")
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


def _from_environment() -> Layer:
    found: Layer = {}
    for name in (*sorted(_IN_URL), "user", "password", "namespace", "endpoints"):
        found.update(_variable(name, f"COORDKIT_{name.upper()}"))
    for _, (url, source) in _variable("url", "COORDKIT_URL").items():
        found = {**_from_url(url, source), **found}
    return found


def _from_etcdctl() -> Layer:
    found: Layer = {}
    for name, variable in _ETCDCTL.items():
        found.update(_variable(name, variable))
    for _, (userinfo, source) in _variable("user", "ETCDCTL_USER").items():
        user, colon, password = userinfo.partition(":")
        found["user"] = user, source
        found.update({"password": (password, source)} if colon else _variable("password", "ETCDCTL_PASSWORD"))
    return found


def _variable(name: str, variable: str) -> Layer:
    """A setting from the environment; one that is empty is not set."""
    if variable not in os.environ or not os.environ[variable]:
        return {}
    text = os.environ[variable]
    return {name: (tuple(text.split(",")) if name == "endpoints" else text, variable)}
