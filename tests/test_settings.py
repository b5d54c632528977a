"""Settings: where each comes from, in which forms it may be written, and what is refused."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest

from coordkit import errors, settings
from coordkit.wire import address

SECRET = "canary-Zx9"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing of what this machine has set; tests add what they need."""
    for name in list(os.environ):
        if name.startswith(("COORDKIT_", "ETCDCTL_")):
            monkeypatch.delenv(name)
    return monkeypatch


def resolve(url: Any = None, **arguments: Any) -> settings.Settings:
    return settings.resolve(url, arguments)


def endpoints(chosen: settings.Settings) -> list[str]:
    return [("tls " if each.tls else "") + str(each) for each in chosen.options.endpoints]


class TestForms:
    """How a URL may be written."""

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("etcd://h:1", ["h:1"]),
            ("http://h:1", ["h:1"]),
            ("etcds://h:1", ["tls h:1"]),
            ("https://h:1/ns", ["tls h:1"]),
            ("etcd://h", ["h:2379"]),
            ("etcd://h1:1,h2:2,h3", ["h1:1", "h2:2", "h3:2379"]),
            ("etcds://h1:1,h2/ns", ["tls h1:1", "tls h2:2379"]),
            ("h:1", ["h:1"]),
            ("h1,h2:2", ["h1:2379", "h2:2"]),
            ("h:1/ns?ttl=3", ["h:1"]),
            ("[::1]:1", ["[::1]:1"]),
            ("etcd://[::1],[fe80::1%25eth0]:2", ["[::1]:2379", "[fe80::1%25eth0]:2"]),
            ("unix:///run/etcd.sock", ["unix:///run/etcd.sock"]),
            (["h1:1", "https://h2:2", "unix:///s"], ["h1:1", "tls h2:2", "unix:///s"]),
            (("h1:1",), ["h1:1"]),
            (iter(["h1:1", "h2"]), ["h1:1", "h2:2379"]),
        ],
    )
    def test_endpoints(self, url, expected):
        """
        One or several, with or without a scheme; TLS where the scheme says so, and nowhere else.
        """
        assert endpoints(resolve(url)) == expected

    @pytest.mark.parametrize(
        ("url", "user", "password"),
        [
            ("etcd://h", None, None),
            ("etcd://ann@h", "ann", None),
            ("etcd://ann:@h", "ann", ""),
            ("etcd://ann:pw@h", "ann", "pw"),
            ("etcd://ann:p:w@h", "ann", "p:w"),
            ("etcd://ann:p@w@h", "ann", "p@w"),
            ("etcd://a%40b:%2F%3F%23%25@h/ns", "a@b", "/?#%"),
            ("ann:pw@h:1,h2", "ann", "pw"),
        ],
    )
    def test_user_and_password(self, url, user, password):
        """
        Percent-encoded if need be; all that stands before the last `@` of the hosts.
        """
        options = resolve(url).options

        assert (options.user, options.password) == (user, password)

    @pytest.mark.parametrize(
        ("url", "namespace"),
        [
            ("etcd://h", "coordkit"),
            ("etcd://h/", "coordkit"),
            ("etcd://h/ns", "ns"),
            ("etcd://h/a/b/", "a/b"),
            ("etcd://h/a%20b", "a%20b"),
            ("etcd://h/a%2Fb", "a/b"),
            ("etcd://h/%E2%82%AC", "%E2%82%AC"),
            ("etcd://h/ns?ttl=3", "ns"),
        ],
    )
    def test_the_namespace(self, url, namespace):
        """
        The URL's path, as it will stand in keys.
        """
        assert resolve(url).namespace == namespace

    def test_an_empty_namespace_is_possible(self):
        """
        As an argument: keys then begin with their kind.
        """
        assert resolve("etcd://h/ns", namespace="").namespace == ""

    def test_the_query(self, tmp_path):
        """
        `ttl`, `timeout`, `identity` and the certificates may stand in the URL.
        """
        chosen = resolve("etcds://h/ns?ttl=30&timeout=1.5&identity=a%20b&cacert=/ca&cert=/c&key=/k")

        assert (chosen.terms.ttl_s, chosen.options.timeout_s, chosen.identity) == (30, 1.5, "a b")
        credentials = chosen.options.credentials
        assert (credentials.cacert, credentials.cert, credentials.key) == ("/ca", "/c", "/k")

    @pytest.mark.parametrize(
        ("written", "seconds"),
        [
            (3, 3.0),
            (2.5, 2.5),
            ("3", 3.0),
            ("2.5", 2.5),
            ("1e1", 10.0),
            (" 7 ", 7.0),
            ("7s", 7.0),
            ("2.5s", 2.5),
            ("500ms", 0.5),
            ("1m", 60.0),
            ("1m30s", 90.0),
            ("1h1m1.5s", 3661.5),
            ("1500000us", 1.5),
            ("2000000000ns", 2.0),
        ],
    )
    def test_durations(self, written, seconds):
        """
        Seconds, or what Go writes for them, which is what `ETCDCTL_DIAL_TIMEOUT` holds.
        """
        assert resolve("h", timeout=written).options.timeout_s == pytest.approx(seconds)

    def test_a_path_may_be_a_path(self):
        """
        Of a certificate, as pathlib has it.
        """
        chosen = resolve("etcds://h", cacert=pathlib.Path("/ca"))

        assert chosen.options.credentials.cacert == pathlib.Path("/ca")


class TestPrecedence:
    LAYERS = ("argument", "URL", "COORDKIT_TTL", "COORDKIT_URL", "default")

    def test_the_defaults(self):
        """
        Nothing said: a server on this machine.
        """
        chosen = resolve()

        assert endpoints(chosen) == ["127.0.0.1:2379"]
        assert (chosen.namespace, chosen.terms.ttl_s, chosen.options.timeout_s) == ("coordkit", 10, 5.0)
        assert chosen.identity.endswith(f":{os.getpid()}")
        assert (chosen.options.user, chosen.options.password) == (None, None)
        assert set(chosen.sources.values()) == {"default"}

    @pytest.mark.parametrize("first", range(len(LAYERS)))
    def test_the_first_that_says_something_wins(self, environment, first):
        """
        Arguments, the URL, a variable, the URL variable, the default; and the settings know which it was.
        """
        arguments: dict[str, Any] = {}
        url = "etcd://h"
        if first <= 3:
            environment.setenv("COORDKIT_URL", "etcd://other?ttl=6")
        if first <= 2:
            environment.setenv("COORDKIT_TTL", "5")
        if first <= 1:
            url = "etcd://h?ttl=4"
        if first == 0:
            arguments["ttl"] = 3

        chosen = resolve(url, **arguments)

        assert chosen.terms.ttl_s == (3, 4, 5, 6, 10)[first]
        assert chosen.sources["ttl"] == self.LAYERS[first]

    @pytest.mark.parametrize(
        ("setting", "ours", "theirs"),
        [
            ("endpoints", "COORDKIT_ENDPOINTS", "ETCDCTL_ENDPOINTS"),
            ("user", "COORDKIT_USER", "ETCDCTL_USER"),
            ("password", "COORDKIT_PASSWORD", "ETCDCTL_PASSWORD"),
            ("cacert", "COORDKIT_CACERT", "ETCDCTL_CACERT"),
            ("cert", "COORDKIT_CERT", "ETCDCTL_CERT"),
            ("key", "COORDKIT_KEY", "ETCDCTL_KEY"),
            ("timeout", "COORDKIT_TIMEOUT", "ETCDCTL_DIAL_TIMEOUT"),
        ],
    )
    def test_ours_before_etcdctls(self, environment, setting, ours, theirs):
        """
        What etcdctl reads is read too, unless we were told otherwise.
        """
        text = {"endpoints": "https://h1:1,h2:2", "timeout": "7s"}.get(setting, "theirs")
        environment.setenv("ETCDCTL_USER", "somebody")
        environment.setenv("ETCDCTL_ENDPOINTS", "https://h:1")
        environment.setenv(theirs, text)
        assert resolve().sources[setting] == theirs

        environment.setenv(ours, text)
        assert resolve().sources[setting] == ours

    def test_etcdctls_user_with_a_password(self, environment):
        """
        `ETCDCTL_USER` may hold both; then `ETCDCTL_PASSWORD` is not asked.
        """
        environment.setenv("ETCDCTL_PASSWORD", "other")
        environment.setenv("ETCDCTL_USER", "ann:p:w")

        options = resolve().options

        assert (options.user, options.password) == ("ann", "p:w")

    def test_an_empty_variable_is_not_set(self, environment):
        """
        As container orchestrators leave them.
        """
        for name in ("URL", "TTL", "ENDPOINTS", "USER", "PASSWORD", "NAMESPACE", "TIMEOUT"):
            environment.setenv(f"COORDKIT_{name}", "")
        environment.setenv("ETCDCTL_USER", "")

        assert set(resolve().sources.values()) == {"default"}

    def test_tls_belongs_to_its_endpoints(self, environment):
        """
        Hosts from one place do not take the scheme from another.
        """
        environment.setenv("COORDKIT_URL", "etcds://h1/ns")

        assert endpoints(resolve("etcd://h2")) == ["h2:2379"]
        assert endpoints(resolve(["h2"])) == ["h2:2379"]
        assert endpoints(resolve()) == ["tls h1:2379"]


class TestRefusals:
    """Each names the setting, and where it was found; none shows a password."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("ttl", value) for value in (0, -1, 1, 1.99, "x", "", "10 seconds", "inf", "nan", "1_0", True)),
            *(("ttl", value) for value in (float("inf"), float("nan"), 10**12, b"10", [10])),
            *(("timeout", value) for value in (0, -1, "x", "", "1m30", "-1s", "\u0663", True, float("nan"))),
            *(("identity", value) for value in ("", 5, b"me", "\ud800")),
            *((name, value) for name in ("user", "password") for value in (5, b"x", ["x"], "\ud800")),
            *((name, value) for name in ("cacert", "cert", "key") for value in ("", 5, b"x", True)),
            *(("namespace", value) for value in (5, b"x", "\ud800", "x" * 256)),
            *(("max_hold", value) for value in (0, -1, "x", True, float("nan"))),
            *(("on_lost", value) for value in ("die", "", True, 5)),
        ],
    )
    def test_a_silly_argument(self, name, value):
        """
        The caller's mistake, as InvalidValue, or InvalidName for a namespace.
        """
        kind = errors.InvalidName if name == "namespace" else errors.InvalidValue

        with pytest.raises(kind, match=name) as refusal:
            resolve("etcds://h", **{name: value})

        assert type(refusal.value) is kind

    @pytest.mark.parametrize("url", [5, b"h:1", True, object()])
    def test_a_silly_url(self, url):
        """
        A str, or several.
        """
        with pytest.raises(errors.InvalidValue, match="url must be a str"):
            resolve(url)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "h:",
            "h:x",
            "h:0",
            "h:65536",
            "h1,,h2",
            "h1 h2",
            "etcd://h#x",
            "[::1",
            "::1",
            "unix://",
            [],
            ["h", 5],
            ["h", None],
            ["tcp://h:1"],
            ["h:1/ns"],
        ],
    )
    def test_endpoints_that_are_none(self, url):
        """
        Whatever is wrong with it, the message says that it is about endpoints.
        """
        with pytest.raises(errors.InvalidValue, match="endpoint"):
            resolve(url) if url != "" else resolve([url])

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("ftp://h", "no URL of etcd"),
            ("etcd://h?bogus=1", "unknown setting 'bogus'"),
            ("etcd://h?ttl=3&ttl=4", "ttl twice"),
            ("http://", "'http://' names no host.*.from URL"),
            ("etcd:///ns", "names no host"),
            ("etcds:///ns", "names no host"),
            ("etcd://?ttl=3", "names no host"),
            ("etcd://ann:pw@/ns", "names no host"),
            ("https://:2379", "'https://:2379' names no host"),
            ("/ns", "'/ns' names no host"),
            ("?ttl=3", "names no host"),
            ("etcd://h?ttl=", "ttl must be"),
            ("etcd://h?timeout=x", "timeout must be .* not 'x' .from URL"),
            ("etcd://h?cacert=/ca", "cacert was given .from URL., but no endpoint uses TLS"),
        ],
    )
    def test_a_url_that_makes_no_sense(self, url, words):
        """
        Said in terms of the URL.
        """
        with pytest.raises(errors.InvalidValue, match=words):
            resolve(url)

    @pytest.mark.parametrize(
        ("variable", "text", "words"),
        [
            ("COORDKIT_TTL", "soon", "ttl must be .* not 'soon' .from COORDKIT_TTL"),
            ("COORDKIT_TTL", "1", "ttl must be at least 2 s, not '1' .from COORDKIT_TTL"),
            ("ETCDCTL_DIAL_TIMEOUT", "5x", "timeout must be .* .from ETCDCTL_DIAL_TIMEOUT"),
            ("COORDKIT_ENDPOINTS", "h:x", "endpoints: .*'h:x'.* .from COORDKIT_ENDPOINTS"),
            ("ETCDCTL_ENDPOINTS", "h1,h:99999", "endpoints: .* .from ETCDCTL_ENDPOINTS"),
            ("COORDKIT_NAMESPACE", "x" * 256, "namespace has 256 bytes.* .from COORDKIT_NAMESPACE"),
            ("COORDKIT_URL", "etcd://h?ttl=0", "ttl must be .* .from COORDKIT_URL"),
            ("COORDKIT_URL", "http://", "'http://' names no host.* .from COORDKIT_URL"),
            ("COORDKIT_ENDPOINTS", "http://", "'http://' names no host.* .from COORDKIT_ENDPOINTS"),
            ("ETCDCTL_ENDPOINTS", "h1,https://:1", "'https://:1' names no host.* .from ETCDCTL_ENDPOINTS"),
        ],
    )
    def test_a_silly_variable(self, environment, variable, text, words):
        """
        The message names the variable, which is what has to be mended.
        """
        environment.setenv(variable, text)

        with pytest.raises((errors.InvalidValue, errors.InvalidName), match=words):
            resolve()

    @pytest.mark.parametrize(
        "url",
        [
            f"etcd://ann:{SECRET}@h:x",
            f"etcd://ann:{SECRET}@h?ttl=0",
            f"etcd://ann:{SECRET}@h?bogus=1",
            f"ftp://ann:{SECRET}@h",
            f"etcd://ann:{SECRET}/more@h",
            f"etcd://ann:{SECRET}?more@h",
            f"etcd://ann:a/{SECRET}@h",
            f"etcd://ann:a?{SECRET}@h",
            [f"http://ann:{SECRET}@h:1"],
        ],
    )
    def test_no_password_in_an_error(self, url):
        """
        Wherever it stood in what could not be understood.
        """
        with pytest.raises(errors.InvalidValue) as refusal:
            resolve(url)

        assert SECRET not in f"{refusal.value} {refusal.value!r} {refusal.value.__cause__!r}"


def test_no_password_in_a_repr():
    """
    Settings and options are shown in logs.
    """
    chosen = resolve(f"etcd://ann:{SECRET}@h")

    assert chosen.options.password == SECRET
    assert SECRET not in f"{chosen!r} {chosen.options!r} {chosen}"


def test_an_endpoint_is_an_address():
    """
    What is resolved is what is dialled.
    """
    assert resolve("etcds://h:1").options.endpoints == (address.Address("h", 1, tls=True),)
