"""`coordkit queue put`: arguments, or a stream, become items."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from coordkit.cli import options
from coordkit.cli.queue import items

_SUMMARY = "put items into a queue: arguments, or the lines of standard input"
_EXAMPLES = """\
examples:
  coordkit queue put jobs resize:1.png resize:2.png
  find . -name '*.png' -print0 | coordkit queue put jobs -0
  tail -f access.log | coordkit queue put lines
  coordkit queue put jobs nightly --dedup-id 2026-01-31 --delay 60

Options may stand anywhere before --; values that begin with a dash stand behind it. A value that is a dash,
or no value at all, stands for standard input: each of its lines is an item of its own, put as soon as it has
come; behind -- a dash is an item. With --dedup-id there may be one item alone.

exit status: 0; 1 refused by etcd; 2 usage; 69 no etcd, or nobody knows whether the last items were put"""


def register(commands: Any) -> None:
    """Add `put`."""
    parser = options.command(commands, "put", _SUMMARY, _EXAMPLES, run)
    parser.add_argument("name", metavar="NAME", help="of the queue")
    parser.add_argument("values", metavar="VALUE", nargs="*", help="an item; -, or none, is standard input")
    items.separated(parser)
    parser.add_argument(
        "--priority", type=_whole, default=0, metavar="N", help="0 to 999; a lower one is first"
    )
    parser.add_argument(
        "--delay", type=options.duration, default=0.0, metavar="SEC", help="until it can be taken"
    )
    parser.add_argument("--dedup-id", metavar="ID", help="an item of this id is put once in five minutes")
    options.usual(parser)


def run(arguments: argparse.Namespace) -> int:
    """Put them, and say what was put."""
    from coordkit.cli import failure, views

    options.listen(arguments)
    alone = len(arguments.values) + len(arguments.child or ()) == 1 and arguments.values != ["-"]
    if arguments.dedup_id is not None and not alone:
        raise failure.CommandFailed("--dedup-id goes with one VALUE", failure.USAGE)
    ids: list[str] = []
    count = 0
    with options.connect(arguments) as coord:
        queue = coord.queue(arguments.name)
        for part in items.given(arguments, items.separator(arguments)):
            dedup = None if arguments.dedup_id is None else [arguments.dedup_id]
            put = queue.put_many(part, priority=arguments.priority, delay=arguments.delay, dedup_ids=dedup)
            count += len(put)
            ids.extend(put if arguments.json else ())
    if arguments.json:
        print(views.dump({"queue": arguments.name, "count": count, "ids": ids}))
    elif arguments.verbose:
        print(f"coordkit: {count} items were put into {arguments.name!r}", file=sys.stderr)
    return 0


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
