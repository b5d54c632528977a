"""Certificates that are replaced in their files while a session lives: each dial takes what is there then."""

from __future__ import annotations

import pathlib
import socket
from collections.abc import Iterator

import pytest

import coordkit
from coordkit import errors
from coordkit.testing import Certificates, LocalEtcd
from coordkit.testing.certificates import CLIENT_NAME, LONG_AGO

QUICK = ("--heartbeat-interval=10", "--election-timeout=100")


@pytest.fixture
def certificates(tmp_path: pathlib.Path) -> Certificates:
    return Certificates(tmp_path / "ours")


@pytest.fixture
def server(etcd_binary: str, certificates: Certificates) -> Iterator[LocalEtcd]:
    with LocalEtcd(etcd_binary, tls=certificates, arguments=QUICK) as server:
        yield server


@pytest.fixture
def coord(server: LocalEtcd) -> Iterator[coordkit.Coordinator]:
    with coordkit.connect(server.url) as coord:
        yield coord


def presented(server: LocalEtcd, certificates: Certificates) -> bytes:
    """The certificate that the server shows now."""
    host, _, port = server.endpoint.removeprefix("https://").rpartition(":")
    context = certificates.unverified_context()
    with socket.create_connection((host, int(port)), 10) as plain, context.wrap_socket(plain) as secure:
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def redial(coord: coordkit.Coordinator) -> None:
    coord.client.drop_channel("its certificates were replaced")


def test_a_session_outlives_the_renewal_of_all_certificates(server, certificates, coord):
    """
    The server's and the client's: what is held stays held, on a connection with the new ones.
    """
    before = presented(server, certificates)
    with coord.lock("a") as lock:
        certificates.issue("server")
        certificates.issue("client", common_name=CLIENT_NAME)
        redial(coord)

        assert lock.txn().commit().succeeded
        assert presented(server, certificates) != before


def test_one_that_ran_out_is_named_and_its_renewal_is_taken(server, certificates, coord):
    """
    The old connections live on, and with them the session; new ones need a good certificate.
    """
    with coord.lock("a") as lock:
        certificates.issue("client", common_name=CLIENT_NAME, not_after=LONG_AGO)
        redial(coord)

        with pytest.raises(errors.Unavailable, match="certificate"):
            coord.kv.get("/key", timeout=2)

        lock.check()
        certificates.issue("client", common_name=CLIENT_NAME)
        assert coord.kv.get("/key") is None


def test_another_authority_is_trusted_once_it_is_in_the_bundle(server, certificates, coord, tmp_path):
    """
    Not before; the error says that it is the certificate.
    """
    other = Certificates(tmp_path / "other")
    with coord.lock("a") as lock:
        for part in ("cert", "key"):
            theirs = pathlib.Path(getattr(other.server, part)).read_bytes()
            pathlib.Path(getattr(certificates.server, part)).write_bytes(theirs)
        redial(coord)
        with pytest.raises(errors.Unavailable, match="certificate"):
            coord.kv.get("/key", timeout=2)

        bundle = pathlib.Path(certificates.cacert)
        bundle.write_bytes(bundle.read_bytes() + pathlib.Path(other.cacert).read_bytes())

        assert coord.kv.get("/key") is None
        lock.check()
