"""The etcd under a benchmark: a private one by default, or the one that a URL names.

Cost: one request for the version.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import os
import urllib.parse
from collections.abc import Iterator
from typing import Any

import attrs

import coordkit
from coordkit.cli import failure
from coordkit.cli.bench import machine
from coordkit.testing import EtcdFailed, EtcdNotFound, LocalEtcd


@attrs.frozen
class Server:
    """Where it is, and what can be said about it."""

    url: str
    endpoint: str | None  # host:port for a client without TLS and password; None where that cannot be
    version: str
    private: bool
    pid: int | None = None  # only of our own

    def heading(self, schema: str, benchmark: str, load: float) -> dict[str, Any]:
        """How the document of a run on it begins; `load` is the machine's, before the run."""
        return {
            "schema": schema,
            "benchmark": benchmark,
            "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": machine.facts(load),
            "etcd": {"version": self.version, "private": self.private},
        }

    def cpu_ns(self) -> int | None:
        """The processor time that it has used so far; None where nobody tells."""
        if self.pid is None:
            return None
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except FileNotFoundError:
            return None  # not on Linux
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(url: str | None) -> Iterator[Server]:
    """The server at the URL, or a private one for as long as this lasts.

    Raises:
        failure.CommandFailed: No server program was found, or it did not start.
    """
    if url is not None:
        yield _at(url)
        return
    try:
        etcd = LocalEtcd()
        etcd.start()
    except (EtcdNotFound, EtcdFailed) as error:
        raise failure.CommandFailed(str(error), failure.UNREACHABLE) from error
    with etcd:
        yield Server(etcd.url, etcd.endpoint, etcd.version, private=True, pid=etcd.pid)


def _at(url: str) -> Server:
    coordkit.connect(url).close()  # learn early what is wrong with it
    parts = urllib.parse.urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    endpoint = hosts.split(",")[0]
    plain = parts.scheme == "etcd" and not credentials
    return Server(
        url, endpoint if plain else None, _version_at(endpoint) if plain else "unknown", private=False
    )


def _version_at(endpoint: str) -> str:
    connection = http.client.HTTPConnection(endpoint, timeout=5)
    try:
        connection.request("GET", "/version")
        return str(json.loads(connection.getresponse().read())["etcdserver"])
    except OSError as error:
        raise failure.CommandFailed(f"no etcd answers at {endpoint}: {error}", failure.UNREACHABLE) from error
    except (ValueError, KeyError, http.client.HTTPException):
        return "unknown"  # behind a proxy that answers something else
    finally:
        connection.close()
