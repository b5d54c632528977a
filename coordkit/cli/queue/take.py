"""`coordkit queue take`: items to standard output, or each to a command of its own."""

from __future__ import annotations

import argparse
import os
import queue as standard
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from coordkit import errors
from coordkit.cli import failure, launch, options, signals
from coordkit.cli.queue import items
from coordkit.cli.voice import Voice

if TYPE_CHECKING:
    from coordkit import Job, Queue

_SUMMARY = "take items from a queue: print them, or run a command for each"
_EXAMPLES = """\
examples:
  coordkit queue take jobs                                  the first item, once there is one
  coordkit queue take jobs --count 10 --wait 0              up to 10 that are there now
  coordkit queue take jobs --follow -- ./resize.sh          a worker: for ever, the item on standard input

The command is started without a shell, with COORDKIT_QUEUE_NAME, _ID, _ATTEMPT and _FENCE set. Its exit
status 0 acks the item; any other gives it back, to be delivered again, and after --max-deliveries it is a
dead letter. Without a command an item is acked once it is printed. Ctrl-C and TERM give back what was not
finished. After kill -9 of this program its command goes on, and the item is delivered again once the TTL is
over: then two may work on it.

exit status: 0; 75 nothing came in time; 76 the claim was lost while the command ran; the command's, if it
failed for a single item; 69 no etcd; 2 usage; 126 no program; 127 not found; 128 + the signal"""

_LOOK_S = 0.5  # how late a loss may be noticed


def register(commands: Any) -> None:
    """Add `take`."""
    parser = options.command(commands, "take", _SUMMARY, _EXAMPLES, run)
    parser.usage = "coordkit queue take NAME [options] [-- COMMAND...]"
    parser.add_argument("name", metavar="NAME", help="of the queue")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--count", type=options.count, default=1, metavar="N", help="how many items; 1")
    many.add_argument("--follow", action="store_true", help="go on for ever")
    options.wait(parser, "how long to wait for the next item; for ever")
    items.separated(parser)
    tries = "how often an item is delivered before it is a dead letter; 5"
    parser.add_argument("--max-deliveries", type=options.count, default=5, metavar="N", help=tries)
    later = "until an item whose command failed is delivered again"
    parser.add_argument("--retry-delay", type=options.duration, default=0.0, metavar="SEC", help=later)
    parser.add_argument("--json", action="store_true", help="print each item as JSON, one object a line")
    options.connection(parser)
    options.speech(parser)


def run(arguments: argparse.Namespace) -> int:
    """Take, one after the other."""
    options.listen(arguments)
    voice = Voice(arguments)
    try:
        if arguments.child:
            launch.check_command(arguments.child[0])
        elif arguments.child is not None:
            raise failure.CommandFailed("there is no command behind --", failure.USAGE)
        with signals.Inbox() as inbox, options.connect(arguments) as coord:
            queue = coord.queue(arguments.name, max_deliveries=arguments.max_deliveries)
            return _take(arguments, queue, voice, inbox)
    except launch.CannotRun as error:
        raise failure.CommandFailed(str(error), error.status) from error


def _take(arguments: argparse.Namespace, queue: Queue, voice: Voice, inbox: signals.Inbox) -> int:
    taken = status = 0
    while arguments.follow or taken < arguments.count:
        try:
            job = queue.claim(timeout=arguments.wait)
        except standard.Empty:
            return 0 if taken else failure.NOT_ACQUIRED
        taken += 1
        try:
            status = _work_off(arguments, job, voice, inbox)
        except BaseException:
            if not job.ended:
                job.nack()
            raise
    return status if taken == 1 else 0


def _work_off(arguments: argparse.Namespace, job: Job, voice: Voice, inbox: signals.Inbox) -> int:
    if not arguments.child:
        _print(arguments, job)
        job.ack()
        return 0
    status = _run(arguments, job, inbox)
    try:
        if status == 0:
            job.ack()
        elif job.is_last:
            job.bury(f"exit status {status}")
        else:
            job.nack(arguments.retry_delay)
    except errors.ClaimLost as error:
        voice.warn("lost", str(error), id=job.id)
        return failure.LOST
    voice.tell("ended", f"item {job.id}: the command ended with {status}", id=job.id, status=status)
    return status


def _print(arguments: argparse.Namespace, job: Job) -> None:
    out = sys.stdout.buffer
    if arguments.json:
        from coordkit.cli import views

        facts = {"id": job.id, "attempt": job.attempt, "fence": job.fence}
        out.write(views.dump(items.document(job.value, **facts), None).encode() + b"\n")
    else:
        out.write(job.value + items.separator(arguments))
    out.flush()


def _run(arguments: argparse.Namespace, job: Job, inbox: signals.Inbox) -> int:
    """The command's exit status; it is told to end should the claim be lost."""
    words = {"NAME": arguments.name, "ID": job.id, "ATTEMPT": str(job.attempt), "FENCE": str(job.fence)}
    environment = {**os.environ, **{f"COORDKIT_QUEUE_{name}": word for name, word in words.items()}}
    over = threading.Event()
    process: subprocess.Popen[bytes] | None = None
    try:
        with inbox.held():  # else it might run on, and nobody know of it
            process = _start(arguments.child, environment)
        threading.Thread(target=_guard, args=(job, process, over), daemon=True).start()
        process.communicate(job.value)
        status = process.returncode
    except BaseException:
        if process is not None:
            process.terminate()
            process.wait()
        raise
    finally:
        over.set()
    return status if status >= 0 else 128 - status


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    except OSError as error:
        raise launch.CannotRun(command[0], str(error), launch.NOT_EXECUTABLE) from error


def _guard(job: Job, process: subprocess.Popen[bytes], over: threading.Event) -> None:
    while not over.is_set():
        if job.lost.wait(_LOOK_S):
            process.terminate()
            return
