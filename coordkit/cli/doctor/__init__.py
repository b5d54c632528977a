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
  coordkit doctor --deadlocks
  COORDKIT_USER=shop COORDKIT_PASSWORD=... coordkit doctor --endpoints h1:2379,h2:2379 --namespace shop --json

A password is taken from the URL or the environment, and never shown.  What is written, under doctor/ in the
namespace, is gone when it ends.

With --deadlocks it looks only for those who hold something and wait in a circle, and names them: who, what,
since when.  It writes nothing then.  What may be a deadlock, or may be threads of one session that take
turns, is shown, and is no problem for the exit status.

exit status: 0 all is well; 1 problems were found, or a deadlock; 2 a setting makes no sense; 69 no endpoint
was reached"""


def register(commands: Any) -> None:
    """Add `doctor`."""
    parser = options.command(commands, "doctor", _SUMMARY, _EXAMPLES, run)
    options.connection(parser)
    parser.add_argument("--ttl", type=options.positive, help="of locks, in seconds")
    parser.add_argument("--deadlocks", action="store_true", help="look only for who waits in a circle")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Examine, judge, tell."""
    if arguments.deadlocks:
        from coordkit.cli.doctor import circles

        return circles.run(arguments)
    from coordkit.cli.doctor import consultation, origins, report

    chosen = options.settings_of(arguments)
    option = "--endpoints" if arguments.endpoints is not None else "--url"
    told = report.Report(
        origins.settings_of(chosen, option, os.environ), consultation.prefix_of(chosen.namespace)
    )
    if not arguments.json:
        print(told.settings_text(), flush=True)
    consultation.consult(chosen, told)
    print(told.json() if arguments.json else told.text())
    return told.status
