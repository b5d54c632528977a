"""A private etcd for tests, demos and benchmarks, on free loopback ports, stopped whatever happens.

The server keeps its data in a temporary folder; `lifeline.py` sees to it that neither outlives this process.

POSIX only.  Cost: two processes; 0.2 s for the first start, 1 s (etcd's election timeout) for each later one.
"""

from __future__ import annotations

import os
import pathlib
import platform
import secrets
import shutil
import signal
import subprocess
import time
import types
from collections.abc import Mapping, Sequence

from coordkit import deadline, errors
from coordkit.testing import etcd_program, lifeline, loopback, processes


class EtcdFailed(errors.CoordError):
    """The server did not start, or ended while it started; the message ends with its log."""


class LocalEtcd:
    """One etcd server of our own.

    Used as a context manager, or with `start()` and `stop()`.  It dies with the process that started it, and
    only that process may command it: in a forked child `stop()` does nothing.

    Args:
        binary: The server's path; by default the first of `COORDKIT_ETCD`, the `etcd` extra's, PATH.
        arguments: More of the server's command line options; they come last, so they win.
        environment: Added to the server's environment, from which every other `ETCD_*` is taken away.
        start_timeout_s: How long a start may take.

    Raises:
        EtcdNotFound: There is none.
    """

    def __init__(
        self,
        binary: str | os.PathLike[str] | None = None,
        *,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        start_timeout_s: float = 30.0,
    ) -> None:
        self.binary = etcd_program.find_etcd(binary)
        self._arguments = tuple(arguments)
        self._added_environment = dict(environment or {})
        self._start_timeout_s = start_timeout_s
        self._version: str | None = None
        self._name = ""
        self._client_port = self._peer_port = 0
        self._lifeline: lifeline.Lifeline | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __repr__(self) -> str:
        return f"<LocalEtcd {self.endpoint if self._lifeline else 'stopped'}>"

    def __enter__(self) -> LocalEtcd:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.stop()

    # --- what it is

    @property
    def endpoint(self) -> str:
        """`host:port` for clients; kept from the first start to `stop()`."""
        return f"127.0.0.1:{self._client_port}"

    @property
    def url(self) -> str:
        """For `coordkit.connect()`."""
        return f"etcd://{self.endpoint}/coordkit"

    @property
    def version(self) -> str:
        """As in "3.5.1"."""
        if self._version is None:
            self._version = etcd_program.version_of(self.binary)
        return self._version

    @property
    def etcdctl(self) -> str | None:
        """The path of the command line client: the server's neighbour, else the one on PATH."""
        neighbour = os.path.join(os.path.dirname(self.binary), "etcdctl")
        return shutil.which(neighbour) or shutil.which("etcdctl")

    @property
    def running(self) -> bool:
        """Whether the server's process lives; a paused one does."""
        return self._server is not None and self._server.poll() is None

    @property
    def pid(self) -> int:
        """The server's process id; another one after each start."""
        if self._server is None or self._server.poll() is not None:
            raise errors.UsageError("this etcd is not running")
        return self._server.pid

    @property
    def folder(self) -> pathlib.Path:
        """Where data and log are, until `stop()`."""
        if self._lifeline is None:
            raise errors.UsageError("this etcd was not started, or was stopped")
        return self._lifeline.folder

    # --- what can be done to it

    def start(self) -> None:
        """Start, and wait until it answers; after `kill()` on the same ports with the same data.

        Raises:
            EtcdFailed: It ended, or did not answer in time.
        """
        if self.running:
            return
        if self._lifeline is not None and not self._lifeline.ours:
            raise errors.UsageError("this etcd belongs to the process that made it, not to its forked child")
        limit = deadline.Deadline.after(self._start_timeout_s, "start_timeout_s")
        first = self._lifeline is None
        if first:
            self._name = f"coordkit-{secrets.token_hex(4)}"
            self._lifeline = lifeline.Lifeline("coordkit-etcd-")
        try:
            self._start(limit, first)
        except BaseException:
            if first:
                self.stop()
            else:
                self.kill()
            raise

    def stop(self) -> None:
        """End the server and remove its data.  Nothing to do when it was not started."""
        if self._lifeline is not None and self._lifeline.ours:
            self.kill()
            self._lifeline.cut()
            self._lifeline = None

    def kill(self) -> None:
        """End the server with SIGKILL; ports and data are kept for `start()`."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End the server in good order, and start it again on the same ports with the same data."""
        if self.running:
            self.resume()
            self._end(signal.SIGTERM)
        self.start()

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        processes.pause(self.pid)

    def resume(self) -> None:
        """SIGCONT."""
        processes.resume(self.pid)

    # --- how

    def _start(self, limit: deadline.Deadline, choose_ports: bool) -> None:
        """Spawn until one lives: a port that was free a moment ago can be taken by now."""
        while True:
            if choose_ports:
                self._client_port, self._peer_port = loopback.free_ports(2)
            self._spawn()
            try:
                return self._await_ready(limit)
            except EtcdFailed:
                if limit.expired or b"address already in use" not in self._log():
                    raise
            self._end(signal.SIGKILL)
            time.sleep(0.05)

    def _spawn(self) -> None:
        assert self._lifeline is not None
        with open(self.folder / "etcd.log", "ab") as log:
            self._log_start = log.tell()
            try:
                # A session of its own: a Ctrl-C is for the program, which may still need its server.
                self._server = subprocess.Popen(
                    self._command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env=self._environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise EtcdFailed(f"{self.binary} cannot be run: {error}") from error
        self._lifeline.guard(self._server.pid)

    def _command(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._client_port, self._peer_port))
        options = {
            "name": self._name,
            "data-dir": str(self.folder / "data"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"{self._name}={peer}",
            "initial-cluster-token": self._name,
        }
        return [self.binary, *(f"--{name}={value}" for name, value in options.items()), *self._arguments]

    def _environment(self) -> dict[str, str]:
        """etcd reads its options from `ETCD_*` too, and those around us are meant for another server."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        # Before 3.5, etcd runs on arm64 only when it is told to.
        arm = {"ETCD_UNSUPPORTED_ARCH": "arm64"} if platform.machine() in ("aarch64", "arm64") else {}
        return {**ours, **arm, **self._added_environment}

    def _await_ready(self, limit: deadline.Deadline) -> None:
        while not (self._is_me() and self._is_healthy()):
            if not self.running:
                raise EtcdFailed(f"{self.binary} ended while it started; {self._tail()}")
            if limit.expired:
                waited = f"{self._start_timeout_s:g} s"
                raise EtcdFailed(f"{self.binary} did not answer in {waited}; {self._tail()}")
            time.sleep(0.02)

    def _is_me(self) -> bool:
        """Whether it is our server that listens: on a port clash another one would look just as healthy."""
        members = loopback.get_json(self._peer_port, "/members")
        return isinstance(members, list) and any(member.get("name") == self._name for member in members)

    def _is_healthy(self) -> bool:
        health = loopback.get_json(self._client_port, "/health")
        return isinstance(health, dict) and str(health.get("health")).lower() == "true"

    def _end(self, how: signal.Signals) -> None:
        if self._server is None or self._lifeline is None or not self._lifeline.ours:
            return
        self._server.send_signal(how)
        try:
            # Open streams make etcd linger; what takes longer than this is stuck.
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None
        self._lifeline.guard(None)

    def _log(self) -> bytes:
        return (self.folder / "etcd.log").read_bytes()[self._log_start :]

    def _tail(self) -> str:
        lines = self._log().decode(errors="replace").strip().splitlines()
        # An option that is refused is named on the first line, before a page on all that exist.
        shown = lines if len(lines) <= 15 else [*lines[:3], "...", *lines[-12:]]
        return "its log:\n" + "\n".join(line[:500] for line in shown)
