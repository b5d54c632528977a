"""`coordkit doctor`: why does it not work?  Looks at settings, endpoints, rights, clocks; says what to do."""

from __future__ import annotations

import argparse
import os
from typing import Any

from coordkit.cli import options

_SUMMARY = "look at settings, endpoints, rights and clocks, and say what is wrong"
_EXAMPLES = """\
examples:
  coordkit doctor
  coordkit doctor --url etcds://h1:2379,h2:2379/shop --cacert ca.pem
  COORDKIT_USER=shop COORDKIT_PASSWORD=... coordkit doctor --endpoints h1:2379,h2:2379 --namespace shop --json

A password is taken from the URL or the environment, and never shown.  What is written, under doctor/ in the
namespace, is gone when it ends.

exit status: 0 all is well; 1 problems were found; 2 a setting makes no sense; 69 no endpoint was reached"""

#: Those of `connect` that can be given here, with what they are.
_GIVEN = {
    "namespace": "the first segment of all keys",
    "ttl": "of locks, in seconds",
    "timeout": "in seconds, for dialling and for each request",
    "user": "for etcd's authentication",
    "cacert": "file of the certificate authority",
    "cert": "file of our certificate",
    "key": "file of its key",
}
_NUMBERS = ("ttl", "timeout")


def register(commands: Any) -> None:
    """Add `doctor`."""
    parser = options.command(commands, "doctor", _SUMMARY, _EXAMPLES, run)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", help="etcd://user:password@host:port,host:port/namespace?ttl=10")
    where.add_argument("--endpoints", help="host:port,host:port")
    for name, what in _GIVEN.items():
        kind = options.positive if name in _NUMBERS else str
        parser.add_argument(f"--{name}", type=kind, help=what)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Examine, judge, tell."""
    from coordkit import settings
    from coordkit.cli.doctor import consultation, origins, report

    where = arguments.url
    if arguments.endpoints is not None:
        where = [each.strip() for each in arguments.endpoints.split(",")]
    chosen = settings.resolve(where, {name: getattr(arguments, name) for name in _GIVEN})
    option = "--endpoints" if arguments.endpoints is not None else "--url"
    told = report.Report(
        origins.settings_of(chosen, option, os.environ), consultation.prefix_of(chosen.namespace)
    )
    if not arguments.json:
        print(told.settings_text(), flush=True)
    consultation.consult(chosen, told)
    print(told.json() if arguments.json else told.text())
    return told.status
