"""`coordkit queue ls` and `coordkit topic ls`: what there is, and how much is in each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from coordkit.cli import options
from coordkit.cli.terminal import Table, plain

if TYPE_CHECKING:
    from coordkit.etcd import client as clients
    from coordkit.inspection import stock

_QUEUES = "list the queues: how many items are free, claimed, delayed, dead"
_QUEUES_EXAMPLES = """\
examples:
  coordkit queue ls
  coordkit queue ls --json
  coordkit queue ls --names -0 | xargs -0 -n 1 coordkit queue len

A queue is there as long as it has a key, be it of a dead letter or of a dedup id.

exit status: 0; 69 when etcd does not answer"""

_TOPICS = "list the topics: live or retained, and how many messages they keep"
_TOPICS_EXAMPLES = """\
examples:
  coordkit topic ls
  coordkit topic ls --json
  coordkit topic ls --names

A live topic keeps no messages but in etcd's history.

exit status: 0; 69 when etcd does not answer"""

Look = Callable[["clients.Client", str], Iterable[Any]]


@attrs.frozen
class _Kind:
    """How one kind is listed."""

    plural: str
    look: Look
    columns: Sequence[str]
    row: Callable[[Any], list[str]]
    document: Callable[[Any], dict[str, Any]]


def register_queues(group: Any) -> None:
    """Add `queue ls`."""
    _options(options.command(group, "ls", _QUEUES, _QUEUES_EXAMPLES, _list_queues))


def register_topics(group: Any) -> None:
    """Add `topic ls`."""
    _options(options.command(group, "ls", _TOPICS, _TOPICS_EXAMPLES, _list_topics))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--names", action="store_true", help="print the names alone, one on a line")
    parser.add_argument(
        "-0", "--null", action="store_true", help="with --names: separated by NUL, not by newlines"
    )
    options.usual(parser)


def _list_queues(arguments: argparse.Namespace) -> int:
    from coordkit.inspection import stock

    columns = ["name", "free", "claimed", "delayed", "dead"]
    return _list(arguments, _Kind("queues", stock.queues, columns, _queue_row, attrs.asdict))


def _list_topics(arguments: argparse.Namespace) -> int:
    from coordkit.inspection import stock

    columns = ["name", "kind", "partitions", "messages", "cursors"]
    return _list(arguments, _Kind("topics", stock.topics, columns, _topic_row, _topic_document))


def _list(arguments: argparse.Namespace, kind: _Kind) -> int:
    options.listen(arguments)
    with options.connect(arguments) as coord:
        found = list(kind.look(coord.client, coord.settings.namespace))
    if arguments.json:
        from coordkit.cli import views

        print(views.dump({kind.plural: list(map(kind.document, found))}))
    elif arguments.names:
        end = b"\0" if arguments.null else b"\n"
        for each in found:
            sys.stdout.buffer.write(each.name.encode() + end)
        sys.stdout.buffer.flush()
    elif found:
        Table(kind.plural, kind.columns, list(map(kind.row, found))).show()
    elif not arguments.quiet:
        print(f"there are no {kind.plural} here")
    return 0


def _queue_row(each: stock.QueueStock) -> list[str]:
    return [plain(each.name), *map(str, (each.free, each.claimed, each.delayed, each.dead))]


def _topic_row(each: stock.TopicStock) -> list[str]:
    told = _topic_document(each)
    rest = (told[name] for name in ("kind", "partitions", "messages", "cursors"))
    return [plain(each.name), *("-" if word is None else str(word) for word in rest)]


def _topic_document(each: stock.TopicStock) -> dict[str, Any]:
    usage = each.usage
    return {
        "name": each.name,
        "kind": None if usage is None else "retained" if usage.retained else "live",
        "partitions": None if usage is None else usage.partitions,
        "messages": each.messages,
        "cursors": each.cursors,
    }
