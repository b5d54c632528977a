"""`coordkit lock run`: a command runs for exactly as long as the lock is held."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from contract.players import wait_until
from lock_runs import COMMAND, STUBBORN, Run, environment

from coordkit.cli import keeper
from coordkit.deadline import Deadline, boottime
from coordkit.etcd import lease
from coordkit.testing import FaultProxy, processes


@pytest.fixture(autouse=True)
def _threads_only(mode: str) -> None:
    if mode != "threads":
        pytest.skip("the command is a process of its own, and never patched: tested in threads")


@pytest.fixture
def url(etcd, namespace: str) -> str:
    return f"etcd://{etcd.endpoint}/{namespace}"


@pytest.fixture
def lock_run(url: str) -> Iterator[Callable[..., Run]]:
    """`lock_run("-n", "--", "true")` starts it."""
    started: list[Run] = []

    def start(*words: str, **given: object) -> Run:
        started.append(Run(given.pop("url", url), *words, **given))
        return started[-1]

    yield start

    for each in started:
        each.close()


def gone(*pids: int) -> bool:
    return not any(map(processes.lives, pids))


class TestStatus:
    def test_as_a_shell_has_it(self, lock_run):
        """
        The command's own, or 128 and the signal that ended it.
        """
        expected = {"exit 7": 7, "kill -9 $$": 137, "kill -INT $$": 130}

        runs = {script: lock_run(f"lock-{n}", "--", "sh", "-c", script) for n, script in enumerate(expected)}

        assert {script: run.end().status for script, run in runs.items()} == expected

    def test_no_program(self, lock_run, tmp_path):
        """
        Told before anybody is asked for the lock.
        """
        (tmp_path / "text").write_text("no program")
        nowhere = {"url": "127.0.0.1:1"}

        missing = lock_run("--", "no-such-program", **nowhere)
        refused = lock_run("--", str(tmp_path / "text"), **nowhere)

        assert (missing.end().status, refused.end().status) == (127, 126)

    def test_no_program_after_all(self, lock_run, tmp_path):
        """
        The kernel has the last word; the lock is given back.
        """
        script = tmp_path / "script"
        script.write_text("#!/no/such/interpreter\n")
        script.chmod(0o755)

        ended = lock_run("--", str(script)).end()

        assert ended.status == 127
        assert lock_run("-n", "--", "true").end().status == 0

    def test_not_acquired(self, lock_run, coord):
        """
        75, or what -E says; said with a reason, unless it shall be quiet.
        """
        with coord.lock("a"):
            runs = [
                lock_run(*words, "--", "echo", "it ran")
                for words in (["-n"], ["-w", "0.1", "-E", "9"], ["-nq"], ["-n", "--json"])
            ]
            at_once, later, quiet, told = (run.end() for run in runs)

        assert [each.status for each in (at_once, later, quiet, told)] == [75, 9, 75, 75]
        assert "it ran" not in at_once.out + later.out + quiet.out + told.out
        assert "lock 'a' was not acquired" in at_once.err
        assert quiet.err == ""
        assert json.loads(told.err.splitlines()[-1])["event"] == "not acquired"

    def test_unreachable(self, lock_run):
        """
        69, and the command does not run.
        """
        ended = lock_run("--timeout", "0.3", "--", "echo", "it ran", url="127.0.0.1:1").end()

        assert (ended.status, ended.out) == (69, "")

    @pytest.mark.parametrize(
        "words",
        [
            pytest.param(["-n"], id="no command"),
            pytest.param(["--"], id="an empty command"),
            pytest.param(["-n", "-w", "1", "--", "true"], id="two waits"),
            pytest.param(["-E", "256", "--", "true"], id="no status"),
            pytest.param(["--on-lost", "'", "--", "true"], id="an open quote"),
        ],
    )
    def test_usage(self, words, capsys):
        """
        2, with nothing done.
        """
        from coordkit.cli import main

        try:
            status = main.main(["lock", "run", "a", *words])
        except SystemExit as end:
            status = end.code

        assert status == 2
        assert capsys.readouterr().err


class TestCommand:
    def test_there_is_no_shell_and_the_second_dashes_are_its_own(self, lock_run):
        """
        Every word arrives as it was given.
        """
        words = ["$HOME", "*", "a b", "--", "-n", ";"]

        ended = lock_run("--", "printf", "%s\\n", *words).end()

        assert ended.out.splitlines() == words

    def test_stdin_and_further_files_are_passed(self, lock_run):
        """
        As a shell's redirections and `<(...)` need it.
        """
        reading, writing = os.pipe()
        os.write(writing, b"from a file\n")
        os.close(writing)

        run = lock_run("--", "sh", "-c", f"cat; cat /dev/fd/{reading}", pass_fds=[reading])
        os.close(reading)

        assert run.end("typed\n").out == "typed\nfrom a file\n"

    def test_its_environment_tells_of_the_lock(self, lock_run, coord):
        """
        Over what was inherited, from another run perhaps.
        """
        names = ("NAME", "KEY", "FENCE", "LEASE")
        stale = {f"COORDKIT_LOCK_{name}": "stale" for name in names}
        script = "echo " + " ".join(f"$COORDKIT_LOCK_{name}" for name in names) + "; cat"

        run = lock_run("--", "sh", "-c", script, env=stale)
        told = run.line().split(" ")

        (place,) = coord.lock("a").contenders()
        assert told == ["a", place.key.decode(), str(place.fence), f"{place.lease:016x}"]
        assert run.end("").status == 0

    def test_a_run_within_a_run(self, lock_run):
        """
        Of another lock: it tells of the inner one.  Of the same: refused, for it would wait for ever.
        """
        show = ["sh", "-c", "echo $COORDKIT_LOCK_NAME"]

        inner = lock_run("--", *COMMAND, "b", "--", *show)
        same = lock_run("c", "--", *COMMAND, "d", "--", *COMMAND, "c", "--", *show)
        tried = lock_run("e", "--", *COMMAND, "e", "-n", "--", *show)

        assert inner.end().out == "b\n"
        ended = same.end()
        assert (ended.status, ended.out) == (2, "")
        assert "wait for itself" in ended.err
        assert tried.end().status == 75

    def test_what_it_leaves_running_does_not_keep_the_lock(self, lock_run):
        """
        The command's end is the end; and it is said.
        """
        run = lock_run("--", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
        (left,) = run.numbers()

        ended = run.end()

        assert ended.status == 0
        assert "goes on without lock 'a'" in ended.err
        assert processes.lives(left)
        os.kill(left, signal.SIGKILL)

    def test_nobody_reads_what_is_said(self, lock_run):
        """
        That is no reason to disturb the command.
        """
        reading, writing = os.pipe()
        os.close(reading)

        run = lock_run("-v", "--", "sh", "-c", "cat; exit 3", stderr=writing)
        os.close(writing)

        assert run.end("").status == 3

    def test_streams_that_are_closed(self, url):
        """
        From the start, all three of them.
        """
        script = f"exec {' '.join(COMMAND)} a -v -- sh -c 'exit 3' <&- >&- 2>&-"

        ended = subprocess.run(["sh", "-c", script], env=environment(url))

        assert ended.returncode == 3

    def test_a_pipe_that_is_closed(self, url):
        """
        Ends the command as it would without us.
        """
        script = f"{{ {' '.join(COMMAND)} a -- yes; echo $? >&2; }} | head -1"

        ended = subprocess.run(["sh", "-c", script], env=environment(url), capture_output=True, text=True)

        assert (ended.stdout, ended.stderr) == ("y\n", "141\n")

    def test_the_script(self, url):
        """
        As it is installed.
        """
        script = pathlib.Path(sys.executable).parent / "coordkit"
        if not script.exists():
            pytest.skip("coordkit is not installed beside this Python")

        ended = subprocess.run([script, "lock", "run", "a", "--", "sh", "-c", "exit 5"], env=environment(url))

        assert ended.returncode == 5


class TestKinds:
    def test_shared_and_exclusive(self, lock_run, coord):
        """
        Readers stand beside each other, nobody beside a writer; the plain lock is another.
        """
        with coord.rwlock("a").read:
            runs = [lock_run(*words, "--", "true") for words in (["-ns"], ["-nx"], ["-n"])]

            assert [run.end().status for run in runs] == [0, 75, 0]

    def test_permits(self, lock_run, coord):
        """
        As many as there are; another number is refused.
        """
        with coord.semaphore("a", limit=2):
            other = lock_run("-n", "--permits", "3", "--", "true")
            run = lock_run("-n", "--permits", "2", "--", "sh", "-c", "echo; cat")
            run.line()

            assert lock_run("-n", "--permits", "2", "--", "true").end().status == 75
            assert run.end("").status == 0
            assert other.end().status == 2


#: Writes without a buffer: a handler must not come upon one that is in use.
TELL_SIGNALS = """
import os, signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, lambda number, frame: os.write(1, f"{signal.Signals(number).name}\\n".encode()))
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


class TestSignals:
    def test_are_passed_on(self, lock_run):
        """
        Each, once.
        """
        run = lock_run("--", sys.executable, "-c", TELL_SIGNALS)
        assert run.line() == "ready"

        told = []
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
            run.signal(signal.Signals[name])
            told.append(run.line())

        assert told == ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"]

    def test_reach_the_whole_group_and_free_the_lock(self, lock_run):
        """
        A command that a shell waits for ends, too.
        """
        run = lock_run("--", "sh", "-c", "sleep 1000 & echo $$ $!; wait")
        pids = run.numbers()

        run.signal(signal.SIGTERM)

        assert run.end().status == 128 + signal.SIGTERM
        wait_until(lambda: gone(*pids))
        assert lock_run("-n", "--", "true").end().status == 0

    def test_while_it_waits_it_leaves_the_line(self, lock_run, coord):
        """
        At once, not when its lease runs out.
        """
        lock = coord.lock("a")
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        with lock:
            runs = [lock_run("--ttl", "600", "--", "echo", "it ran") for _ in numbers]
            wait_until(lambda: len(lock.contenders()) == 1 + len(runs))

            for run, number in zip(runs, numbers, strict=True):
                run.signal(number)
            ended = [run.end() for run in runs]

            wait_until(lambda: len(lock.contenders()) == 1)
        assert [each.status for each in ended] == [128 + number for number in numbers]
        assert not any(each.out or "Traceback" in each.err for each in ended)

    def test_what_is_ignored_stays_ignored(self, url):
        """
        As nohup wants it.
        """
        script = f"trap '' HUP; exec {' '.join(COMMAND)} a -- {sys.executable} -c '{TELL_SIGNALS}'"
        told = subprocess.PIPE
        with subprocess.Popen(["sh", "-c", script], env=environment(url), stdout=told, text=True) as process:
            assert process.stdout.readline() == "ready\n"

            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGUSR1)

            assert process.stdout.readline() == "SIGUSR1\n"
            process.kill()

    def test_stop_and_go_on(self, lock_run):
        """
        Both stop, both go on; SIGSTOP is left to those who send it.
        """
        # A shell that waits for its vfork cannot be stopped: there is none.
        run = lock_run("--", "sh", "-c", "echo $$; exec cat", preexec_fn=os.setpgrp)
        (pid,) = run.numbers()

        run.signal(signal.SIGTSTP)
        wait_until(lambda: processes.states(pid) == {"T"} and processes.states(run.pid) == {"T"})
        run.signal(signal.SIGCONT)
        wait_until(lambda: "T" not in processes.states(pid) | processes.states(run.pid))

        assert run.end("").status == 0


class TestDeath:
    def test_of_the_supervisor(self, lock_run):
        """
        It cannot be caught; the whole group dies with it.
        """
        run = lock_run("--", *STUBBORN)
        pids = run.numbers()

        run.signal(signal.SIGKILL)

        wait_until(lambda: gone(*pids))

    @pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that kills a dead process's child")
    def test_of_supervisor_and_keeper(self, lock_run):
        """
        Somebody who is that thorough leaves no command behind; what that one started is out of reach.
        """
        run = lock_run("--", *STUBBORN)
        pid, further = run.numbers()
        children = pathlib.Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()

        for each in {*map(int, children)} - {pid}:
            os.kill(each, signal.SIGKILL)
        run.signal(signal.SIGKILL)

        wait_until(lambda: gone(pid))
        os.kill(further, signal.SIGKILL)

    def test_within_a_run(self, lock_run):
        """
        The outer one's end is the inner one's, and that of what it runs.
        """
        run = lock_run("--", *COMMAND, "b", "--", *STUBBORN)
        pids = run.numbers()

        run.signal(signal.SIGKILL)

        wait_until(lambda: gone(*pids))


class TestLoss:
    def test_a_revoked_lease_kills_at_once(self, lock_run, coord):
        """
        Somebody else may hold the lock already: no grace; 76; and --on-lost is run.
        """
        run = lock_run("--json", "--on-lost", "sh -c 'echo $COORDKIT_LOCK_NAME $0' lost", "--", *STUBBORN)
        pids = run.numbers()

        (place,) = coord.lock("a").contenders()

        lease.revoke(coord.client, place.lease, Deadline.after(5))
        ended = run.end()

        assert ended.status == 76
        assert ended.out == "a lost\n"
        assert "killed" in [json.loads(line)["event"] for line in ended.err.splitlines()]
        assert gone(*pids)

    def test_what_runs_on_a_loss_is_bounded(self, url, coord):
        """
        It cannot keep us from telling.
        """
        program = (
            "import sys; from coordkit.cli import main, supervisor; supervisor.ON_LOST_S = 0.1; "
            "sys.exit(main.main(sys.argv[1:]))"
        )
        words = ["lock", "run", "a", "--on-lost", "sleep 1000", "--", "sh", "-c", "echo ready; sleep 1000"]
        running = [sys.executable, "-c", program, *words]
        with subprocess.Popen(running, env=environment(url), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"

            (place,) = coord.lock("a").contenders()
            lease.revoke(coord.client, place.lease, Deadline.after(5))

            assert process.wait(20) == 76

    def test_an_outage_ends_the_command_before_the_lease(self, lock_run, etcd, namespace):
        """
        TERM comes a grace before the deadline: a command that obeys has ended in time.  76 all the same.
        """
        script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
        with FaultProxy(etcd.endpoint) as proxy:
            run = lock_run("--ttl", "2", "--", "sh", "-c", script, url=f"etcd://{proxy.endpoint}/{namespace}")
            assert run.line() == "ready"

            proxy.half_open()
            ended = run.end()

        assert (ended.status, ended.out) == (76, "bye\n")
        assert "ending the command" in ended.err
        assert "killed" not in ended.err

    def test_a_lock_that_cannot_be_given_back(self, lock_run, etcd, namespace):
        """
        It was held until the command ended: that status counts, and the lease runs out.
        """
        with FaultProxy(etcd.endpoint) as proxy:
            url = f"etcd://{proxy.endpoint}/{namespace}"
            script = "echo; cat; echo"
            run = lock_run("--ttl", "2", "--", "sh", "-c", script, url=url)
            impatient = lock_run("b", "--ttl", "600", "--", "sh", "-c", script, url=url)
            for each in (run, impatient):
                each.line()

            proxy.half_open()
            for each in (run, impatient):
                each.process.stdin.close()
                each.line()
            ended = run.process.wait(20)
            impatient.signal(signal.SIGTERM)

            assert (ended, impatient.process.wait(20)) == (0, 0)
            assert "not released" in run.process.stderr.read()
            assert "interrupted" in impatient.process.stderr.read()


class TestKeeper:
    @pytest.fixture
    def guarded(self) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
            yield process
            process.kill()

    def test_kills_at_the_deadline(self, guarded):
        """
        Of its own accord.
        """
        guard = keeper.Keeper()

        guard.guard(guarded.pid, boottime() + 0.05)

        assert guarded.wait(10) == -signal.SIGKILL
        guard.end()

    def test_a_later_deadline_counts(self, guarded):
        """
        The last one told; and when told to end it spares what it has guarded.
        """
        guard = keeper.Keeper()

        guard.guard(guarded.pid, boottime() + 0.3)
        guard.guard(guarded.pid, boottime() + 1000)
        with pytest.raises(subprocess.TimeoutExpired):
            guarded.wait(0.5)
        guard.end()

        assert guarded.poll() is None

    def test_is_replaced(self, guarded):
        """
        Somebody who kills it does not set the command free.
        """
        guard = keeper.Keeper()
        first = guard.pid
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: gone(first))

        guard.guard(guarded.pid, boottime() + 0.05)

        assert guarded.wait(10) == -signal.SIGKILL
        assert guard.pid != first
        guard.end()
