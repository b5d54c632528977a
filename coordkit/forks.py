"""Events that can be set in the child of a fork.

An event has a lock, which a thread of the parent may have held when it forked; that thread is not in the
child, and whoever sets the event there would wait for it for ever.  (Python renews the locks of its own
threads; under gevent the greenlets live on in the child, and release theirs.)
"""

from __future__ import annotations

import os
import threading
import typing
import weakref

_EVENTS: weakref.WeakSet[threading.Event] = weakref.WeakSet()


def event() -> threading.Event:
    """A `threading.Event` whose lock is a new one in a forked child."""
    made = threading.Event()
    if hasattr(made, "_at_fork_reinit"):
        _EVENTS.add(made)
    return made


def event_in(attributes: dict[str, typing.Any], name: str) -> threading.Event:
    """The event of that name, made when somebody first asks: making one takes 8 us, and most end unasked.

    Whoever is to set it sets a flag, and then the event if there is one; whoever asks looks at the flag then.
    """
    made: threading.Event | None = attributes.get(name)
    return made if made is not None else attributes.setdefault(name, event())  # which is atomic


def _after_fork_in_child() -> None:
    for each in list(_EVENTS):
        typing.cast(typing.Any, each)._at_fork_reinit()


# Before any hook of a module that imports this one, for those set events.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
