"""`coordkit lock run` in a terminal, under a shell with job control, as a person uses it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

import pytest
from contract.players import wait_until
from lock_runs import COMMAND, environment
from shells import CTRL_C, CTRL_D, CTRL_Z, Shell

from coordkit.testing import processes

# Ctrl-C is awaited: a handler may run just before the program sleeps, and what it noted is looked at later.
READER = """
import signal, sys, threading
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
tell = lambda: print(signal.Signals(signal.sigwait([signal.SIGINT])).name, flush=True)
threading.Thread(target=tell, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    print("read", line, end="", flush=True)
"""
READY = "sh -c 'echo ready; read x; echo got $x'"


@pytest.fixture(autouse=True)
def _threads_only(mode: str) -> None:
    if mode != "threads":
        pytest.skip("the command is a process of its own, and never patched: tested in threads")


@pytest.fixture
def shell(etcd, namespace: str, tmp_path) -> Iterator[Shell]:
    """Knows `lock_run`, which takes options, --, and a command."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    typist = Shell(environment(f"etcd://{etcd.endpoint}/{namespace}"), str(tmp_path))
    try:
        typist.run(f"lock_run() {{ {' '.join(COMMAND)} a \"$@\"; }}")
        yield typist
    finally:
        typist.close()


def free(shell: Shell) -> bool:
    shell.run("lock_run -nq -- true")
    return shell.status() == 0


class TestForeground:
    def test_an_interactive_command(self, shell, tmp_path):
        """
        It reads, Ctrl-C is its own, and the shell has the terminal again behind it.
        """
        (tmp_path / "reader.py").write_text(READER)
        shell.starts(f"lock_run -- {sys.executable} reader.py")

        shell.reads("ready")
        shell.starts("a line")
        shell.reads("read a line")
        shell.types(CTRL_C)
        shell.reads("SIGINT")
        shell.starts("another")
        shell.reads("read another")
        shell.types(CTRL_D)
        shell.prompt()

        assert shell.status() == 0

    def test_ctrl_c_ends_it_and_what_is_around_it(self, shell):
        """
        130; a script goes no further, as it would not without us; and the lock is free.
        """
        shell.starts(f"bash -c '{' '.join(COMMAND)} a -v -- sleep 1000; echo the script went on'")
        shell.reads("runs as process")

        shell.types(CTRL_C)
        shown = shell.prompt()

        assert "went on" not in shown
        assert "goes on" not in shown  # nothing is left behind
        assert shell.status() == 130
        assert free(shell)

    def test_ctrl_z_and_fg(self, shell):
        """
        One job: it stops, the shell has the terminal; it goes on where it was.
        """
        shell.starts(f"lock_run -- {READY}")
        shell.reads("ready")

        shell.types(CTRL_Z)
        shell.reads("Stopped")
        shell.starts("fg")
        shell.starts("hello")

        shell.reads("got hello")
        shell.prompt()
        assert shell.status() == 0

    def test_stopped_for_too_long(self, shell):
        """
        A command that is stopped beyond the lease never goes on: somebody else may hold the lock by then.
        """
        shell.starts("lock_run --ttl 2 -- sh -c 'echo pid $$; read x; echo it went on'")
        pid = int(shell.reads(r"pid (\d+)")[1])

        shell.types(CTRL_Z)
        shell.reads("Stopped")
        shell.prompt()
        wait_until(lambda: not processes.lives(pid))  # although its supervisor is stopped
        shown = shell.run("fg")

        assert "the command was killed" in shown
        assert "it went on" not in shown
        assert shell.status() == 76

    def test_what_a_killed_command_did_to_the_terminal(self, shell):
        """
        Is undone.
        """
        shell.run("stty echo; stty -a > before")

        shell.run("lock_run -- sh -c 'stty raw -echo; kill -9 $$'")

        assert shell.status() == 137
        assert "differ" not in shell.run("stty -a > after; cmp before after")

    def test_a_shell_that_suspends_itself(self, shell):
        """
        An interactive shell is a command like any other.
        """
        shell.starts("lock_run -- bash --norc --noprofile --noediting")
        shell.prompt()

        shell.starts("suspend")
        shell.reads("Stopped")
        shell.starts("fg")
        shell.starts("exit 4")
        shell.reads("exit")
        shell.prompt()

        assert shell.status() == 4


class TestPipeline:
    def test_the_command_may_ask_for_the_terminal(self, shell):
        """
        In a pipeline it has none to begin with, for the others need it, too.
        """
        shell.starts("lock_run -- sh -c 'echo ready; read x; echo got $x' | tr a-z A-Z")

        shell.reads("READY")
        shell.starts("hello")

        shell.reads("GOT HELLO")
        shell.prompt()
        assert shell.status() == 0

    def test_ctrl_c(self, shell):
        """
        Reaches the command and its neighbours.
        """
        shell.starts("lock_run -v -- sleep 1000 | cat")
        shell.reads("runs as process")

        shell.types(CTRL_C)
        shell.prompt()

        assert shell.status() == 130
        assert free(shell)

    def test_ctrl_z_bg_and_its_end(self, shell):
        """
        The pipeline is one job.
        """
        shell.starts("lock_run -- sh -c 'echo ready; sleep 0.2; echo done' | cat")
        shell.reads("ready")

        shell.types(CTRL_Z)
        shell.reads("Stopped")
        shell.starts("bg")

        shell.reads("done")


class TestBackground:
    def test_it_stops_when_it_reads_and_goes_on_in_the_foreground(self, shell):
        """
        As every job.
        """
        shell.starts(f"lock_run -- {READY} &")
        shell.reads("ready")

        wait_until(lambda: "Stopped" in shell.run("jobs"))
        shell.starts("fg")
        shell.starts("hello")

        shell.reads("got hello")
        shell.prompt()
        assert shell.status() == 0
