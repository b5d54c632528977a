"""A channel and its process: forks, stops, and gevent that comes too late."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

from tests.wire import peers
from tests.wire.peers import echo, hold

FORK = """
    import os, queue, sys, threading, time
    from coordkit import errors
    from coordkit.deadline import NEVER, Deadline
    from coordkit.wire import address, channel, grpc

    place = address.Address.parse(sys.argv[1])
    channel_ = channel.Channel.connect(place, Deadline.after(10))
    results = {}
    told = queue.Queue()

    def call(name):
        try:
            results[name] = channel_.call("/t/held", name.encode(), NEVER).decode()
        except BaseException as error:
            results[name] = type(error).__name__

    threads = [threading.Thread(target=call, args=(name,), daemon=True) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    stream = channel_.stream("/t/watch", told.put, told.put)
    assert channel_.call("/t/echo", b"all are there", Deadline.after(10))
    sockets = (channel_._outbox.sock, *channel_._inbox.sockets)
    opened = {sock.fileno(): os.fstat(sock.fileno()).st_ino for sock in sockets}
    if "locked" in sys.argv:
        # Held by a thread that is not there in the child, as it may be at any moment.
        channel_._board.mutex.acquire()
        channel_._rota._lock.acquire()

    report, written = os.pipe()
    child = os.fork()
    if child == 0:
        found = []
        for fd, inode in opened.items():
            try:
                if os.fstat(fd).st_ino == inode:
                    found.append(f"{fd} is open")
            except OSError:
                pass
        for attempt in (
            lambda: channel_.call("/t/echo", b"", Deadline.after(1)),
            lambda: channel_.stream("/t/echo", told.put, told.put),
        ):
            try:
                attempt()
                found.append("it did not raise")
            except errors.Closed as error:
                if "fork" not in str(error):
                    found.append(str(error))
        if channel_.usable:
            found.append("usable")
        if channel_.wait(channel.Waiter(), Deadline.after(5)):
            found.append("woken")
        stream.send(b"from the child")
        stream.cancel()
        channel_.close()
        if "survivors" in sys.argv:
            until = time.monotonic() + (5 if "gevent" in sys.modules else 0.2)
            while len(results) < 2 and time.monotonic() < until:
                time.sleep(0.01)
            found.append("survivors: " + " ".join(sorted(results.values())))
        if not told.empty():
            found.append(f"told {told.get()}")
        os.write(written, repr(found).encode())
        os._exit(0)
    if "locked" in sys.argv:
        channel_._board.mutex.release()
        channel_._rota._lock.release()
    os.close(written)
    print(os.read(report, 10_000).decode(), flush=True)
    sys.stdin.readline()
    for thread in threads:
        thread.join(10)
    print(sorted(results.items()), told.get(timeout=10), flush=True)
    print(channel_.call("/t/echo", b"the parent goes on", Deadline.after(10)).decode(), flush=True)
"""

STOPPED = """
    import sys, threading
    from coordkit.deadline import Deadline
    from coordkit.wire import address, channel

    place = address.Address.parse(sys.argv[1])
    channel_ = channel.Channel.connect(place, Deadline.after(10))
    results = {}

    def call(name):
        try:
            results[name] = channel_.call("/t/held", name.encode(), Deadline.after(1.0)).decode()
        except BaseException as error:
            results[name] = str(error)

    threads = [threading.Thread(target=call, args=(name,)) for name in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sorted(results.items()), flush=True)
"""

PATCHED_LATE = """
    import sys
    from coordkit import errors
    from coordkit.deadline import Deadline
    from coordkit.wire import address, channel

    place = address.Address.parse(sys.argv[1])
    before = channel.Channel.connect(place, Deadline.after(10))
    assert before.call("/t/m", b"", Deadline.after(10)) == b""
    from gevent import monkey
    monkey.patch_all()
    for attempt in (
        lambda: before.call("/t/m", b"", Deadline.after(10)),
        lambda: before.stream("/t/m", print, print),
    ):
        try:
            attempt()
        except errors.Closed as error:
            print(error, flush=True)
    before.close()
    after = channel.Channel.connect(place, Deadline.after(10))
    print(after.call("/t/m", b"after", Deadline.after(10)).decode(), flush=True)
"""


def script(request: peers.Request) -> None:
    """Echo, but for what the tests hold."""
    (echo if request.method == "/t/echo" else hold)(request)


def held(server: peers.Peer) -> list[peers.Request]:
    return [request for request in server.requests if request.method == "/t/held"]


class TestFork:
    def fork(self, peer, child, capfd, *options: str) -> str:
        """Run the program; returns what it said about the child.  The parent must have come through."""
        server = peer(script)
        process = child(FORK, str(server.address), *options)
        found = process.stdout.readline()
        assert "coordkit-" not in capfd.readouterr().err  # no thread of ours died noisily

        for request in held(server):
            request.reply(b"re: " + request.message)
        watches = [request for request in server.requests if request.method == "/t/watch"]
        watches[0].send(b"news")
        process.stdin.write("go on\n")
        process.stdin.flush()

        assert process.stdout.readline() == "[('one', 're: one'), ('two', 're: two')] b'news'\n"
        assert process.stdout.readline() == "the parent goes on\n"
        assert not any(request.reset for request in server.requests)
        assert b"from the child" not in watches[0].messages
        return found

    def test_the_child_can_do_nothing_and_the_parent_is_untouched(self, peer, child, capfd):
        """
        The child's copies of the descriptors are closed, its calls raise; the parent's replies all arrive.
        """
        assert self.fork(peer, child, capfd) == "[]\n"

    def test_greenlets_that_survive_in_the_child_end_there(self, peer, child, capfd, mode):
        """
        Under gevent the callers live on in the child: they raise, and read nothing of the parent's.
        """
        survivors = {"threads": "", "gevent": "Closed Closed"}

        found = self.fork(peer, child, capfd, "survivors")

        assert found == f"['survivors: {survivors[mode]}']\n"

    def test_locks_that_were_held_at_the_fork_hold_up_nobody(self, peer, child, capfd):
        """
        Who held them is not there in the child to release them.
        """
        assert self.fork(peer, child, capfd, "locked") == "[]\n"


class TestStop:
    def test_a_reply_that_came_while_the_process_was_stopped_counts(self, peer, child, eventually):
        """
        After SIGCONT the deadlines have passed, but the replies are there: they are read before time rules.
        """
        server = peer(script)
        process = child(STOPPED, str(server.address))
        eventually(lambda: len(held(server)) == 3)
        started_s = time.monotonic()

        os.kill(process.pid, signal.SIGSTOP)
        try:
            for request in held(server):
                request.reply(b"in time")
            eventually(lambda: time.monotonic() > started_s + 1.2)
        finally:
            os.kill(process.pid, signal.SIGCONT)

        assert process.stdout.readline() == "[('one', 'in time'), ('three', 'in time'), ('two', 'in time')]\n"

    def test_without_a_reply_the_deadline_rules(self, peer, child, eventually):
        """
        Looking once more does not mean waiting.
        """
        server = peer(script)
        process = child(STOPPED, str(server.address))
        eventually(lambda: len(held(server)) == 3)

        held(server)[0].reply(b"in time")

        results = process.stdout.readline()
        assert results.count("'in time'") == 1
        assert results.count("DEADLINE_EXCEEDED") == 2


class TestLatePatch:
    def test_a_connection_from_before_is_not_used_after_it(self, peer, tmp_path):
        """
        Its locks are native: a greenlet that waits on one would stop all others.
        """
        server = peer(echo)
        program = tmp_path / "late.py"
        program.write_text(textwrap.dedent(PATCHED_LATE))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, str(program), str(server.address)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

        *refusals, after = done.stdout.splitlines()
        assert len(refusals) == 2, done.stderr
        assert all("before gevent patched this process" in refusal for refusal in refusals)
        assert after == "after"


class TestThreads:
    def test_a_plain_call_needs_no_thread_of_ours(self, peer, opened, mode):
        """
        In threads the caller reads for itself; under gevent one greenlet does.
        """
        server = peer(echo)
        before = set(threading.enumerate())
        channel = opened(server.channel())

        assert channel.call("/t/m", b"x", peers.Deadline.after(peers.PATIENCE_S)) == b"x"

        ours = [one.name for one in set(threading.enumerate()) - before if one.name.startswith("coordkit")]
        assert len(ours) == {"threads": 0, "gevent": 1}[mode]
