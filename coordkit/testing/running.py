"""An etcd that runs already, and that tests may use: somebody else starts and stops it."""

from __future__ import annotations

import attrs

from coordkit import settings
from coordkit.wire import address


@attrs.frozen
class RunningEtcd:
    """Where it is.

    Attributes:
        url: For `coordkit.connect()`; it may hold a password.
        endpoints: Those of the URL.
    """

    url: str = attrs.field(repr=False)
    endpoints: tuple[str, ...]

    @classmethod
    def at(cls, where: str) -> RunningEtcd:
        """From `host:port[,host:port]`, each with `https://` before it for TLS, or from an `etcd://` URL.

        Raises:
            InvalidValue: Not an endpoint; a password is not shown.
        """
        if where.startswith(("etcd://", "etcds://")):
            endpoints = [address.Address.parse(each) for each in settings.from_url(where)["endpoints"]]
            return cls(where, tuple(map(str, endpoints)))
        endpoints = [address.Address.parse(each) for each in where.split(",")]
        scheme = "etcds" if any(each.tls for each in endpoints) else "etcd"
        hosts = ",".join(map(str, endpoints))
        return cls(f"{scheme}://{hosts}/coordkit", tuple(map(str, endpoints)))

    @property
    def endpoint(self) -> str:
        """The first one."""
        return self.endpoints[0]
