"""Ctrl-C at every place where it may come.

A signal is looked at when a Python function is entered and when a C function has returned; a profile function
is called at just these places, and may raise.
"""

from __future__ import annotations

import _weakrefset
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType

#: Ctrl-C may spoil threading's own locks; and weakref's functions are called wherever something ends.
THEIRS = (threading.__file__, weakref.__file__, _weakrefset.__file__)


def interrupted_at(number: int, action: Callable[[], object]) -> str | None:
    """Run `action` with a KeyboardInterrupt at the number-th place within the wire's code, or what it calls.

    Returns:
        The function in which it came; None when the action ended before.
    """
    places = depth = 0
    where = None

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal places, depth, where
        ours = "/coordkit/wire/" in frame.f_code.co_filename
        if ours and event in ("call", "return"):
            depth += 1 if event == "call" else -1
        theirs = frame.f_code.co_filename in THEIRS
        if event in ("call", "c_return") and (ours or depth) and not theirs:
            places += 1
            if places == number:
                where = frame.f_code.co_name
                raise KeyboardInterrupt

    collects = gc.isenabled()
    gc.disable()  # what it would call is no place of ours, and an interruption there is told to nobody
    try:
        sys.setprofile(profile)
        action()
    except KeyboardInterrupt:
        if where is None:
            raise
    finally:
        sys.setprofile(None)
        if collects:
            gc.enable()
    return where
