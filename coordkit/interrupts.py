"""Ctrl-C under gevent: none of our own greenlets is struck in place of the main one.

Python raises KeyboardInterrupt in whatever its main native thread runs just then.  In a patched process
that may be the greenlet that reads a connection, or another of ours: the program would never hear of it,
for what a thread raises ends with the thread, and a connection that is interrupted within a message is
lost.  Where Python's own handler stands for the signal, ours takes its place, and passes such an interrupt
on in the hub's next turn.

In plain threads there is nothing to do: it is the main thread that is struck, and none of ours is that.
"""

from __future__ import annotations

import signal
import threading
import types
import typing


def spare_our_greenlets() -> None:
    """In a process that gevent patched; any other handler than Python's own is the program's business."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        try:
            signal.signal(signal.SIGINT, _strike)
        except ValueError:
            pass  # this is another native thread: the main one will connect too, or has nothing to be spared


def _strike(number: int, frame: types.FrameType | None) -> None:
    import gevent

    hub = gevent.get_hub()
    # What is raised in the hub itself, gevent prints before it passes it on.
    if gevent.getcurrent() is not hub and not _is_ours():
        signal.default_int_handler(number, frame)
    hub.loop.run_callback(hub.handle_system_error, KeyboardInterrupt, KeyboardInterrupt())


def _is_ours() -> bool:
    # Not `current_thread`, which may make an object, and take a lock that is held right here.
    running: dict[int, threading.Thread] = typing.cast(typing.Any, threading)._active
    thread = running.get(threading.get_ident())
    return thread is not None and thread.name.startswith("coordkit-")
