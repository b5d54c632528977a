"""ZooKeeper and Redis, private and durable: each write is on the disk before it is answered, as with etcd.

Cost: a Java virtual machine's start, about two seconds; a Redis server's, a tenth of one.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence

from coordkit.testing import lifeline, loopback

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
    with _folder("coordkit-zookeeper-") as line:
        folder = line.folder
        config = folder / "zoo.cfg"
        config.write_text(
            f"tickTime=1000\ndataDir={folder}/data\nclientPort={port}\nclientPortAddress=127.0.0.1\n"
            f"maxClientCnxns=0\nadmin.enableServer=false\nadmin.serverPort={admin}\n"
            f"4lw.commands.whitelist=ruok\n"
        )
        command = [ZOOKEEPER, "start-foreground", str(config)]
        with _running(command, port, line):
            yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A Redis that syncs its log at each write; `host:port`."""
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("no redis-server: Debian's package is redis-server")
    (port,) = loopback.free_ports(1)
    with _folder("coordkit-redis-") as line:
        settings = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", str(line.folder)]
        with _running([program, "--bind", "127.0.0.1", "--port", str(port), *settings], port, line):
            yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def _folder(prefix: str) -> Iterator[lifeline.Lifeline]:
    """Gone afterwards, as what runs in it is, however this process ends."""
    line = lifeline.Lifeline(prefix)
    try:
        yield line
    finally:
        line.cut()


@contextlib.contextmanager
def _running(command: Sequence[str], port: int, line: lifeline.Lifeline) -> Iterator[None]:
    log = line.folder / "server.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=line.folder,
            start_new_session=True,
        )
    line.guard(process.pid)
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
        line.guard(None)


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
