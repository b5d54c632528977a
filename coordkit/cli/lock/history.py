"""`coordkit lock history`: who held a lock, from when to when, as far as etcd still knows."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from coordkit.cli import failure, options

if TYPE_CHECKING:
    from coordkit.cli import terminal
    from coordkit.inspection import archive, tenures

_SUMMARY = "tell who held a lock, from when to when, as far back as etcd knows"
_EXAMPLES = """\
examples:
  coordkit lock history nightly
  coordkit lock history nightly --limit 20 --json
  coordkit lock history nightly --plot nightly.svg

It is read back from etcd's own revisions, up to its last compaction; the output says from which one on.  The
order is certain.  Times are what those who joined wrote down by their own clocks; ~ marks an estimate between
two of them, - what cannot even be estimated.  All times are UTC.  "From" is the revision, "at" the time.

exit status: 0; 1 nothing is known, or the time ran out before all was read; 69 when etcd does not answer"""

DEFAULT_PATIENCE_S = 60.0


def register(group: Any) -> None:
    """Add `lock history`."""
    from coordkit.cli.lock import listing

    parser = options.command(group, "history", _SUMMARY, _EXAMPLES, run)
    parser.add_argument("name", metavar="NAME", help="of the lock")
    listing.add_kind(parser)
    parser.add_argument("--limit", type=options.count, help="show so many, the newest ones")
    parser.add_argument("--plot", metavar="FILE", help="draw a timeline: out.svg, out.png; needs matplotlib")
    parser.add_argument(
        "--patience",
        type=options.positive,
        default=DEFAULT_PATIENCE_S,
        help=f"seconds to read for; default {DEFAULT_PATIENCE_S:g}",
    )
    options.usual(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read back, tell."""
    from coordkit.cli import views
    from coordkit.cli.lock import timeline
    from coordkit.deadline import Deadline
    from coordkit.etcd import watch
    from coordkit.inspection import archive, reading

    options.listen(arguments)
    if arguments.plot:
        timeline.check()
    with options.connect(arguments) as coord:
        reader = reading.Reader(coord.client, coord.settings.namespace)
        watcher = watch.Watcher(coord.client)
        try:
            limit = Deadline.after(arguments.patience)
            found = archive.read(reader, watcher, arguments.kind, arguments.name, limit)
        finally:
            watcher.close()
    shown = found.tenures[-arguments.limit :] if arguments.limit else found.tenures
    told = _Told(f"{arguments.kind} {arguments.name}", found, shown)
    if arguments.plot:
        timeline.draw(told.title, shown, told.clock, arguments.plot)
    if arguments.json:
        print(views.dump(told.document()))
    else:
        if shown:
            told.table().show()
        if not arguments.quiet:
            print(told.extent())
    if not found.complete:
        raise failure.CommandFailed(f"not all was read within {arguments.patience:g} s: see --patience")
    return 0 if found.tenures else 1


class _Told:
    """A history, for people and for programs."""

    def __init__(self, title: str, found: archive.Archive, shown: list[tenures.Tenure]) -> None:
        from coordkit.inspection import tenures

        self.title = title
        self.clock = tenures.Clock(found.tenures)
        self._found = found
        self._shown = shown

    def table(self) -> terminal.Table:
        """A row for each that stood there."""
        from coordkit.cli.terminal import Table, plain

        rows = [
            [
                str(each.joined),
                plain(each.place.identity) or f"lease {each.place.lease:016x}",
                each.place.role or "-",
                self._time(each.joined),
                ("<= " if each.early else "") + _or_nothing(each.granted),
                "-" if each.early else self._time(each.granted),
                _or_nothing(each.ended),
                self._time(each.ended),
                each.how,
            ]
            for each in self._shown
        ]
        columns = ["fence", "who", "as", "joined at", "held from", "held at", "gone from", "gone at", "how"]
        return Table(plain(self.title), columns, rows).without_empty()

    def extent(self) -> str:
        """What is known, and what not."""
        found = self._found
        held = sum(each.granted is not None for each in found.tenures)
        before = "; what was before is compacted" if found.first > 1 else ", the beginning"
        return (
            f"revisions {found.first} to {found.last}{before}; "
            f"{len(found.tenures)} stood in line, {held} held; {len(self._shown)} shown"
        )

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "lock": self.title.partition(" ")[2],
            "kind": self.title.partition(" ")[0],
            "first_revision": self._found.first,
            "last_revision": self._found.last,
            "complete": self._found.complete,
            "tenures": [
                {
                    "fence": each.joined,
                    "identity": each.place.identity,
                    "role": each.place.role,
                    "lease": f"{each.place.lease:016x}",
                    "granted": each.granted,
                    "ended": each.ended,
                    "how": each.how,
                    "early": each.early,
                    **{
                        name: self._moment(revision)
                        for name, revision in (
                            ("joined_at", each.joined),
                            ("granted_at", None if each.early else each.granted),
                            ("ended_at", each.ended),
                        )
                    },
                }
                for each in self._shown
            ],
        }

    def _time(self, revision: int | None) -> str:
        moment = self.clock.at(revision)
        if moment is None:
            return "-"
        return f"{'' if moment.exact else '~'}{moment.at:%Y-%m-%d %H:%M:%S.%f}"[:-3]

    def _moment(self, revision: int | None) -> dict[str, Any] | None:
        from coordkit.cli import views

        moment = self.clock.at(revision)
        return None if moment is None else {"time": views.iso(moment.at), "estimate": not moment.exact}


def _or_nothing(revision: int | None) -> str:
    return "-" if revision is None else str(revision)
