"""What a command that runs others says: on standard error, for standard output is the other one's.

Quiet, in sentences, or as one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import typing


class Voice:
    """What was asked for with --quiet, --verbose and --json."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._json: bool = arguments.json
        self.quiet: bool = arguments.quiet
        self._verbose = bool(arguments.verbose)

    def tell(self, event: str, text: str, **facts: typing.Any) -> None:
        """What happens, for those who want to know."""
        if self._verbose or self._json:
            self.warn(event, text, **facts)

    def warn(self, event: str, text: str, **facts: typing.Any) -> None:
        """What everybody should know."""
        if self.quiet or sys.stderr is None:
            return
        line = json.dumps({"event": event, "text": text, **facts}) if self._json else f"coordkit: {text}"
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:
            # Nobody reads: no reason to leave a command alone.  Nor is what could not be written to be tried
            # once more as Python exits, which would then end with a status of its own.
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end
