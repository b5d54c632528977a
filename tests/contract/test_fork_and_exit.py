"""Forks and exits: a child starts from nothing, a parent notices nothing, and nobody hangs on the way out.

Everything happens in processes of their own, patched as this run is.  With a TTL of a minute, a key that is
gone was revoked.
"""

from __future__ import annotations

import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator

import pytest

from coordkit import coordinator
from coordkit.deadline import Deadline
from coordkit.etcd import lease as leases
from coordkit.testing import LocalEtcd

LONG_S = 60
EXIT_S = 50  # what a program may take on a busy machine; a hang takes for ever
GOODBYE_S = 15  # so long it may take to give back what it has, where that is not what is tested

BEGIN = """
    import os, signal, sys, threading
    import coordkit
    from coordkit import coordinator, errors

    url, ttl, coordinator.EXIT_S = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

    def outcome(action):
        try:
            return repr(action())
        except coordkit.CoordError as error:
            return type(error).__name__
"""


@pytest.fixture
def run(child, etcd, namespace: str) -> Callable[..., subprocess.Popen[str]]:
    """`run(source, ttl)` starts a program that may use BEGIN's names."""

    def run(
        source: str, ttl: int = LONG_S, endpoint: str = etcd.endpoint, goodbye_s: float = GOODBYE_S
    ) -> subprocess.Popen[str]:
        program = textwrap.dedent(BEGIN) + textwrap.dedent(source)
        return child(program, f"etcd://{endpoint}/{namespace}", str(ttl), str(goodbye_s))

    return run


@pytest.fixture
def left(coord, namespace: str) -> Iterator[Callable[[], list[bytes]]]:
    """The keys that are there, asked on a connection of the test's own."""
    yield lambda: [each.key for each in coord.kv.range(f"/{namespace}/")]
    coord.kv.delete_prefix(f"/{namespace}/")


def output(process: subprocess.Popen[str]) -> list[str]:
    """What it printed, once it has ended."""
    text, _ = process.communicate(timeout=EXIT_S)
    return text.splitlines()


class TestFork:
    SOURCE = """
    def main():
        coord = coordkit.connect(url, ttl=ttl)
        session, lock, jobs = coord.session, coord.lock("a"), coord.queue("jobs")
        lock.acquire()
        jobs.put("x")
        jobs.get()
        told = []
        session.add_listener(told.append)
        lost = session.lost
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            seen = [
                session.state.name, lost.is_set(), session.remaining(), lock.held, lock.lost.is_set(),
                outcome(session.check), outcome(lock.check), outcome(lock.release),
                outcome(lambda: coord.session), outcome(coord.new_session),
                outcome(lambda: coord.kv.get("a")), outcome(lambda: coord.lock("b").acquire()),
                outcome(jobs.claim), outcome(lambda: jobs.claim(timeout=0.1)), outcome(jobs.get_nowait),
                coord.closed, outcome(coord.close), told,
            ]
            for line in seen:
                os.write(write, f"{line}\\n".encode())
            with coordkit.connect(url, ttl=ttl) as own:
                with own.lock("b") as other:
                    os.write(write, f"{other.held} {own.session.lease_id != session.lease_id}\\n".encode())
                    os.write(write, f"{outcome(lambda: own.lock('a').acquire(blocking=False))}\\n".encode())
            sys.exit(7)
        os.close(write)
        _, status = os.waitpid(pid, 0)
        with os.fdopen(read) as pipe:
            print(pipe.read(), end="")
        print("status", os.waitstatus_to_exitcode(status))
        print("parent", session.state.name, outcome(lock.check), outcome(lock.release), told)

    main()
    """

    def test_the_child_starts_from_nothing_and_the_parent_notices_nothing(self, run, left):
        """
        In the child all is lost and closed, without a word to anybody; it can connect anew.

        Its exit, with all that runs then, costs the parent nothing.
        """
        seen = output(run(self.SOURCE))

        assert seen == [
            *("LOST", "True", "0.0", "False", "True"),
            *("SessionLost", "LockLost", "LockLost"),
            *("Closed", "Closed", "Closed", "Closed"),
            *("Closed", "Closed", "Closed"),
            *("True", "None", "[]"),
            "True True",
            "False",
            "status 7",
            "parent ACTIVE None None []",
        ]
        assert left() == []

    def test_a_fork_at_any_moment(self, run):
        """
        Whatever other threads were doing when it forked, and whatever they held: the child gets through.
        """
        source = """
        coord = coordkit.connect(url, ttl=ttl)
        session = coord.session
        stop = threading.Event()

        def busy(number):
            lock = coord.lock(f"busy{number % 2}")
            while not stop.is_set():
                with lock:
                    lock.lost.wait(0.0001)
                    session.lost.wait(0.0001)

        threads = [threading.Thread(target=busy, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for round_ in range(20):
            pid = os.fork()
            if pid == 0:
                signal.alarm(30)
                assert session.state.name == "LOST"
                assert outcome(coord.close) == "None"
                assert outcome(lambda: coord.lock("a").acquire(blocking=False)) == "Closed"
                with coordkit.connect(url, ttl=ttl) as own, own.lock(f"own{round_}"):
                    pass
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            assert status == 0, (round_, status)
            stop.wait(0.003)
        stop.set()
        for thread in threads:
            thread.join()
        print(session.state.name)
        coord.close()
        """

        assert output(run(source)) == ["ACTIVE"]

    def test_a_fork_while_somebody_holds_an_events_lock(self, run):
        """
        A thread was about to wait for `lost` when it forked: in the child it is set all the same.
        """
        source = """
        coord = coordkit.connect(url, ttl=ttl)
        lock = coord.lock("a")
        lock.acquire()
        events = [coord.session.lost, lock.lost]
        inner = [event._cond for event in events if hasattr(event, "_cond")]  # gevent's have none
        for each in inner:
            each.acquire()
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            os._exit(0 if all(event.is_set() for event in events) else 1)
        for each in inner:
            each.release()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), outcome(lock.release))
        """

        assert output(run(source)) == ["0 None"]

    def test_on_lost_exit_is_for_the_parent(self, run):
        """
        A child that inherits such a session is not ended for it.
        """
        source = """
        coord = coordkit.connect(url, ttl=ttl, on_lost="exit")
        session = coord.session
        pid = os.fork()
        if pid == 0:
            os._exit(5 if session.state.name == "LOST" else 6)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """

        assert output(run(source)) == ["5"]

    def test_a_child_without_a_connection_of_its_own_ends_quietly(self, run, left):
        """
        It ran no more than its exit: the parent's lease is there afterwards, and its lock held.
        """
        source = """
        coord = coordkit.connect(url, ttl=ttl)
        lock = coord.lock("a")
        lock.acquire()
        if os.fork() == 0:
            sys.exit()
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        print(outcome(lock.check), coord.kv.get(lock.key) is not None)
        """

        assert output(run(source)) == ["0", "None True"]
        assert left() == []


class TestMultiprocessing:
    @pytest.fixture
    def methods(self, mode: str) -> list[str]:
        """A fork under gevent takes the hub along, so only spawn is for it."""
        return {"threads": ["fork", "spawn", "forkserver"], "gevent": ["spawn"]}[mode]

    def test_children_revoke_when_they_end(self, run, methods, left):
        """
        They run no atexit functions before Python 3.13, and give back what they have all the same.
        """
        source = f"""
        import multiprocessing

        def work(number):
            coord = coordkit.connect(url, ttl=ttl)
            lock = coord.lock("a")
            assert lock.acquire()
            assert coord.kv.get(lock.key) is not None

        def main():
            coord = coordkit.connect(url, ttl=ttl)
            for method in {methods}:
                context = multiprocessing.get_context(method)
                for number in range(2):  # the second one needs the lock that the first one had
                    process = context.Process(target=work, args=(number,))
                    process.start()
                    while process.exitcode is None:  # under gevent, join() oversleeps the end
                        threading.Event().wait(0.01)
                    print(method, process.exitcode, coord.session.state.name)

        if __name__ == "__main__":
            main()
        """

        assert output(run(source)) == [f"{method} 0 ACTIVE" for method in methods for _ in range(2)]
        assert left() == []


class TestExit:
    @pytest.mark.parametrize(
        ("ending", "status"),
        [
            ("pass", 0),
            ("sys.exit(3)", 3),
            ("raise RuntimeError('on purpose')", 1),
            ("os.kill(os.getpid(), signal.SIGINT); threading.Event().wait(10)", -signal.SIGINT),
        ],
    )
    def test_what_it_held_is_free_at_once(self, run, left, ending, status):
        """
        However the program ends, as long as Python gets to say goodbye.
        """
        process = run(f"""
        coord = coordkit.connect(url, ttl=ttl)
        coord.lock("a").acquire()
        coord.new_session()
        print("held")
        {ending}
        """)

        assert output(process) == ["held"]
        assert process.returncode == status
        assert left() == []

    def test_what_cannot_be_given_back_stays_until_the_ttl(self, run, left, coord):
        """
        A process that is ended hard says no goodbye; and a critical section that still runs is not cut short.

        Its lock is there when the process is not, and goes with the lease.
        """
        source = """
        import _thread

        coord = coordkit.connect(url, ttl=ttl)
        lock, inside = coord.lock(f"of {os.getpid()}"), threading.Event()

        def work(stay=True):
            lock.acquire()
            print(lock.key.decode(), flush=True)
            inside.set()
            if stay:
                threading.Event().wait(60)
        """
        endings = [
            "work(stay=False); os._exit(0)",
            "work(stay=False); os.kill(os.getpid(), signal.SIGKILL)",
            "threading.Thread(target=work, daemon=True).start(); assert inside.wait(10)",
            "_thread.start_new_thread(work, ()); assert inside.wait(10)",  # under gevent a raw greenlet
        ]
        processes = [run(textwrap.dedent(source) + ending) for ending in endings]

        for process, ending in zip(processes, endings, strict=True):
            (key,) = output(process)
            stays = coord.kv.get(key)
            assert stays is not None and stays.lease, ending
            assert process.returncode == (-signal.SIGKILL if "SIGKILL" in ending else 0), ending
            leases.revoke(coord.client, stays.lease, Deadline.after(10))  # what etcd does when its time is up
        assert left() == []

    def test_threads_that_wait_do_not_keep_it(self, run, left):
        """
        Waiters, listeners and watches are under way: the program ends, and so does their place in line.
        """
        process = run("""
        coord = coordkit.connect(url, ttl=ttl)
        held = coord.lock("a")
        held.acquire()
        coord.session.add_listener(lambda state: threading.Event().wait(60))
        for number in range(5):
            threading.Thread(target=lambda: outcome(coord.lock("a").acquire), daemon=True).start()
        while len(held.contenders()) < 6:
            threading.Event().wait(0.01)
        print("in line")
        """)

        assert output(process) == ["in line"]
        assert process.returncode == 0
        assert left() == []

    def test_a_program_that_only_connected(self, run):
        """
        There is nothing to revoke, and nothing to wait for.
        """
        process = run("""
        coordkit.connect(url, ttl=ttl)
        coordkit.connect(url, ttl=ttl).close()
        print("connected")
        """)

        assert output(process) == ["connected"]
        assert process.returncode == 0

    def test_a_server_that_does_not_answer_does_not_keep_it(self, run, etcd_binary):
        """
        Revoking is tried for two seconds; then the leases are left to run out.
        """
        quick = ("--heartbeat-interval=10", "--election-timeout=100")
        source = """
        coord = coordkit.connect(url, ttl=ttl)
        coord.lock("a").acquire()
        for number in range(3):
            coord.new_session()
        print("ready", flush=True)
        sys.stdin.readline()
        """
        with (
            LocalEtcd(etcd_binary, arguments=quick) as mute,
            LocalEtcd(etcd_binary, arguments=quick) as gone,
        ):
            processes = [
                run(source, endpoint=server.endpoint, goodbye_s=coordinator.EXIT_S) for server in (mute, gone)
            ]
            for process in processes:
                assert process.stdout.readline() == "ready\n"
            mute.pause()
            gone.kill()

            for process in processes:
                process.stdin.write("\n")
                process.stdin.flush()

            for process in processes:
                assert process.wait(20) == 0

    def test_its_own_exit_functions_may_still_use_it(self, run, left, coord):
        """
        What was registered after connecting runs before our end.
        """
        process = run("""
        import atexit

        coord = coordkit.connect(url, ttl=ttl)
        lock = coord.lock("a")
        lock.acquire()

        @atexit.register
        def goodbye():
            print(outcome(lock.check), outcome(lock.release), outcome(lambda: coord.kv.get("a")))
        """)

        assert output(process) == ["None None None"]
        assert left() == []

    def test_no_native_thread_switches_greenlets_at_the_end(self, child, mode, etcd, namespace):
        """
        Python ends it in the middle of a switch: a segmentation fault.  So the heart has ended before.
        """
        if mode != "gevent":
            pytest.skip("a plain thread can be left to the interpreter")
        program = child(
            """
            import atexit, sys, time

            def count():
                print(len(sys._current_frames()))

            atexit.register(count)  # before coordkit's own, so it comes after them

            import coordkit

            coord = coordkit.connect(sys.argv[1])
            with coord.lock("a"):
                while len(sys._current_frames()) == 1:  # the heart's thread is starting
                    time.sleep(0.01)
            """,
            f"etcd://{etcd.endpoint}/{namespace}",
        )

        assert output(program) == ["1"]
