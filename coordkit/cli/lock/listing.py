"""`coordkit lock ls` and `coordkit lock show`: who holds what, and who waits."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from coordkit.cli import options

if TYPE_CHECKING:
    from coordkit.cli import views
    from coordkit.inspection import census, reading

_LS = "list the locks: who holds them, and how many wait"
_LS_EXAMPLES = """\
examples:
  coordkit lock ls
  coordkit lock ls --json

Locks, reader-writer locks and semaphores that somebody holds or awaits; a free lock leaves nothing to see,
a free semaphore its limit.
Of several holders it shows the oldest.  For elections see coordkit elect ls, for all else coordkit status -v.
How long somebody has held, or waited, is counted from when he joined the line, by his own clock.

exit status: 0; 69 when etcd does not answer"""

_SHOW = "show one lock: its holder and everybody in line"
_SHOW_EXAMPLES = """\
examples:
  coordkit lock show nightly
  coordkit lock show pool --kind semaphore

exit status: 0 somebody holds or awaits it; 1 nobody does; 69 when etcd does not answer"""


def register(group: Any) -> None:
    """Add `lock ls` and `lock show`."""
    ls_parser = options.command(group, "ls", _LS, _LS_EXAMPLES, ls)
    show_parser = options.command(group, "show", _SHOW, _SHOW_EXAMPLES, show)
    show_parser.add_argument("name", metavar="NAME", help="of the lock")
    add_kind(show_parser)
    for parser in (ls_parser, show_parser):
        options.usual(parser)


def add_kind(parser: argparse.ArgumentParser) -> None:
    """Add --kind."""
    from coordkit.inspection import kinds

    parser.add_argument("--kind", choices=kinds.locks(), default="lock", help="of lock; default lock")


def ls(arguments: argparse.Namespace) -> int:
    """All that are held or awaited."""
    from coordkit.cli import views
    from coordkit.inspection import kinds, reading

    options.listen(arguments)
    with options.connect(arguments) as coord:
        reader = reading.Reader(coord.client, coord.settings.namespace)
        found = reader.kind(*kinds.locks())
        holders = [each for lock in found.locks() for each in lock.standing.holders[:1]]
        view = views.View(found, reader.lease_times(each.lease for each in holders), views.now())
    if arguments.json:
        locks = list(map(view.lock_document, found.locks()))
        print(views.dump({"revision": found.revision, "locks": locks}))
    elif found.locks():
        view.locks(found.locks()).show()
    elif not arguments.quiet:
        print("nobody holds or awaits a lock here")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """One of them."""
    from coordkit.cli import views
    from coordkit.inspection import reading

    options.listen(arguments)
    with options.connect(arguments) as coord:
        reader = reading.Reader(coord.client, coord.settings.namespace)
        view, lock = look(reader, arguments.kind, arguments.name)
    standing = lock.standing
    somebody = bool(standing.holders or standing.waiters or standing.members)
    if arguments.json:
        print(views.dump({"revision": view.census.revision, **view.lock_document(lock)}))
    elif somebody:
        view.line(lock).show()
    elif not arguments.quiet:
        nobody = "nobody stands" if lock.kind == "election" else "nobody holds or awaits it"
        print(f"{lock.kind} {arguments.name!r}: {nobody}")
    return 0 if somebody else 1


def look(reader: reading.Reader, kind: str, name: str) -> tuple[views.View, census.Primitive]:
    """One lock, with the leases of everybody who stands there."""
    from coordkit.cli import views
    from coordkit.inspection import census

    found = reader.primitive(kind, name)
    nothing = census.Primitive(kind, name, 0)
    lock = next((each for each in found.primitives if each.kind == kind), nothing)
    leases = {place.lease for place in lock.standing.everybody().values()}
    return views.View(found, reader.lease_times(leases), views.now()), lock
