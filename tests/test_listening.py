"""LocalEtcd with TLS, on IPv6 and on a unix socket; and the certificates, good and bad."""

from __future__ import annotations

import builtins
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

import coordkit
from coordkit import errors
from coordkit.testing import Certificates, LocalEtcd, loopback


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(etcd_binary: str, certificates) -> Iterator[LocalEtcd]:
    """A server that speaks TLS, on a unix socket too."""
    with LocalEtcd(etcd_binary, tls=certificates, also_on=["unix"]) as server:
        yield server


def refusal(*endpoints: str, timeout_s: float = 600, **settings: Any) -> str:
    """Why one cannot connect there; a bad certificate is no reason to try for ten minutes."""
    with pytest.raises(coordkit.Unavailable) as caught:
        coordkit.connect(endpoints, timeout=timeout_s, **settings)
    return str(caught.value)


def credentials(certificates: Certificates) -> dict[str, str]:
    client = certificates.client
    return {"cacert": certificates.cacert, "cert": client.cert, "key": client.key}


class TestPlaces:
    def test_a_unix_socket(self, etcd_binary, namespace):
        """
        It stands among the endpoints, in the server's folder, and works like the others.
        """
        with LocalEtcd(etcd_binary, also_on=["unix"]) as server:
            assert server.endpoints == (server.endpoint, f"unix://{server.folder}/etcd:1")

            with coordkit.connect([server.endpoints[1]], namespace=namespace) as coord:
                coord.kv.put("/through", b"the file system")
            with coordkit.connect([server.endpoint], namespace=namespace) as coord:
                assert coord.kv.get("/through").value == b"the file system"

    def test_ipv6(self, etcd_binary, namespace):
        """
        On the same port of ::1.
        """
        if not loopback.has_ipv6():
            pytest.skip("this machine has no ::1")
        with LocalEtcd(etcd_binary, also_on=["ipv6"]) as server:
            port = server.endpoint.rpartition(":")[2]
            assert server.endpoints == (f"127.0.0.1:{port}", f"[::1]:{port}")

            with (
                coordkit.connect([server.endpoints[1]], namespace=namespace) as coord,
                coord.lock("six") as lock,
            ):
                assert lock.held

    def test_elsewhere_is_nowhere(self, etcd_binary):
        """
        A place that is not known is refused before anything starts.
        """
        with pytest.raises(errors.InvalidValue, match="'bluetooth'"):
            LocalEtcd(etcd_binary, also_on=["bluetooth"])


class TestTls:
    def test_the_url_brings_all_that_is_needed(self, secure, namespace):
        """
        Its server is authenticated, and so is the client.
        """
        assert secure.endpoint.startswith("https://127.0.0.1:")

        with coordkit.connect(secure.url, namespace=namespace) as coord, coord.lock("secret") as lock:
            assert lock.held

    def test_on_a_unix_socket_too(self, secure, certificates, namespace):
        """
        There the certificate is that of localhost.
        """
        socket_url = secure.endpoints[1]
        assert socket_url.startswith("unixs:///")

        with coordkit.connect([socket_url], namespace=namespace, **credentials(certificates)) as coord:
            assert coord.kv.get("/nothing") is None

    def test_a_client_without_a_certificate_is_refused(self, secure, certificates):
        """
        The server asks for one.
        """
        assert "ertificate" in refusal(secure.endpoint, cacert=certificates.cacert)

    def test_a_client_of_another_authority_is_refused(self, secure, certificates, tmp_path):
        """
        Even one that trusts the right authority itself.
        """
        stranger = Certificates(tmp_path)

        own = {**credentials(stranger), "cacert": certificates.cacert}
        # What is said of it depends on the Go with which etcd was built.
        assert re.search("bad certificate|unknown ca", refusal(secure.endpoint, **own))

    def test_a_server_of_another_authority_is_refused(self, secure, certificates, tmp_path):
        """
        By a client that trusts its own alone.
        """
        stranger = Certificates(tmp_path)

        others = {**credentials(certificates), "cacert": stranger.cacert}
        assert "certificate verify failed" in refusal(secure.endpoint, **others)

    @pytest.mark.parametrize(
        ("flaw", "why"), [("expired", "has expired"), ("misnamed", "is not valid for '127.0.0.1'")]
    )
    def test_a_server_with_a_bad_certificate_is_refused(self, etcd_binary, certificates, flaw, why):
        """
        It runs, so its start is no failure; its clients find out.
        """
        bad = getattr(certificates, flaw)()

        with LocalEtcd(etcd_binary, tls=bad) as server:
            assert why in refusal(server.endpoint, **credentials(certificates))

    def test_an_endpoint_that_may_yet_come_is_waited_for(self, secure, certificates, tmp_path):
        """
        One with a certificate that is refused, and one where nobody listens: both are told, in the end.
        """
        free = f"https://127.0.0.1:{loopback.free_ports(1)[0]}"
        stranger = Certificates(tmp_path)

        others = {**credentials(certificates), "cacert": stranger.cacert}
        why = refusal(secure.endpoint, free, timeout_s=0.5, **others)

        assert "certificate verify failed" in why and "refused" in why

    def test_files_are_read_at_every_dial(self, secure, certificates, tmp_path, namespace):
        """
        The connection that stands is not cut; a wrong file is waited out while the program runs.
        """
        stranger = Certificates(tmp_path)
        authority = tmp_path / "authority.pem"
        shutil.copy(certificates.cacert, authority)
        own = {**credentials(certificates), "cacert": str(authority)}
        with coordkit.connect([secure.endpoint], namespace=namespace, **own) as coord:
            shutil.copy(stranger.cacert, authority)
            coord.kv.get("/nothing")

            coord.client.drop_channel("a test dials anew")
            with pytest.raises(coordkit.Unavailable, match="certificate verify failed"):
                coord.kv.get("/nothing", timeout=0.5)

            shutil.copy(certificates.cacert, authority)
            coord.kv.get("/nothing")

    def test_a_paused_server_is_healthy_again(self, secure, eventually):
        """
        Health is asked for over TLS as well.
        """
        secure.pause()
        assert not secure._listening.is_healthy()

        secure.resume()

        eventually(secure._listening.is_healthy)


class TestCertificates:
    def test_a_renewal_replaces_the_files(self, tmp_path):
        """
        The same name is the same files, with another certificate in them.
        """
        certificates = Certificates(tmp_path)
        with open(certificates.client.cert, "rb") as file:
            before = file.read()

        renewed = certificates.issue("client", common_name="somebody-else")

        assert renewed == certificates.client
        with open(renewed.cert, "rb") as file:
            assert file.read() != before

    def test_what_is_missing_is_named(self, tmp_path, monkeypatch):
        """
        Without the package that makes certificates, the error says how to get it.
        """
        real_import = builtins.__import__

        def no_trustme(name: str, *rest: Any) -> Any:
            if name == "trustme":
                raise ImportError(name)
            return real_import(name, *rest)

        monkeypatch.setattr(builtins, "__import__", no_trustme)

        with pytest.raises(errors.UsageError, match="pip install trustme"):
            Certificates(tmp_path)
