"""`coordkit session`: who is connected, what each holds and awaits; ending a session."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from coordkit.cli import failure, options, terminal

if TYPE_CHECKING:
    from coordkit.inspection import census

_GROUP = "see sessions, and end them"
_LS = "list the sessions: who they are, what they hold and await"
_LS_EXAMPLES = """\
example:
  coordkit session ls

exit status: 0; 69 when etcd does not answer"""

_SHOW = "show one session and all that it has"
_SHOW_EXAMPLES = """\
examples:
  coordkit session show 297876003eb15b13
  coordkit session show host-1:4711

A session is named by its id, the beginning of one, or its identity, as long as no other has the same.

exit status: 0; 1 there is none, or more than one; 69 when etcd does not answer"""

_REVOKE = "end a session: whatever hangs on its lease is gone"
_REVOKE_EXAMPLES = """\
examples:
  coordkit session revoke 297876003eb15b13
  coordkit session revoke host-1:4711 --yes

All its locks are free at once, and its process is told so; what that is doing is not ended by it.

exit status: 0 done; 1 there is none, or the answer was no; 2 nobody to ask; 69 when etcd does not answer"""


def register(commands: Any) -> None:
    """Add `session` and what belongs to it."""
    group = options.group(commands, "session", _GROUP)
    ls_parser = options.command(group, "ls", _LS, _LS_EXAMPLES, ls)
    show_parser = options.command(group, "show", _SHOW, _SHOW_EXAMPLES, show)
    revoke_parser = options.command(group, "revoke", _REVOKE, _REVOKE_EXAMPLES, revoke)
    for parser in (show_parser, revoke_parser):
        parser.add_argument("session", metavar="SESSION", help="its id, or its identity")
    revoke_parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    for parser in (ls_parser, show_parser, revoke_parser):
        options.usual(parser)


def ls(arguments: argparse.Namespace) -> int:
    """All of them."""
    from coordkit.cli import views
    from coordkit.inspection import reading

    options.listen(arguments)
    with options.connect(arguments) as coord:
        reader = reading.Reader(coord.client, coord.settings.namespace)
        found = reader.census()
        leases = reader.lease_times(each.lease for each in found.sessions)
        view = views.View(found, leases, views.now())
    if arguments.json:
        sessions = list(map(view.session_document, found.sessions))
        print(views.dump({"revision": found.revision, "sessions": sessions}))
    elif found.sessions:
        view.sessions(found.sessions).show()
    elif not arguments.quiet:
        print("there is no session here")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """One of them."""
    from coordkit.cli import views
    from coordkit.inspection import reading

    options.listen(arguments)
    with options.connect(arguments) as coord:
        reader = reading.Reader(coord.client, coord.settings.namespace)
        found = reader.census()
        session = _chosen(found, arguments.session)
        view = views.View(found, reader.lease_times([session.lease]), views.now())
    if arguments.json:
        print(views.dump({"revision": found.revision, **view.session_document(session)}))
        return 0
    rows = [
        ["identity", terminal.plain(session.identity)],
        ["host", terminal.plain(session.host)],
        ["pid", terminal.plain(session.pid)],
        ["start", f"{views.iso(session.start)} ({view.ago(session.start)} ago)" if session.start else "-"],
        ["lease", view.left(session.lease)],
        ["revision", str(session.created)],
        *([stake.how, _described(stake)] for stake in session.stakes),
    ]
    terminal.Table(f"session {session.id}", ["", ""], rows).show()
    return 0


def revoke(arguments: argparse.Namespace) -> int:
    """Look, ask, revoke."""
    from coordkit.cli import views
    from coordkit.etcd import lease
    from coordkit.inspection import reading

    options.listen(arguments)
    with options.connect(arguments) as coord:
        reader = reading.Reader(coord.client, coord.settings.namespace)
        found = reader.census()
        session = _chosen(found, arguments.session)
        view = views.View(found, {}, views.now())
        told = f"session {session.id} of {terminal.plain(session.identity)}"
        held = views.stakes(session, "holds")
        holds = "" if held == views.NOTHING else f", which holds {held},"
        question = f"Revoke {told}{holds} with its {len(session.stakes) + 1} keys?"
        if not terminal.confirm(question, arguments.yes):
            raise failure.CommandFailed("not revoked")
        # By its id alone: ids are drawn at random, so it cannot be another session's by now.
        lease.revoke(coord.client, session.lease, coord.client.deadline(None))
    if arguments.json:
        print(views.dump({"revoked": view.session_document(session)}))
    elif not arguments.quiet:
        print(f"revoked: {told}{holds.rstrip(',')}")
    return 0


def _chosen(found: census.Census, named: str) -> census.Session:
    """The session of this identity, or the one whose id begins so."""
    sessions = [each for each in found.sessions if each.identity == named]
    sessions = sessions or [each for each in found.sessions if each.id.startswith(named.lower())]
    if len(sessions) == 1:
        return sessions[0]
    if not sessions:
        raise failure.CommandFailed(f"there is no session {named!r} here")
    ids = ", ".join(each.id for each in sessions[:8])
    raise failure.CommandFailed(f"{len(sessions)} sessions are called {named!r}: {ids}")


def _described(stake: census.Stake) -> str:
    role = f" as {terminal.plain(stake.place.role)}" if stake.place.role else ""
    return f"{stake.kind} {terminal.plain(stake.name)}{role} (fence {stake.place.fence})"
