"""`coordkit queue peek|len|purge|dead`: what is in a queue, and what could not be worked off."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from coordkit.cli import failure, options
from coordkit.cli.queue import items
from coordkit.cli.terminal import Table, confirm, plain

if TYPE_CHECKING:
    from coordkit.recipes.queue import DeadLetter, DeadLetters

_EXAMPLES = {
    "peek": "examples:\n  coordkit queue peek jobs --count 3\n  coordkit queue peek jobs --json",
    "len": "examples:\n  coordkit queue len jobs\n\nDelayed, claimed and dead items do not count.",
    "purge": "examples:\n  coordkit queue purge jobs --claimed --yes\n\nDead letters stay.",
    "dead": """\
examples:
  coordkit queue dead jobs
  coordkit queue dead jobs --requeue 000-0000000000000001-5baf2e9b446e-00000001
  coordkit queue dead jobs --requeue all
  coordkit queue dead jobs --drop all

exit status: 0; 1 when there is no such dead letter; 69 no etcd""",
}


def register(commands: Any) -> None:
    """Add `peek`, `len`, `purge` and `dead`."""
    peek = _command(commands, "peek", "show the first items, without taking them", _peek)
    peek.add_argument("--count", type=options.count, default=1, metavar="N", help="how many; 1")
    items.separated(peek)
    _command(commands, "len", "tell how many items can be taken", _len)
    purge = _command(commands, "purge", "delete all items, delayed ones too", _purge)
    purge.add_argument("--claimed", action="store_true", help="also those that somebody works on")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    dead = _command(commands, "dead", "show the dead letters, put them back, or drop them", _dead)
    what = dead.add_mutually_exclusive_group()
    what.add_argument("--requeue", metavar="ID|all", help="put it back into the queue")
    what.add_argument("--drop", metavar="ID|all", help="delete it for good")


def _command(commands: Any, name: str, summary: str, run: options.Run) -> argparse.ArgumentParser:
    parser = options.command(commands, name, summary, _EXAMPLES[name], run)
    parser.add_argument("name", metavar="NAME", help="of the queue")
    options.usual(parser)
    return parser


def _peek(arguments: argparse.Namespace) -> int:
    options.listen(arguments)
    with options.connect(arguments) as coord:
        found = coord.queue(arguments.name).peek(arguments.count)
    if arguments.json:
        shown = [items.document(each.stored, id=each.id) for each in found]
        _dump({"queue": arguments.name, "items": shown})
    else:
        for each in found:
            sys.stdout.buffer.write(each.stored + items.separator(arguments))
    return 0


def _len(arguments: argparse.Namespace) -> int:
    options.listen(arguments)
    with options.connect(arguments) as coord:
        count = coord.queue(arguments.name).qsize()
    if arguments.json:
        _dump({"queue": arguments.name, "count": count})
    else:
        print(count)
    return 0


def _purge(arguments: argparse.Namespace) -> int:
    options.listen(arguments)
    with options.connect(arguments) as coord:
        queue = coord.queue(arguments.name)
        if not confirm(f"delete the items of queue {arguments.name!r}?", arguments.yes):
            raise failure.CommandFailed("nothing was deleted")
        count = queue.purge(arguments.claimed)
    if arguments.json:
        _dump({"queue": arguments.name, "purged": count})
    elif not arguments.quiet:
        print(f"{count} items were deleted")
    return 0


def _dead(arguments: argparse.Namespace) -> int:
    options.listen(arguments)
    with options.connect(arguments) as coord:
        letters = coord.queue(arguments.name).dead_letters
        if arguments.requeue or arguments.drop:
            return _change(arguments, letters)
        found = list(letters)
    if arguments.json:
        _dump({"queue": arguments.name, "dead": list(map(_document, found))})
    elif found:
        rows = [[each.id, str(each.deliveries), _since(each) or "-", plain(each.why)] for each in found]
        Table(f"dead letters of {plain(arguments.name)}", ["id", "deliveries", "since", "why"], rows).show()
    elif not arguments.quiet:
        print(f"{arguments.name!r} has no dead letters")
    return 0


def _change(arguments: argparse.Namespace, letters: DeadLetters) -> int:
    id_ = arguments.requeue or arguments.drop
    if id_ == "all":
        count = letters.requeue_all() if arguments.requeue else letters.drop_all()
    else:
        count = int(letters.requeue(id_) if arguments.requeue else letters.drop(id_))
        if not count:
            raise failure.CommandFailed(f"there is no dead letter {id_}")
    what = "requeued" if arguments.requeue else "dropped"
    if arguments.json:
        _dump({"queue": arguments.name, what: count})
    elif not arguments.quiet:
        print(f"{count} {what}")
    return 0


def _document(letter: DeadLetter) -> dict[str, Any]:
    facts = {"id": letter.id, "why": letter.why, "deliveries": letter.deliveries, "since": _since(letter)}
    return items.document(letter.stored, **facts)


def _since(letter: DeadLetter) -> str | None:
    return None if letter.since is None else letter.since.isoformat(timespec="seconds")


def _dump(document: dict[str, Any]) -> None:
    from coordkit.cli import views

    print(views.dump(document))
