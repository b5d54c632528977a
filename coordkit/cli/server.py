"""`coordkit server`: a private etcd in the foreground, for development."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
import types
from typing import TYPE_CHECKING, Any

from coordkit.cli import failure, options

if TYPE_CHECKING:
    from coordkit.testing import kept

_SUMMARY = "run a private etcd in the foreground, for development"
_EXAMPLES = """\
examples:
  coordkit server
  coordkit server --members 3 --data-dir ./etcd
  coordkit server --port 2379 --quiet

It listens on loopback only, without a password.  Standard output has the line that makes it the server of
all commands: export COORDKIT_URL=...  Ctrl-C and SIGTERM end it in good order.  Without --data-dir its data
goes with it; with one, the next server on that folder has the same members, ports and data.

exit status: 0 it was asked to end; 1 a server died; 2 the folder or the port cannot be used that way;
69 there is no etcd to run, or it does not start"""

LOOK_S = 0.2


def register(commands: Any) -> None:
    """Add `server`."""
    parser = options.command(commands, "server", _SUMMARY, _EXAMPLES, run)
    parser.add_argument("--members", type=int, choices=(1, 3, 5), help="of the cluster; default 1")
    parser.add_argument("--data-dir", metavar="DIR", help="where its data is kept; default: nowhere")
    parser.add_argument(
        "--port", type=options.count, help="for clients; default: the last one, or a free one"
    )
    options.document(parser)
    options.speech(parser)


def run(arguments: argparse.Namespace) -> int:
    """Start, tell, wait, stop."""
    from coordkit.testing import EtcdFailed, EtcdNotFound, kept

    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        cluster = kept.KeptCluster(arguments.members, arguments.data_dir, arguments.port)
        with cluster:
            _tell(cluster, arguments)
            return _watch_over(cluster)
    except (EtcdFailed, EtcdNotFound) as error:
        raise failure.CommandFailed(str(error), failure.UNREACHABLE) from error
    except OSError as error:
        raise failure.CommandFailed(f"{arguments.data_dir}: {error}", failure.USAGE) from error
    except _Asked:
        return 0  # while it started
    finally:
        signal.signal(signal.SIGTERM, before)


class _Asked(BaseException):
    """SIGTERM came."""


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise _Asked


def _tell(cluster: kept.KeptCluster, arguments: argparse.Namespace) -> None:
    if arguments.json:
        document = {
            "url": cluster.url,
            "version": cluster.version,
            "data_dir": None if cluster.kept is None else str(cluster.kept),
            "members": [{"endpoint": each.endpoint, "pid": each.pid} for each in cluster.members],
        }
        print(json.dumps(document), flush=True)
        return
    if not arguments.quiet:
        count = len(cluster.members)
        data = f"data in {cluster.kept}" if cluster.kept else "its data goes with it"
        print(f"etcd {cluster.version}, {count} member{'s' if count > 1 else ''}, {data}", file=sys.stderr)
        print(f"at {cluster.url}; Ctrl-C ends it", file=sys.stderr, flush=True)
    if arguments.verbose:
        for each in cluster.members:
            print(f"{each.endpoint}: pid {each.pid}, log {each.folder / 'etcd.log'}", file=sys.stderr)
    print(f"export COORDKIT_URL={shlex.quote(cluster.url)}", flush=True)


def _watch_over(cluster: kept.KeptCluster) -> int:
    """Until somebody asks it to end, or a server does of itself."""
    try:
        while all(each.running for each in cluster.members):
            time.sleep(LOOK_S)
    except (KeyboardInterrupt, _Asked):
        return 0
    dead = next(each for each in cluster.members if not each.running)
    raise failure.CommandFailed(f"the server at {dead.endpoint} died; {dead._tail()}")
