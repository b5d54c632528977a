"""`coordkit elect observe`: who leads, and each change of it, as it happens."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from coordkit.cli import options, terminal

if TYPE_CHECKING:
    from coordkit import Candidate

_SUMMARY = "tell who leads, and each change, as it happens"
_EXAMPLES = """\
examples:
  coordkit elect observe scheduler
  coordkit elect observe scheduler --count 1              who leads now
  coordkit elect observe scheduler --json | jq .value

A line is printed for the leader of now, for each other leader or value that follows, and for nobody.  None of
them is wrong, and the last one is what is; who reads too slowly misses the oldest of a thousand.

exit status: 0 after --count lines, or when the time is up; 69 when etcd does not answer; 130 Ctrl-C"""


def register(group: Any) -> None:
    """Add `elect observe`."""
    parser = options.command(group, "observe", _SUMMARY, _EXAMPLES, run)
    parser.add_argument("name", metavar="NAME", help="of the election")
    parser.add_argument("--count", type=options.count, help="end after so many lines")
    parser.add_argument("--for", type=options.positive, dest="seconds", metavar="SEC", help="end then")
    parser.add_argument("--json", action="store_true", help="print a JSON document on each line")
    options.connection(parser)
    options.speech(parser)


def run(arguments: argparse.Namespace) -> int:
    """Observe, tell."""
    options.listen(arguments)
    told = 0
    with (
        options.connect(arguments) as coord,
        coord.election(arguments.name).observe(arguments.seconds) as observing,
    ):
        for leader in observing:
            print(_json(leader) if arguments.json else _text(leader), flush=True)
            told += 1
            if told == arguments.count:
                break
    return 0


def _text(leader: Candidate | None) -> str:
    if leader is None:
        return "nobody leads"
    value = terminal.plain(leader.value.decode(errors="backslashreplace"))
    return f"{leader.revision}  {value or 'somebody'} leads (fence {leader.fence}, lease {leader.lease:016x})"


def _json(leader: Candidate | None) -> str:
    from coordkit.cli import views

    if leader is None:
        return views.dump({"leader": False}, indent=None)
    document = {
        "leader": True,
        "value": leader.value.decode(errors="backslashreplace"),
        "key": leader.key.decode(errors="backslashreplace"),
        "lease": f"{leader.lease:016x}",
        "fence": leader.fence,
        "revision": leader.revision,
    }
    return views.dump(document, indent=None)
