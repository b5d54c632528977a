"""Steps of the wall clock, as `libfaketime` shows them to one process: no session and no wait minds them."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

DAY_S = 86_400
HOLDER = """
    import json, sys, threading, time
    import coordkit
    from coordkit.deadline import boottime
    from coordkit.etcd import kv

    with coordkit.connect(sys.argv[1], ttl=2, namespace=sys.argv[2]) as coord, coord.lock("job") as lock:
        session = coord.session
        print(json.dumps({"wall": time.time()}), flush=True)
        for _ in sys.stdin:
            until = boottime() + 4  # twice the TTL: it was renewed since
            while session._pulse.deadline_s < until:
                threading.Event().wait(0.05)
                session.check()
            written = lock.txn().then(kv.put(f"/{sys.argv[2]}/written", b"")).commit().succeeded
            waited = not coord.lock("job").acquire(timeout=0.1)
            told = {"wall": time.time(), "state": session.state.name, "held": lock.held}
            print(json.dumps({**told, "written": written, "waited": waited}), flush=True)
"""


def library() -> pathlib.Path:
    """libfaketime, where Debian's package `faketime` and others put it."""
    found = [
        path
        for folder in ("/usr/lib", "/usr/local/lib", "/usr/lib64")
        for path in pathlib.Path(folder).glob("**/faketime/libfaketimeMT.so.1")
    ]
    if not found:
        pytest.skip("NO CLOCK IS STEPPED: libfaketime (the package faketime) is not installed")
    return found[0]


def test_a_clock_that_steps_costs_no_session(etcd, coord, mode, namespace, tmp_path):
    """
    A day forward, and a day back: the lock is held, writes pass, and a wait ends in its time.
    """
    steps = tmp_path / "steps"
    steps.write_text("+0")
    prelude = "from gevent import monkey; monkey.patch_all()\n" if mode == "gevent" else ""
    faked = {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(steps),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-c", prelude + textwrap.dedent(HOLDER), etcd.url, namespace],
        env={**os.environ, **faked},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        try:
            wall_s = json.loads(holder.stdout.readline())["wall"]
            for step in (1, -1):
                steps.write_text(f"{step:+d}d")
                holder.stdin.write("\n")
                holder.stdin.flush()
                told = json.loads(holder.stdout.readline())

                assert abs(told.pop("wall") - wall_s - step * DAY_S) < DAY_S / 2
                assert told == {"state": "ACTIVE", "held": True, "written": True, "waited": True}
            holder.stdin.close()
            assert holder.wait(30) == 0
        finally:
            holder.kill()
    assert not coord.lock("job").locked()
    assert coord.kv.delete(f"/{namespace}/written")
