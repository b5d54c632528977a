"""`coordkit lock break`: take a lock away from its holder."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NamedTuple

from coordkit.cli import failure, options, terminal

if TYPE_CHECKING:
    from coordkit.cli import views
    from coordkit.inspection import census, kinds

_SUMMARY = "take a lock away from its holder"
_EXAMPLES = """\
examples:
  coordkit lock break nightly
  coordkit lock break nightly --yes --json

The holder learns that it lost the lock, and whoever is next in line holds it.  What the holder is doing is
not ended by that: only a guarded transaction, or a store that looks at fences, refuses its work from then on.
The key is deleted only if it is still the one that was shown, by its create revision.

exit status: 0 done; 1 nobody holds it, somebody else does by now, or the answer was no; 2 nobody to ask, or
several hold it and --fence does not say whom; 69 when etcd does not answer"""


class Words(NamedTuple):
    """How it is said of one kind."""

    question: str
    done: str
    held: str
    nobody: str


_LOCK = Words("Break", "broken", "held by", "nobody holds it")
_ELECTION = Words("Depose", "deposed", "led by", "nobody leads")


def register(group: Any) -> None:
    """Add `lock break`."""
    parser = options.command(group, "break", _SUMMARY, _EXAMPLES, run)
    from coordkit.cli.lock import listing

    parser.add_argument("name", metavar="NAME", help="of the lock")
    listing.add_kind(parser)
    parser.add_argument("--fence", type=options.count, help="of the holder that is meant")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    options.usual(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look, ask, delete.

    Cost: 2 round trips and 1 commit.
    """
    from coordkit.cli import views
    from coordkit.cli.lock import listing
    from coordkit.etcd import kv
    from coordkit.inspection import reading

    options.listen(arguments)
    words = _ELECTION if arguments.kind == "election" else _LOCK
    with options.connect(arguments) as coord:
        reader = reading.Reader(coord.client, coord.settings.namespace)
        view, lock = listing.look(reader, arguments.kind, arguments.name)
        holder = _chosen(lock, view, arguments.fence, words)
        told = f"{lock.kind} {arguments.name!r}, {words.held} {_described(view, holder)}"
        if not terminal.confirm(f"{words.question} {told}?", arguments.yes):
            raise failure.CommandFailed(f"not {words.done}")
        txn = coord.kv.txn().when(kv.create(holder.key) == holder.fence).then(kv.delete(holder.key))
        result = txn.commit()
    if not result.succeeded:
        raise failure.CommandFailed(f"{told}: it was given up meanwhile; nothing was done")
    if arguments.json:
        document = {**view.place_document(holder), "kind": lock.kind, "name": lock.name}
        print(views.dump({"revision": result.revision, words.done: document}))
    elif not arguments.quiet:
        print(f"{words.done}: {told}")
    return 0


def _chosen(lock: census.Primitive, view: views.View, fence: int | None, words: Words) -> kinds.Place:
    holders = lock.standing.holders
    if fence is not None:
        holders = tuple(each for each in holders if each.fence == fence)
    if not holders:
        with_it = "" if fence is None else f" with fence {fence}"
        raise failure.CommandFailed(f"{lock.kind} {lock.name!r}: {words.nobody}{with_it}")
    if len(holders) > 1:
        names = "; ".join(_described(view, each) for each in holders)
        raise failure.CommandFailed(f"several hold it, say --fence: {names}", failure.USAGE)
    return holders[0]


def _described(view: views.View, holder: kinds.Place) -> str:
    session = view.census.session_of(holder)
    where = f", session {session.id}" if session else ""
    since = f" for {view.ago(holder.since)}" if holder.since else ""
    return f"{view.who(holder)}{since} (fence {holder.fence}{where})"
