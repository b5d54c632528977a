"""The process of one etcd server: started, asked, commanded, ended.

Where it listens and with whom it forms a cluster is decided by `LocalEtcd` and `EtcdCluster`.  The server
keeps its data in a temporary folder; `lifeline.py` sees to it that neither outlives this process.

POSIX only.  Cost: two processes.
"""

from __future__ import annotations

import os
import pathlib
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

import attrs

from coordkit import deadline, errors
from coordkit.testing import certificates, etcd_program, lifeline, listening, loopback, processes


class EtcdFailed(errors.CoordError):
    """The server did not start, or ended while it started; the message ends with its log."""


@attrs.frozen
class Launch:
    """How servers are started, wherever they listen."""

    binary: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    tls: certificates.Certificates | None
    also_on: tuple[str, ...]
    start_timeout_s: float

    @classmethod
    def of(
        cls,
        binary: str | os.PathLike[str] | None = None,
        *,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        tls: certificates.Certificates | None = None,
        also_on: Sequence[str] = (),
        start_timeout_s: float = 30.0,
    ) -> Launch:
        """From what a test wrote.

        Raises:
            EtcdNotFound: There is none.
        """
        found = etcd_program.find_etcd(binary)
        added = dict(environment or {})
        return cls(found, tuple(arguments), added, tls, listening.checked(also_on), start_timeout_s)


class EtcdServer:
    """One server.  Only the process that started it may command it: in a forked child nothing happens."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._version: str | None = None
        self._name = ""
        self._initial_cluster = ""
        self._host = loopback.HOST
        self._client_port = self._peer_port = 0
        self._enter: tuple[str, ...] = ()  # what runs the server somewhere else, as the same process
        self._lifeline: lifeline.Lifeline | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.endpoint if self._lifeline else 'stopped'}>"

    # --- what it is

    @property
    def binary(self) -> str:
        """The server's path."""
        return self._launch.binary

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
    def tls(self) -> certificates.Certificates | None:
        """The certificates that it uses."""
        return self._launch.tls

    @property
    def endpoint(self) -> str:
        """`host:port` for clients, or `https://host:port`; kept from the first start to the end."""
        return self.endpoints[0]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every way to this one server: first the IPv4 one, then those of `also_on`."""
        return self._listening.endpoints

    @property
    def url(self) -> str:
        """For `coordkit.connect()`; under TLS it names the client's certificate too."""
        return listening.url((self.endpoint,), self.tls)

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
        """Where data and log are, until the end."""
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
        if self._lifeline is None:
            raise errors.UsageError("this etcd was not started, or was stopped")
        if not self._lifeline.ours:
            raise errors.UsageError("this etcd belongs to the process that made it, not to its forked child")
        try:
            self._start(self._limit())
        except BaseException:
            self.kill()
            raise

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

    @property
    def _listening(self) -> listening.Listening:
        folder = self._lifeline.folder if self._lifeline else pathlib.Path()
        return listening.Listening(
            self._client_port, self._peer_port, folder, self._launch.also_on, self._launch.tls, self._host
        )

    def _limit(self) -> deadline.Deadline:
        return deadline.Deadline.after(self._launch.start_timeout_s, "start_timeout_s")

    def _start(self, limit: deadline.Deadline) -> None:
        """Spawn until one lives: a port of ours can be another program's for a moment."""
        while True:
            self._spawn()
            try:
                return self._await_ready(limit)
            except EtcdFailed:
                if limit.expired or not self._lacks_port():
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
                    [*self._enter, *self._command()],
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
        where = self._listening
        options = {
            "name": self._name,
            "data-dir": str(self.folder / "data"),
            "listen-client-urls": ",".join(where.client_urls),
            "advertise-client-urls": where.client_urls[0],
            "listen-peer-urls": where.peer_url,
            "initial-advertise-peer-urls": where.peer_url,
            "initial-cluster": self._initial_cluster,
            "initial-cluster-token": self._initial_cluster.partition("=")[0],
        }
        if self.tls is not None:
            options |= {"cert-file": self.tls.server.cert, "key-file": self.tls.server.key}
            options |= {"trusted-ca-file": self.tls.cacert, "client-cert-auth": "true"}
        return [
            self.binary,
            *(f"--{name}={value}" for name, value in options.items()),
            *self._launch.arguments,
        ]

    def _environment(self) -> dict[str, str]:
        """etcd reads its options from `ETCD_*` too, and those around us are meant for another server."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        # Before 3.5, etcd runs on arm64 only when it is told to.
        arm = {"ETCD_UNSUPPORTED_ARCH": "arm64"} if platform.machine() in ("aarch64", "arm64") else {}
        return {**ours, **arm, **self._launch.environment}

    def _await_ready(self, limit: deadline.Deadline) -> None:
        while not (self._is_me() and self._is_ready()):
            if not self.running:
                raise EtcdFailed(f"{self.binary} ended while it started; {self._tail()}")
            if limit.expired:
                waited = f"{self._launch.start_timeout_s:g} s"
                raise EtcdFailed(f"{self.binary} did not answer in {waited}; {self._tail()}")
            time.sleep(0.02)

    def _is_me(self) -> bool:
        """Whether it is our server that listens: on a port clash another one would look just as healthy."""
        members = loopback.get_json(self._peer_port, "/members", host=self._host)
        return isinstance(members, list) and any(member.get("name") == self._name for member in members)

    def _is_ready(self) -> bool:
        return self._listening.is_healthy()

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

    def _remove(self) -> None:
        """End it for good, with its data."""
        if self._lifeline is not None and self._lifeline.ours:
            self.kill()
            self._lifeline.cut()
            self._lifeline = None

    def _lacks_port(self) -> bool:
        return b"address already in use" in self._log()

    def _log(self) -> bytes:
        return (self.folder / "etcd.log").read_bytes()[self._log_start :]

    def _tail(self) -> str:
        lines = self._log().decode(errors="replace").strip().splitlines()
        # An option that is refused is named on the first line, before a page on all that exist.
        shown = lines if len(lines) <= 15 else [*lines[:3], "...", *lines[-12:]]
        return "its log:\n" + "\n".join(line[:500] for line in shown)
