"""ZooKeeper and Redis, private and durable: each write is on the disk before it is answered, as with etcd.

Cost: a Java virtual machine's start, about two seconds; a Redis server's, a tenth of one.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence

from coordkit.testing import loopback

ZOOKEEPER = "/usr/share/zookeeper/bin/zkServer.sh"
START_S = 30.0


class Missing(Exception):
    """A server, or a client, that is not on this machine; the message says how to get it."""


@contextlib.contextmanager
def zookeeper() -> Iterator[str]:
    """A ZooKeeper on loopback; `host:port`."""
    if not pathlib.Path(ZOOKEEPER).exists():
        raise Missing("no ZooKeeper server: Debian's package is zookeeper")
    port, admin = loopback.free_ports(2)
    with tempfile.TemporaryDirectory(prefix="coordkit-zookeeper-") as folder:
        config = pathlib.Path(folder, "zoo.cfg")
        config.write_text(
            f"tickTime=1000\ndataDir={folder}/data\nclientPort={port}\nclientPortAddress=127.0.0.1\n"
            f"maxClientCnxns=0\nadmin.enableServer=false\nadmin.serverPort={admin}\n"
            f"4lw.commands.whitelist=ruok\n"
        )
        command = [ZOOKEEPER, "start-foreground", str(config)]
        with _running(command, port, folder):
            yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A Redis that syncs its log at each write; `host:port`."""
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("no redis-server: Debian's package is redis-server")
    (port,) = loopback.free_ports(1)
    with tempfile.TemporaryDirectory(prefix="coordkit-redis-") as folder:
        settings = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", folder]
        with _running([program, "--bind", "127.0.0.1", "--port", str(port), *settings], port, folder):
            yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def _running(command: Sequence[str], port: int, folder: str) -> Iterator[None]:
    log = pathlib.Path(folder, "server.log")
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            start_new_session=True,
        )
    try:
        _await(process, port, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], port: int, log: pathlib.Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    words = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise Missing(f"{process.args[0]} did not start: {' / '.join(words)}")  # type: ignore[index]
