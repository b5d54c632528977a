"""`coordkit once`: of all machines whose cron starts it exactly one runs the command, once a slot."""

from __future__ import annotations

import argparse
import os
import threading
from typing import TYPE_CHECKING, Any

from coordkit import errors
from coordkit.cli import failure, keeper, launch, options, signals, supervisor
from coordkit.cli.terminal import Table, plain
from coordkit.cli.voice import Voice
from coordkit.deadline import boottime

if TYPE_CHECKING:
    from coordkit import Once, Slot

_SUMMARY = "run a command once a slot, on one machine of all"
_EXAMPLES = """\
examples:
  */5 * * * *  coordkit once report --slot 5m -- ./report.sh          the same line in each machine's crontab
  coordkit once migrate --slot v42 --attempts 3 -- ./migrate.sh
  coordkit once report --history

A SLOT such as 90s, 5m, 2h, 1d or 1w stands for the current period by this machine's clock, in UTC.  A number
and letters that are no period, such as 5min, 1.5h or 5S, are refused; any other text is the slot's name.
The first that asks runs the command; a slot stays taken for the retention, whether the command went well,
failed, or died with its machine.  With --attempts a failed or abandoned slot may be taken again by whoever
asks next.

The command is started without a shell, with COORDKIT_ONCE_NAME, _SLOT, _ATTEMPT and _FENCE set.

exit status: the command's, or 128 + the signal that ended it; 0, and silence, when another has the slot;
69 no etcd; 2 usage; 126 no program; 127 not found; 76 with --attempts above 1: the session was lost"""

_FAR_S = 1e9  # for a command that no deadline ends


def register(commands: Any) -> None:
    """Add `once`."""
    parser = options.command(commands, "once", _SUMMARY, _EXAMPLES, run)
    parser.usage = "coordkit once NAME --slot SLOT [options] -- COMMAND..."
    parser.add_argument("name", metavar="NAME", help="of the job")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--slot", metavar="SLOT", help="which run: a period, or a text as its name")
    what.add_argument(
        "--history", action="store_true", help="run nothing; show the slots that are remembered"
    )
    retention = "how long a slot is remembered, in seconds or as 2h, 1d; a day"
    parser.add_argument("--retention", type=_seconds, default=86_400.0, metavar="TIME", help=retention)
    attempts = "how often a slot may be taken in all; 1"
    parser.add_argument("--attempts", type=options.count, default=1, metavar="N", help=attempts)
    parser.add_argument("--json", action="store_true", help="say what happens as JSON, one object a line")
    options.connection(parser)
    options.speech(parser)


def run(arguments: argparse.Namespace) -> int:
    """Claim, run, keep how it went."""
    options.listen(arguments)
    if arguments.history:
        if arguments.child:
            raise failure.CommandFailed("--history runs nothing: there must be no command", failure.USAGE)
        return _history(arguments)
    if not arguments.child:
        raise failure.CommandFailed("there is no command: put it behind --", failure.USAGE)
    try:
        launch.check_command(arguments.child[0])
        with signals.Inbox() as inbox, options.connect(arguments) as coord:
            slot, attempts = arguments.slot, arguments.attempts
            once = coord.once(arguments.name, slot, arguments.retention, attempts)
            return _run(arguments, once, inbox)
    except launch.CannotRun as error:
        raise failure.CommandFailed(str(error), error.status) from error


def _run(arguments: argparse.Namespace, once: Once, inbox: signals.Inbox) -> int:
    voice = Voice(arguments)
    what = f"slot {once.slot!r} of {once.name!r}"
    if not once.claim():
        voice.tell("taken", f"{what} is another's")
        return 0
    voice.tell("claimed", f"{what}: claimed with fence {once.fence}", fence=once.fence)
    try:
        hold = once if arguments.attempts > 1 else _Unhurried()
        plan = supervisor.Plan(arguments.child, _environment(once), grace_s=1.0)
        guard = keeper.Keeper()
        try:
            end = supervisor.Supervisor(inbox, guard, voice, hold, plan).run()
        finally:
            guard.end()
    except BaseException as error:
        once.failed(type(error).__name__)
        raise
    return _finish(once, end, voice, what)


def _finish(once: Once, end: supervisor.End, voice: Voice, what: str) -> int:
    """Keep how it went; the exit status."""
    try:
        if end.lost:
            once.failed("its session was lost")
        elif end.status:
            once.failed(f"exit status {end.status}")
        else:
            once.done()
    except errors.CoordError as error:
        # The command has run, whatever becomes of the record.
        voice.warn("not kept", f"{what}: how it went could not be kept: {error}")
    else:
        voice.tell("ended", f"{what}: the command ended with {end.status}", status=end.status)
    return failure.LOST if end.lost else end.status


class _Unhurried:
    """A command that nobody else may run again needs no session to go on."""

    def __init__(self) -> None:
        self.lost = threading.Event()
        self._until_s = boottime() + _FAR_S

    def remaining(self) -> float:
        return self._until_s - boottime()

    def check(self) -> None:
        """It is ours."""


def _environment(once: Once) -> dict[str, str]:
    words = {"NAME": once.name, "SLOT": once.slot, "ATTEMPT": str(once.attempt), "FENCE": str(once.fence)}
    return {**os.environ, **{f"COORDKIT_ONCE_{name}": word for name, word in words.items()}}


def _history(arguments: argparse.Namespace) -> int:
    """The slots that are remembered."""
    from coordkit.cli import views

    with options.connect(arguments) as coord:
        found = coord.once(arguments.name, "any").history()
    if arguments.json:
        print(views.dump({"name": arguments.name, "slots": list(map(_document, found))}))
    elif found:
        columns = ["slot", "state", "by", "attempt", "began", "ended", "error"]
        rows = [[plain(each) or "-" for each in map(str, _document(slot).values())] for slot in found]
        Table(f"once {plain(arguments.name)}", columns, rows).show()
    elif not arguments.quiet:
        print(f"{arguments.name!r}: no slot is remembered")
    return 0


def _document(slot: Slot) -> dict[str, Any]:
    return {
        "slot": slot.name,
        "state": slot.state.value,
        "by": slot.by,
        "attempt": slot.attempt,
        "began": slot.began,
        "ended": slot.ended,
        "error": slot.error,
    }


def _seconds(text: str) -> float:
    """A duration: in seconds, or as 2h, 1d."""
    from coordkit.recipes import slots

    period = slots.period(text)
    return options.positive(text) if period is None else period.total_seconds()
