"""`coordkit watch`: what changes in a namespace, in words, as it happens."""

from __future__ import annotations

import argparse
import queue
from typing import TYPE_CHECKING, Any

from coordkit.cli import failure, options, terminal

if TYPE_CHECKING:
    from coordkit import Coordinator, errors
    from coordkit.etcd import watch
    from coordkit.inspection import narrator

_SUMMARY = "tell what changes in the namespace, as it happens"
_EXAMPLES = """\
examples:
  coordkit watch
  coordkit watch lock/nightly/
  coordkit watch queue/ --json | jq .key

A PREFIX is what stands behind the namespace in keys: a kind, a slash, a name as it is written there.  Values
are never shown.  With a PREFIX that leaves out session/, nobody can say whether a lock was released or its
session ended.

exit status: 0 after --count changes; 1 changes were missed, for history was compacted before they were told;
69 when etcd does not answer; 130 Ctrl-C"""

_VERBS = {
    "joined": "joins the line",
    "granted": "holds it",
    "released": "releases it",
    "left": "leaves the line",
    "changed": "changes its value",
    "opened": "begins",
    "ended": "ends",
    "renewed": "puts its key again: it had doubts",
}


def register(commands: Any) -> None:
    """Add `watch`."""
    parser = options.command(commands, "watch", _SUMMARY, _EXAMPLES, run)
    parser.add_argument(
        "prefix", metavar="PREFIX", nargs="?", default="", help="what to look at; default all"
    )
    parser.add_argument("--count", type=options.count, help="end after so many changes")
    parser.add_argument("--json", action="store_true", help="print a JSON document on each line")
    options.connection(parser)
    options.speech(parser)


def run(arguments: argparse.Namespace) -> int:
    """Watch, tell; until Ctrl-C."""
    from coordkit.etcd import watch

    options.listen(arguments)
    with options.connect(arguments) as coord:
        watcher = watch.Watcher(coord.client)
        try:
            return _tell(arguments, coord, watcher)
        finally:
            watcher.close()


def _tell(arguments: argparse.Namespace, coord: Coordinator, watcher: watch.Watcher) -> int:
    from coordkit.inspection import census, narrator, reading

    reader = reading.Reader(coord.client, coord.settings.namespace)
    prefix = reader.root + arguments.prefix.lstrip("/").encode()
    inbox = _Inbox()
    watcher.watch_prefix(prefix, inbox)
    inbox.await_created(coord.settings.options.timeout_s)
    # Read after the watch stands: what it tells and the read shows already is passed over by its revision.
    stored, revision = reader.lines()
    seen = [each for each in stored if each.key.startswith((prefix, reader.root + b"session/"))]
    session_root = reader.root + census.SESSION.encode() + b"/"
    narrates = narrator.Narrator(reader.root, seen, revision, sees_sessions=session_root.startswith(prefix))
    if not arguments.quiet and not arguments.json:
        shown = terminal.plain(prefix.decode(errors="backslashreplace"))
        print(f"watching {shown} from revision {revision} on", flush=True)
    told = 0
    while True:
        for note in narrates.take(inbox.next_events()):
            print(_json(note) if arguments.json else text(note), flush=True)
            told += 1
            if told == arguments.count:
                return 0


def text(note: narrator.Note) -> str:
    """One change, for people."""
    plain = terminal.plain
    if note.key or note.what in ("put", "deleted"):
        return f"{note.revision}  {note.kind} {plain(note.name)}: {plain(note.key) or 'its key'} {note.what}"
    who = plain(note.who) or "somebody"
    verb = _VERBS.get(note.what, note.what)
    role = f" as {plain(note.role)}" if note.role else ""
    fence = f" (fence {note.fence})" if note.fence else ""
    because = f": {note.because}" if note.because else ""
    if note.kind == "session":
        return f"{note.revision}  session {plain(note.name)} of {who} {verb}"
    return f"{note.revision}  {note.kind} {plain(note.name)}: {who} {verb}{role}{fence}{because}"


def _json(note: narrator.Note) -> str:
    import attrs

    from coordkit.cli import views

    return views.dump(attrs.asdict(note), indent=None)


class _Inbox:
    """What the watch tells, for the thread that prints."""

    def __init__(self) -> None:
        self._news: queue.Queue[list[watch.Event] | Exception | None] = queue.Queue()

    def await_created(self, timeout_s: float) -> None:
        """The watch stands."""
        try:
            news = self._news.get(timeout=timeout_s)
        except queue.Empty:
            message = "etcd did not answer: the watch does not stand"
            raise failure.CommandFailed(message, failure.UNREACHABLE) from None
        if isinstance(news, Exception):
            raise news

    def next_events(self) -> list[watch.Event]:
        """The next ones; waits for them."""
        while True:
            # In pieces: a wait without an end cannot be interrupted everywhere.
            try:
                news = self._news.get(timeout=3600)
            except queue.Empty:
                continue
            if isinstance(news, Exception):
                raise news
            if news is not None:
                return news

    def on_created(self, revision: int) -> None:
        self._news.put(None)

    def on_events(self, events: list[watch.Event]) -> None:
        self._news.put(events)

    def on_gap(self, compacted: int) -> None:
        text = f"history up to revision {compacted} was compacted: changes were missed"
        self._news.put(failure.CommandFailed(text))

    def on_refused(self, error: errors.CoordError) -> None:
        self._news.put(error)
