"""`coordkit doctor --deadlocks`: who holds something, and waits in a circle."""

from __future__ import annotations

import argparse
from typing import Any

from coordkit.cli import failure, options, views
from coordkit.cli.terminal import plain
from coordkit.inspection import census, deadlocks, reading

_REMEDY = """\
It ends when one of them gives up or is ended: coordkit session revoke SESSION, or coordkit lock break NAME.
It does not come back if all take these in one order, or all at once: coord.multilock([...])."""
_DOUBT = """\
Threads that share a session cannot be told apart: whoever holds one of these may not be who waits. If it
stays, it is a deadlock."""


def run(arguments: argparse.Namespace) -> int:
    """Read the namespace once, look for circles, tell.

    Cost: as `Reader.kind` for each kind that is a line.
    """
    with options.connect(arguments) as coord:
        found = reading.Reader(coord.client, coord.settings.namespace).census()
    view = views.View(found, {}, views.now())
    circles = deadlocks.find(found)
    if arguments.json:
        document = {
            "revision": found.revision,
            "waits": deadlocks.waits(found),
            "circles": [circle_document(view, each) for each in circles],
        }
        print(views.dump(document))
    else:
        print(text(view, circles))
    return failure.VIOLATION if any(each.certain for each in circles) else 0


def text(view: views.View, circles: list[deadlocks.Circle]) -> str:
    """For people."""
    parts = ["\n".join(_lines(view, each)) for each in circles]
    certain = sum(each.certain for each in circles)
    where = f"{deadlocks.waits(view.census)} wait, at revision {view.census.revision}"
    parts.append(f"{certain or 'no'} deadlock{'s' if certain > 1 else ''}; {where}")
    return "\n\n".join(parts)


def _lines(view: views.View, circle: deadlocks.Circle) -> list[str]:
    number = len(circle.parties)
    who = f"{number} wait in a circle" if number > 1 else "one waits for what it holds itself"
    lines = [f"{'deadlock' if circle.certain else 'this may be a deadlock'}: {who}"]
    for each in circle.parties:
        session = each.session
        named = plain(each.who) or f"lease {each.awaits.place.owner:016x}"
        origin = (
            f" (session {session.id}, pid {plain(session.pid)} on {plain(session.host)})" if session else ""
        )
        lines.append(f"  {named}{origin}")
        lines += [f"    holds {_stake(view, stake)}" for stake in each.holds]
        behind = ", ".join(map(str, each.behind))
        lines.append(f"    waits for {_stake(view, each.awaits)}, behind fence {behind}")
    return [*lines, *(f"  {line}" for line in (_REMEDY if circle.certain else _DOUBT).splitlines())]


def _stake(view: views.View, stake: census.Stake) -> str:
    role = f" to {stake.place.role}" if stake.place.role else ""
    since = views.iso(stake.place.since)
    came = f", since {since} ({view.ago(stake.place.since)})" if since else ""
    return f"{stake.kind} {plain(stake.name)}{role}, fence {stake.place.fence}{came}"


def circle_document(view: views.View, circle: deadlocks.Circle) -> dict[str, Any]:
    """For programs."""
    return {
        "certain": circle.certain,
        "parties": [
            {
                "identity": each.who,
                "session": each.session and each.session.id,
                "host": each.session and each.session.host,
                "pid": each.session and each.session.pid,
                "holds": [_stake_document(view, stake) for stake in each.holds],
                "awaits": _stake_document(view, each.awaits),
                "behind": list(each.behind),
            }
            for each in circle.parties
        ],
    }


def _stake_document(view: views.View, stake: census.Stake) -> dict[str, Any]:
    return {"kind": stake.kind, "name": stake.name, **view.place_document(stake.place)}
