"""What a server saw of its clients, by its own metrics: streams that are open, requests that came.

The client's word is not asked: a stream that it does not know of would be the first one to be found here.

Source: etcd's `/metrics`, those of go-grpc-prometheus.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable

import attrs

_LINE = re.compile(r"grpc_server_(\w+)_total\{(.*)\} (\S+)")


@attrs.frozen
class Requests:
    """Of all clients of one server together."""

    watch_streams: int  # open now
    lease_streams: int
    renewals: int  # since the server's start
    calls: int  # those that are no streams


def requests(endpoint: str) -> Requests:
    """Ask the server at `host:port`, which has no TLS."""
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=10) as answer:
        return parse(answer.read().decode())


def parse(text: str) -> Requests:
    """From Prometheus' text format."""
    found = [
        (what, dict(pair.split("=", 1) for pair in labels.replace('"', "").split(",")), float(value))
        for what, labels, value in _LINE.findall(text)
    ]
    if not found:
        raise RuntimeError("the server counts no requests")

    def total(what: str, which: Callable[[dict[str, str]], bool]) -> int:
        return int(sum(value for name, labels, value in found if name == what and which(labels)))

    def of(method: str) -> Callable[[dict[str, str]], bool]:
        return lambda labels: labels["grpc_method"] == method

    def streams(method: str) -> int:
        return total("started", of(method)) - total("handled", of(method))

    return Requests(
        streams("Watch"),
        streams("LeaseKeepAlive"),
        total("msg_received", of("LeaseKeepAlive")),
        total("started", lambda labels: labels["grpc_type"] == "unary"),
    )
