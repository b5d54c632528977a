"""Forked workers (gunicorn, greenlets that live on), and exits inside of a critical section."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable

import pytest
from contract.players import wait_until

import coordkit
from coordkit.testing import loopback

LIMIT_S = 50.0  # for a child, whatever it does, on a busy machine; a hang takes for ever
TTL_S = 2
AFTER_TTL_S = 3.0  # etcd's own slowness, on top of the TTL

Child = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def url(etcd, namespace: str) -> str:
    return f"etcd://{etcd.endpoint}/{namespace}"


@pytest.fixture
def left(coord, namespace: str) -> Callable[[], list[bytes]]:
    """The keys of this test's namespace; `coord` opens no session of its own."""
    return lambda: [found.key for found in coord.kv.range(f"/{namespace}/")]


def run(child: Child, source: str, *arguments: str) -> tuple[str, int]:
    """What a program said on stdout, and its exit status."""
    process = child(source, *arguments)
    said, _ = process.communicate(timeout=LIMIT_S)
    return said, process.returncode


class TestFork:
    def test_greenlets_that_live_on_in_the_child(self, child, url, left, mode):
        """
        A greenlet that waits in the parent ends in the child; it takes no reply of the parent's.
        """
        if mode != "gevent":
            pytest.skip("threads do not live on in a child; greenlets do")
        source = """
            import os, sys, gevent
            import coordkit

            coord = coordkit.connect(sys.argv[1], ttl=2)
            held = coord.lock("x")
            held.acquire()
            outcomes = []

            def wait():
                try:
                    outcomes.append(coord.lock("x").acquire(timeout=30))
                except coordkit.CoordError as error:
                    outcomes.append(type(error).__name__)

            waiter = gevent.spawn(wait)
            while len(held.contenders()) < 2:
                gevent.idle()
            pid = os.fork()
            if not pid:
                waiter.join(20)
                os._exit(0 if outcomes and outcomes[0] is not True else 3)
            assert os.waitpid(pid, 0)[1] == 0
            held.release()
            waiter.join(20)
            assert outcomes == [True], outcomes
            coord.close()
            print("done", flush=True)
            """

        assert run(child, source, url) == ("done\n", 0)

        wait_until(lambda: not left(), within_s=TTL_S + AFTER_TTL_S)


HOLD = """
import os, signal, sys, threading
import coordkit
from coordkit import coordinator

coordinator.EXIT_S = 15.0  # on a busy machine a goodbye takes longer than anybody would want to wait
signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
coord = coordkit.connect(sys.argv[1], ttl=60)
lock = coord.lock("x")

def never():
    threading.Event().wait(10)

with lock:
    print("inside", flush=True)
"""

#: How a process ends that is inside of `with lock:`, and with which status.
ENDS = {
    "sys.exit": ("    sys.exit(3)", 3),
    "an exception": ("    sys.stderr.close()\n    raise ValueError", 1),
    "SIGTERM that raises SystemExit": ("    os.kill(os.getpid(), signal.SIGTERM)\n    never()", 4),
    "Ctrl-C": (
        "    sys.stderr.close()\n    os.kill(os.getpid(), signal.SIGINT)\n    never()",
        -signal.SIGINT,
    ),
    "Ctrl-C while another waits": (
        "    waiter = threading.Thread(target=coord.lock('x').acquire, daemon=True)\n    waiter.start()\n"
        "    while len(lock.contenders()) < 2:\n        pass\n"
        "    sys.stderr.close()\n    os.kill(os.getpid(), signal.SIGINT)\n    never()",
        -signal.SIGINT,
    ),
}


class TestExit:
    @pytest.mark.parametrize("end", ENDS)
    def test_what_stays_of_a_lock(self, child, url, left, end):
        """
        Nothing: it is given back on the way out, and its lease of a minute revoked.
        """
        how, status = ENDS[end]

        said, returned = run(child, HOLD + how, url)

        assert (said, returned) == ("inside\n", status)
        assert left() == []


APP = """
import json, os, sys
sys.path.insert(0, {root!r})
{patch}
import coordkit

parent = coordkit.connect({url!r}, ttl=2)
held = parent.lock("parent")
held.acquire()
own = None

def app(environ, start_response):
    global own
    own = own or coordkit.connect({url!r}, ttl=2)
    with own.lock("worker") as lock:
        answer = dict(pid=os.getpid(), parent=parent._pid, fence=lock.fence, held=held.held)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
"""


class TestGunicorn:
    @pytest.mark.parametrize("worker", ["sync", "gevent"])
    def test_preload(self, url, left, tmp_path, worker, mode):
        """
        The parent connected and locked before the fork; each worker connects anew and has locks of its own.
        """
        if importlib.util.find_spec("gunicorn") is None:
            pytest.skip("gunicorn is not installed")
        if mode != "threads":
            pytest.skip("gunicorn is a process of its own: the run in plain threads tries both workers")
        root = os.path.dirname(os.path.dirname(coordkit.__file__))
        patch = "from gevent import monkey; monkey.patch_all()" if worker == "gevent" else ""
        (tmp_path / "served.py").write_text(APP.format(root=root, url=url, patch=patch))
        port = loopback.free_ports(1)[0]
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "--preload",
            "-w",
            "2",
            "-k",
            worker,
            "-b",
            f"127.0.0.1:{port}",
        ]
        process = subprocess.Popen(
            [*command, "--graceful-timeout", "5", "--log-level", "error", "served:app"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"},
        )
        try:
            answers = [wait_until(lambda: ask(port)) for _ in range(10)]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT_S)

        fences = [answer["fence"] for answer in answers]
        assert fences == sorted(set(fences))
        assert all(answer["pid"] != answer["parent"] == process.pid for answer in answers)
        assert not any(answer["held"] for answer in answers)
        wait_until(lambda: not left(), within_s=TTL_S + AFTER_TTL_S)


def ask(port: int) -> dict[str, int]:
    """What a worker answers; empty while none does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as reply:
            answer: dict[str, int] = json.load(reply)
            return answer
    except OSError:
        return {}
