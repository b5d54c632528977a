"""Certificates for tests: a private authority, a server's, a client's, and bad ones.

They are files, for that is what servers and clients are given.  Nothing else on the machine trusts them.
Made with the `trustme` package, which the `test` extra brings; `pip install trustme` does as well.

Cost: some 10 ms for each certificate.
"""

from __future__ import annotations

import copy
import datetime
import os
import pathlib
import ssl
import typing

import attrs

from coordkit import errors

if typing.TYPE_CHECKING:
    import trustme

#: The names under which a server on loopback is reached.
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ELSEWHERE = "elsewhere.invalid"
CLIENT_NAME = "coordkit-test"

LONG_AGO = datetime.datetime(2001, 1, 1)


@attrs.frozen
class KeyPair:
    """The files of one certificate and its key."""

    cert: str
    key: str


class Certificates:
    """An authority, and the certificates of a server on loopback and of its client.

    A second one is the authority that the first one's server and clients do not know.

    Args:
        folder: Where the files are written; made if need be.

    Attributes:
        cacert: The authority's certificate.
        server: For `localhost`, `127.0.0.1` and `::1`.
        client: Its common name, `coordkit-test`, is a user's name to an etcd with authentication.

    Raises:
        UsageError: The `trustme` package is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._authority = _new_authority()
        self.cacert = str(self._folder / "ca.pem")
        _replace(self.cacert, self._authority.cert_pem.bytes())
        self.server = self.issue("server")
        self.client = self.issue("client", common_name=CLIENT_NAME)

    def issue(
        self,
        name: str,
        *hosts: str,
        common_name: str | None = None,
        not_after: datetime.datetime | None = None,
    ) -> KeyPair:
        """Another certificate; one of the same `name` is replaced in its files, as by a renewal.

        Args:
            name: Of the files.
            hosts: Host names and addresses that it is good for; loopback's by default, for etcd takes no
                certificate that names none.
            common_name: The subject.
            not_after: When it ends; by default long after any test.
        """
        issued = self._authority.issue_cert(
            *(hosts or LOOPBACK), common_name=common_name, not_after=not_after
        )
        files = KeyPair(str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key"))
        _replace(files.cert, issued.cert_chain_pems[0].bytes())
        _replace(files.key, issued.private_key_pem.bytes())
        return files

    def expired(self) -> Certificates:
        """The same authority and client, with a server whose certificate is over."""
        return self._with_server(self.issue("expired", not_after=LONG_AGO))

    def misnamed(self) -> Certificates:
        """The same authority and client, with a server whose certificate is another host's."""
        return self._with_server(self.issue("misnamed", ELSEWHERE))

    def unverified_context(self) -> ssl.SSLContext:
        """For a question to a server of ours whose certificate may be bad on purpose."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(self.client.cert, self.client.key)
        return context

    def _with_server(self, server: KeyPair) -> Certificates:
        changed = copy.copy(self)
        changed.server = server
        return changed


def _replace(path: str, content: bytes) -> None:
    """In one step: a server may be reading it."""
    written = pathlib.Path(f"{path}.new")
    written.write_bytes(content)
    written.replace(path)


def _new_authority() -> trustme.CA:
    try:
        import trustme
    except ImportError as error:
        raise errors.UsageError(
            "certificates for tests need the trustme package: pip install trustme"
        ) from error
    return trustme.CA()
