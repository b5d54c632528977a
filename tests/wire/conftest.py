"""Fixtures of the wire's tests: channels that are closed in the end, and gRPC servers by grpcio."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import attrs
import pytest

from coordkit.deadline import Deadline
from coordkit.wire import address, channel
from tests.wire import peers

SERVER = pathlib.Path(__file__).with_name("grpc_server.py")


@attrs.define
class GrpcServer:
    """A server by grpcio in a child process."""

    process: subprocess.Popen[str]
    address: address.Address

    def channel(self) -> channel.Channel:
        return channel.Channel.connect(self.address, Deadline.after(peers.PATIENCE_S))

    def stop(self, grace_s: float) -> None:
        """Accept no more, say GOAWAY, and let what runs go on for a while."""
        self.process.stdin.write(f"stop {grace_s}\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def grpc_process(**options: int) -> Iterator[GrpcServer]:
    arguments = [f"{name}={value}" for name, value in options.items()]
    command = [sys.executable, str(SERVER), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            port = int(process.stdout.readline())
            yield GrpcServer(process, address.Address(host="127.0.0.1", port=port))
        finally:
            process.kill()


@pytest.fixture(scope="session")
def grpc_server() -> Iterator[GrpcServer]:
    """One without options, for all tests."""
    with grpc_process() as server:
        yield server


@pytest.fixture
def grpc_server_with() -> Iterator[Callable[..., GrpcServer]]:
    """One of the test's own: `grpc_server_with(max_concurrent_streams=2)`."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(grpc_process(**options))


@pytest.fixture
def opened() -> Iterator[Callable[[channel.Channel], channel.Channel]]:
    """`opened(channel)` has the channel closed in the end; then no thread of it is left."""
    channels: list[channel.Channel] = []
    threads_before = set(threading.enumerate())

    def keep(one: channel.Channel) -> channel.Channel:
        channels.append(one)
        return one

    yield keep

    for one in channels:
        one.close()
    for thread in set(threading.enumerate()) - threads_before:
        if thread.name.startswith("coordkit"):
            thread.join(peers.PATIENCE_S)
            assert not thread.is_alive(), f"{thread.name} outlives its channel"


@pytest.fixture
def peer(opened) -> Iterator[Callable[..., peers.Peer]]:
    """Starts a scripted server: `peer(script, MAX_CONCURRENT_STREAMS=2)`."""
    with contextlib.ExitStack() as stack:
        yield lambda *script, **settings: stack.enter_context(peers.Peer(*script, **settings))
