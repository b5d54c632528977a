"""`coordkit topic`: publish and subscribe in pipes."""

from __future__ import annotations

import argparse
import base64
import datetime
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from coordkit.cli import failure, options, stock, terminal
from coordkit.cli.queue import items

if TYPE_CHECKING:
    import coordkit

_PUB = """\
examples:
  coordkit topic pub chat "hello" "world"
  tail -F app.log | coordkit topic pub --retain 100000 log
  printf 'two\\nlines\\0' | coordkit topic pub chat -0
  coordkit topic pub numbers -- -1 -2

Options may stand anywhere before --; values that begin with a dash stand behind it.  A value that is a dash,
or no value at all, stands for standard input: each of its lines is a message, and what can be read at once is
published together; behind -- a dash is a message.  Without --retain a topic is published to as others use it;
a new one is live.  The revision of the last message is printed; with --json a document at the end, with how
many were published and that revision, which is null when there was none.

exit status: 0; 1 refused by etcd; 2 others use this topic in another way; 69 when etcd does not answer, and
what was read last may have been published or not; 130 Ctrl-C"""

_SUB = """\
examples:
  coordkit topic sub chat
  coordkit topic sub log --from all --count 10
  coordkit topic sub log --cursor archiver --json | jq .value
  coordkit topic sub log --from 4711 --wait 5                     until none has come for so long

A message a line.  Messages that were compacted or trimmed before they were read are told on standard error;
then it goes on with what is left.  With --cursor it begins where the last one of that name has ended; a
message counts as done once it was printed.

exit status: 0 after --count messages, or when no other came in time; 1 the same, but messages were missed; 75
when none came at all; 69 when etcd does not answer; 130 Ctrl-C"""

_TRIM = """\
examples:
  coordkit topic trim log --retain 1000
  coordkit topic trim log --retain 12h

By age it goes by the clocks of the publishers and by that of this machine.

exit status: 0; 2 the topic is live; 69 when etcd does not answer"""

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def register(commands: Any) -> None:
    """Add `topic pub`, `topic sub`, `topic trim` and `topic ls`."""
    group = options.group(commands, "topic", "publish and subscribe")
    pub = options.command(group, "pub", "publish messages", _PUB, publish)
    pub.usage = "coordkit topic pub [options] NAME [VALUE...] [-- VALUE...]"
    pub.add_argument("name", metavar="NAME", help="of the topic")
    pub.add_argument("values", metavar="VALUE", nargs="*", help="a message; -, or none, is standard input")
    items.separated(pub)
    pub.add_argument("--retain", type=_retain, metavar="N|TIME|all", help="keep so many, or for 90s, 12h, 7d")
    options.document(pub)
    sub = options.command(group, "sub", "print messages as they come", _SUB, subscribe)
    sub.add_argument("name", metavar="NAME", help="of the topic")
    where = sub.add_mutually_exclusive_group()
    where.add_argument(
        "--from", dest="start", type=_start, default="new", metavar="WHERE", help="new, all, or a revision"
    )
    where.add_argument("--cursor", metavar="CURSOR", help="go on where the last of that name has ended")
    sub.add_argument("--count", type=options.count, metavar="N", help="end after so many messages")
    options.wait(sub, "how long to wait for the next message; for ever")
    sub.add_argument("--retained", action="store_true", help="take a topic that is still empty for retained")
    sub.add_argument("--json", action="store_true", help="print a JSON document on each line")
    trim = options.command(group, "trim", "delete the oldest messages", _TRIM, trim_)
    trim.add_argument("name", metavar="NAME", help="of the topic")
    trim.add_argument(
        "--retain", type=_retain, required=True, metavar="N|TIME", help="keep so many, or so old"
    )
    for parser in (pub, sub, trim):
        options.connection(parser)
        options.speech(parser)
    stock.register_topics(group)


def publish(arguments: argparse.Namespace) -> int:
    """Publish; print the last revision."""
    from coordkit.cli import views

    options.listen(arguments)
    revision = count = 0
    with options.connect(arguments) as coord:
        topic = _topic(coord, arguments.name, arguments.retain)
        for part in items.given(arguments, items.separator(arguments)):
            revision = topic.publish_many(part)
            count += len(part)
    if arguments.json:
        print(views.dump({"topic": arguments.name, "count": count, "revision": revision or None}))
    elif revision and not arguments.quiet:
        print(revision)
    return 0


def subscribe(arguments: argparse.Namespace) -> int:
    """Print messages, until there were enough, or Ctrl-C."""
    import coordkit

    options.listen(arguments)
    start = coordkit.Cursor(arguments.cursor) if arguments.cursor is not None else arguments.start
    told, missed = 0, False
    with options.connect(arguments) as coord:
        topic = _topic(coord, arguments.name, math.inf if arguments.retained else None)
        with topic.subscribe(start) as subscription:
            while told != arguments.count:
                try:
                    message = subscription.get(arguments.wait)
                except coordkit.Gap as gap:
                    missed = True
                    if not arguments.quiet:
                        print(f"coordkit: {gap}", file=sys.stderr, flush=True)
                    continue
                if message is None:
                    break
                _show(message, arguments.json)
                told += 1
    if missed:
        return failure.VIOLATION
    return 0 if told else failure.NOT_ACQUIRED


def trim_(arguments: argparse.Namespace) -> int:
    """Delete the oldest."""
    options.listen(arguments)
    with options.connect(arguments) as coord:
        topic = _topic(coord, arguments.name, math.inf)
        topic.trim(arguments.retain)
    return 0


def _topic(coord: coordkit.Coordinator, name: str, retain: Any) -> coordkit.Topic:
    """As others use it; as it was asked for, where nobody does yet."""
    usage = coord.topic(name).usage()
    if usage is None or not usage.retained:
        return coord.topic(name, retain=retain)  # which refuses what does not agree
    return coord.topic(name, retain=math.inf if retain is None else retain, partitions=usage.partitions)


def _show(message: coordkit.Message, as_json: bool) -> None:
    if as_json:
        print(_json(message), flush=True)
    elif sys.stdout.isatty():
        print(terminal.plain(message.raw.decode(errors="backslashreplace")), flush=True)
    else:
        sys.stdout.buffer.write(message.raw + b"\n")
        sys.stdout.buffer.flush()


def _json(message: coordkit.Message) -> str:
    place = {"revision": message.revision, "index": message.index, "partition": message.partition}
    try:
        return json.dumps({**place, "value": message.raw.decode()})
    except UnicodeDecodeError:
        return json.dumps({**place, "value_base64": base64.b64encode(message.raw).decode()})


def _retain(text: str) -> int | float | datetime.timedelta:
    """A number of messages, a time such as 12h, or all."""
    number = text[:-1]
    if text == "all":
        return math.inf
    if text.isdecimal() and text.isascii():
        return int(text)
    if text[-1:] in _UNITS_S and number.isdecimal() and number.isascii() and int(number):
        return datetime.timedelta(seconds=int(number) * _UNITS_S[text[-1]])
    raise argparse.ArgumentTypeError(f"{text!r} is no number of messages, no time such as 12h, and not all")


def _start(text: str) -> str | int:
    """new, all, or a revision."""
    if text in ("new", "all"):
        return text
    if text.isdecimal() and text.isascii() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither new nor all nor a revision")
