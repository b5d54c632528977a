"""A real gRPC server by grpcio, as a program: prints its port, serves until its stdin ends.

usage: grpc_server.py [option=number ...]   (gRPC channel arguments without their "grpc." prefix)

It runs unpatched in a process of its own, whatever the mode of the tests.  A line "stop SECONDS" on stdin is
a graceful stop.
"""

from __future__ import annotations

import sys
import threading
from concurrent import futures

import grpc

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Service(grpc.GenericRpcHandler):
    """Methods that take and give bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = 0
        self._slow = 0

    def service(self, details):
        unary = {"/t/Echo": self.echo, "/t/Status": self.status, "/t/Slow": self.slow, "/t/Big": self.big}
        unary["/t/Cancelled"] = self.cancelled
        unary["/t/Started"] = self.started
        unary["/t/Metadata"] = self.metadata
        if details.method in unary:
            return grpc.unary_unary_rpc_method_handler(unary[details.method])
        if details.method == "/t/Count":
            return grpc.unary_stream_rpc_method_handler(self.count)
        if details.method == "/t/Chat":
            return grpc.stream_stream_rpc_method_handler(self.chat)
        return None

    def echo(self, request, context):
        return request

    def status(self, request, context):
        code, _, text = request.decode().partition(":")
        context.set_code(next(status for status in grpc.StatusCode if status.value[0] == int(code)))
        context.set_details(text)
        return b""

    def slow(self, request, context):
        """Replies after so many seconds, unless the call ends before."""
        ended = threading.Event()
        context.add_callback(ended.set)
        with self._lock:
            self._slow += 1
        if ended.wait(float(request)):
            with self._lock:
                self._cancelled += 1
        return b"slept"

    def cancelled(self, request, context):
        with self._lock:
            return str(self._cancelled).encode()

    def started(self, request, context):
        """How many slow calls have begun."""
        with self._lock:
            return str(self._slow).encode()

    def big(self, request, context):
        return bytes(int(request))

    def metadata(self, request, context):
        return dict(context.invocation_metadata()).get("token", "").encode()

    def count(self, request, context):
        for number in range(int(request)):
            yield str(number).encode()

    def chat(self, requests, context):
        for request in requests:
            yield b"re: " + request


def main(arguments: list[str]) -> None:
    pairs = (argument.split("=") for argument in arguments)
    options = [*UNLIMITED, *((f"grpc.{name}", int(value)) for name, value in pairs)]
    server = grpc.server(futures.ThreadPoolExecutor(220), handlers=[Service()], options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    for line in sys.stdin:
        server.stop(float(line.split()[1]))
    server.stop(0).wait(5)


if __name__ == "__main__":
    main(sys.argv[1:])
