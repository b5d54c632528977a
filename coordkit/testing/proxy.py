"""FaultProxy: a small TCP proxy whose faults are switched at run time.

It runs in a process of its own (`proxy_process.py`), so it works the same in threads and under gevent, and
goes on while the process under test is stopped or its hub is blocked.  When a method returns, its fault is
in force.

POSIX only.  Cost: one process; 50 us and a copy for each chunk that passes.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import types

import attrs

from coordkit import deadline, errors
from coordkit.testing import loopback, proxy_process
from coordkit.wire import address

ANSWER_S = 10.0  # within which the process answers a command, even on a busy machine


@attrs.frozen
class Traffic:
    """What has passed since the start."""

    accepted: int  # connections
    open: int  # of them
    requests_bytes: int  # sent to the target
    replies_bytes: int  # sent to clients
    swallowed_bytes: int  # came from the target, and no client ever saw them
    pieces: int  # in how many sends all that was sent went out


class FaultProxy:
    """A proxy on a free loopback port, in front of one server.

    Faults add up, until `heal()`; they concern the connections that there are and, where nothing else is
    said, those to come.  Used as a context manager, or with `start()` and `stop()`.  It dies with the process
    that started it.

    Args:
        target: The server: `host:port`, `https://host:port` (TLS passes through) or `unix:///path`.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._address = address.Address.parse(target)
        self._port = 0
        self._turn = threading.Lock()
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._commands = self._answers = -1
        self._heard = b""

    def __repr__(self) -> str:
        return f"<FaultProxy {self.endpoint} -> {self.target}>"

    def __enter__(self) -> FaultProxy:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.stop()

    # --- what it is

    @property
    def port(self) -> int:
        """On 127.0.0.1; kept from the start to the end, also while connections are refused."""
        return self._port

    @property
    def endpoint(self) -> str:
        """For clients, in place of the target."""
        return f"{'https://' if self._address.tls else ''}127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """For `coordkit.connect()`; under TLS that has to be given the certificates."""
        return f"etcd{'s' if self._address.tls else ''}://127.0.0.1:{self._port}/coordkit"

    @property
    def pid(self) -> int:
        """Its process id."""
        if self._process is None:
            raise errors.UsageError("this proxy is not running")
        return self._process.pid

    def traffic(self) -> Traffic:
        """What has passed so far."""
        return self._do("traffic")

    # --- what can go wrong

    def reset(self) -> None:
        """Cut every connection with a RST, on both sides, once; new ones are welcome."""
        self._do("reset")

    def half_open(self, requests: bool = True, replies: bool = True) -> None:
        """Keep connections open and forward nothing, as a pulled cable does.

        Nothing is lost: what is held, ends of connections included, flows on with `heal()`.

        Args:
            requests: Whether what clients send is held.
            replies: Whether what the server sends is held.
        """
        self._do("half_open", requests=requests, replies=replies)

    def delay(self, seconds: float) -> None:
        """Forward everything so much later, in either direction: a round trip takes twice as much longer."""
        if not seconds >= 0:
            raise errors.InvalidValue(f"seconds must not be negative or NaN: {seconds!r}")
        self._do("delay", seconds=seconds)

    def byte_by_byte(self) -> None:
        """Send one byte at a time, in either direction: some 20 us each, so 50 KB a second."""
        self._do("byte_by_byte")

    def drop_reply_after_commit(self) -> None:
        """Forward requests and swallow replies: what is asked for happens, and nobody hears of it.

        This concerns the connections that there are, to their end: cut them with `reset()` or `heal()`.
        Those made later are well.
        """
        self._do("drop_reply_after_commit")

    def garbage(self, seed: int | None = None) -> None:
        """Send random bytes to each client, at once and in place of whatever the server says.

        Args:
            seed: Makes them the same in each run.
        """
        self._do("garbage", seed=seed)

    def refuse(self) -> None:
        """Refuse new connections, as if nobody listened; those that there are stay."""
        self._do("refuse")

    def heal(self) -> None:
        """End all faults.  What was held or delayed is forwarded.

        Connections whose replies were swallowed or replaced by garbage cannot be healed, and are cut.
        """
        self._do("heal")

    # --- its process

    def start(self) -> None:
        """Start to listen."""
        self._owner = os.getpid()
        while self._process is None:
            self._port = loopback.free_ports(1)[0]
            self._spawn()
            try:
                self._hear()
            except errors.CoordError:
                status = self._reap()
                if status != proxy_process.PORT_IS_TAKEN:
                    raise

    def stop(self) -> None:
        """End it; its connections are cut.  Nothing to do when it was not started, or in a forked child."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._reap()

    def _spawn(self) -> None:
        where = self._address
        target = ["unix", where.path] if where.path else ["tcp", where.host, str(where.port)]
        # -I and -S: what is installed or set around us is not for this program.
        program = [sys.executable, "-I", "-S", str(pathlib.Path(proxy_process.__file__))]
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*program, str(self._port), *target],
                stdin=commands,
                stdout=answers,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.closerange(commands, commands + 1)
            os.closerange(answers, answers + 1)
        os.set_blocking(self._answers, False)

    def _reap(self) -> int:
        assert self._process is not None
        os.closerange(self._commands, self._commands + 1)
        os.closerange(self._answers, self._answers + 1)
        status = self._process.wait()
        self._process, self._heard = None, b""
        return status

    def _do(self, name: str, **arguments: object) -> Traffic:
        """Have a command obeyed."""
        if self._process is None or self._owner != os.getpid():
            raise errors.UsageError("this proxy is not running, or belongs to another process")
        with self._turn:
            try:
                os.write(self._commands, json.dumps([name, arguments]).encode() + b"\n")
            except BrokenPipeError as error:
                raise errors.CoordError(f"the process of {self} has ended") from error
            return self._hear()

    def _hear(self) -> Traffic:
        """One answer.  Read without blocking: a wait in the kernel would block a hub."""
        limit = deadline.Deadline.after(ANSWER_S)
        while b"\n" not in self._heard:
            try:
                received = os.read(self._answers, 4096)
                if not received:
                    raise errors.CoordError(f"the process of {self} has ended")
                self._heard += received
            except BlockingIOError:
                if limit.expired:
                    raise errors.DeadlineExceeded(f"the process of {self} does not answer") from None
                time.sleep(0.0005)
        line, _, self._heard = self._heard.partition(b"\n")
        return Traffic(**json.loads(line))
