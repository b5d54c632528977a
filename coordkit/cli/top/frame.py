"""One look of `coordkit top`: what was seen, and how it is laid out."""

from __future__ import annotations

import io
from collections.abc import Sequence

import attrs

from coordkit.cli import views
from coordkit.cli.terminal import Table, plain
from coordkit.inspection import census as censuses
from coordkit.inspection import kinds, reading

MOST_ROWS = 200  # that anybody reads
MOST_WAITERS = 5  # of one lock


@attrs.frozen
class Frame:
    """What was seen in one look."""

    where: str
    view: views.View
    locks: Sequence[censuses.Primitive]  # the busiest first; no more than are shown
    sessions: Sequence[censuses.Session]

    def heading(self) -> str:
        """The first line."""
        found = self.view.census
        counts = ", ".join(f"{number} {kind or '-'}" for kind, (number, _) in found.counts().items())
        return (
            f"{self.view.now:%H:%M:%S}Z  {plain(self.where)}  revision {found.revision}  {counts or 'empty'}"
        )

    def tables(self) -> list[Table]:
        """Locks with their lines, and sessions."""
        rows = [row for lock in self.locks for row in self._rows(lock)]
        columns = ["lock", "who", "as", "fence", "for", "lease left", "waiting"]
        return [Table("", columns, rows), attrs.evolve(self.view.sessions(self.sessions), title="")]

    def text(self) -> str:
        """As plain text."""
        return "\n".join([self.heading(), *(each.text() for each in self.tables()), ""])

    def document(self) -> str:
        """As JSON, on one line."""
        found = self.view.census
        document = {
            "time": views.iso(self.view.now),
            "revision": found.revision,
            "kinds": {
                kind: {"number": number, "keys": size} for kind, (number, size) in found.counts().items()
            },
            "locks": list(map(self.view.lock_document, self.locks)),
            "sessions": list(map(self.view.session_document, self.sessions)),
        }
        return views.dump(document, indent=None)

    def _rows(self, lock: censuses.Primitive) -> list[list[str]]:
        standing = lock.standing
        name = plain(lock.name if lock.kind == "lock" else f"{lock.kind} {lock.name}")
        waiting = str(len(standing.waiters)) if standing.waiters else "-"
        holders = [
            self._row("" if n else name, each, "" if n else waiting) for n, each in _few(standing.holders)
        ]
        rows = holders or [[name, views.NOTHING, "", "", "", "", waiting]]
        rows += [self._row(f"  {n + 1}.", each, "") for n, each in _few(standing.waiters)]
        if len(standing.waiters) > MOST_WAITERS:
            rows.append([f"  and {len(standing.waiters) - MOST_WAITERS} more", *[""] * 6])
        return rows

    def _row(self, name: str, place: kinds.Place, waiting: str) -> list[str]:
        return [
            name,
            self.view.who(place),
            place.role or views.NOTHING,
            str(place.fence),
            self.view.ago(place.since),
            self.view.left(place.lease),
            waiting,
        ]


def _few(places: Sequence[kinds.Place]) -> Sequence[tuple[int, kinds.Place]]:
    return list(enumerate(places[:MOST_WAITERS]))


def look(reader: reading.Reader, where: str, most_rows: int) -> Frame:
    """Read the namespace, and ask for the leases that will be shown.

    Cost: as `Reader.census`; 1 round trip for each lease, eight of them at a time.
    """
    found = reader.census()
    # Elections are lines, too; who waits there is worth seeing.
    lined = [each for each in found.primitives if kinds.kind_of(each.kind).lined]
    locks = sorted(lined, key=lambda lock: (-len(lock.standing.waiters), lock.kind, lock.name))[:most_rows]
    sessions = sorted(found.sessions, key=lambda each: -len(each.stakes))[:most_rows]
    shown = [
        place.lease
        for lock in locks
        for places in (lock.standing.holders, lock.standing.waiters)
        for _, place in _few(places)
    ]
    times = reader.lease_times([*shown, *(each.lease for each in sessions)])
    return Frame(where, views.View(found, times, views.now()), locks, sessions)


def lines(seen: Frame | None, trouble: str, columns: int, rows: int) -> list[str]:
    """A screenful: drawn by rich where it is installed."""
    found = [plain(trouble)[:columns]] if trouble else []
    if seen is not None:
        found.append(seen.heading()[:columns])
        for table in seen.tables():
            found += _rich(table, columns) or table.text().splitlines()[1:]
    if len(found) > rows:
        found[rows - 1 :] = [
            f"... {len(found) - rows + 1} more lines: see coordkit lock ls, session ls"[:columns]
        ]
    return found


def _rich(table: Table, columns: int) -> list[str]:
    try:
        import rich.box
        import rich.console
    except ImportError:
        return []
    drawn = table.rich()
    drawn.title, drawn.box, drawn.expand = None, rich.box.SIMPLE_HEAD, True
    console = rich.console.Console(file=io.StringIO(), width=columns, force_terminal=True)
    with console.capture() as captured:
        console.print(drawn)
    return captured.get().splitlines()
