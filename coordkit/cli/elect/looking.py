"""`coordkit elect ls`, `show` and `resign`: what `coordkit lock` does, for elections."""

from __future__ import annotations

import argparse
from typing import Any

from coordkit.cli import options
from coordkit.cli.lock import breaking, listing

_LS = "list the elections: who leads, and how many others stand"
_LS_EXAMPLES = """\
examples:
  coordkit elect ls
  coordkit elect ls --json

exit status: 0; 69 when etcd does not answer"""

_SHOW = "show one election: its leader and the other candidates"
_SHOW_EXAMPLES = """\
examples:
  coordkit elect show scheduler

exit status: 0 somebody stands; 1 nobody does; 69 when etcd does not answer"""

_RESIGN = "take the leadership away from whoever leads"
_RESIGN_EXAMPLES = """\
examples:
  coordkit elect resign scheduler
  coordkit elect resign scheduler --yes --fence 4711

The leader learns that it was deposed, and the next candidate leads.  The key is deleted only if it is still
the one that was shown, by its create revision.  The command of a `coordkit elect run` is ended.

exit status: 0 done; 1 nobody leads, somebody else does by now, or the answer was no; 2 nobody to ask;
69 when etcd does not answer"""


def register(group: Any) -> None:
    """Add `elect ls`, `elect show` and `elect resign`."""
    ls_parser = options.command(group, "ls", _LS, _LS_EXAMPLES, ls)
    show_parser = options.command(group, "show", _SHOW, _SHOW_EXAMPLES, listing.show)
    resign_parser = options.command(group, "resign", _RESIGN, _RESIGN_EXAMPLES, breaking.run)
    for parser in (show_parser, resign_parser):
        parser.add_argument("name", metavar="NAME", help="of the election")
        parser.set_defaults(kind="election")
    resign_parser.add_argument("--fence", type=options.count, help="of the leader that is meant")
    resign_parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    for parser in (ls_parser, show_parser, resign_parser):
        options.usual(parser)


def ls(arguments: argparse.Namespace) -> int:
    """All in which somebody stands."""
    from coordkit.cli import views
    from coordkit.inspection import reading

    options.listen(arguments)
    with options.connect(arguments) as coord:
        reader = reading.Reader(coord.client, coord.settings.namespace)
        found = reader.kind("election")
        leaders = [each for one in found.primitives for each in one.standing.holders]
        view = views.View(found, reader.lease_times(each.lease for each in leaders), views.now())
    if arguments.json:
        elections = list(map(view.lock_document, found.primitives))
        print(views.dump({"revision": found.revision, "elections": elections}))
    elif found.primitives:
        view.elections(found.primitives).show()
    elif not arguments.quiet:
        print("nobody stands in an election here")
    return 0
