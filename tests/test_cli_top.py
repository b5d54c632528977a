"""`coordkit top`: what it shows, and how it leaves a terminal."""

from __future__ import annotations

import datetime
import io
import json
import os
import shutil
import signal
import termios

import pytest
from contract.players import queue_up
from terminals import COORDKIT, Terminal

from coordkit.cli import main, views
from coordkit.cli.top import frame, screen
from coordkit.etcd.results import KeyValue
from coordkit.inspection import census, reading
from coordkit.testing import LocalEtcd

ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.timezone.utc)


def place(path: str, revision: int, who: str) -> KeyValue:
    since = NOON - datetime.timedelta(seconds=100 - revision)
    value = json.dumps({"identity": who, "since": since.isoformat()}).encode()
    return KeyValue(f"/shop/{path}".encode(), value, revision, revision, 1, revision)


def seen(*found: KeyValue) -> frame.Frame:
    taken = census.take("shop", found, 99)
    times = {each.lease: reading.LeaseTime(10, 7) for each in found}
    return frame.Frame("h:1/shop", views.View(taken, times, NOON), taken.primitives, taken.sessions)


class TestFrame:
    def test_a_lock_is_its_holder_and_its_line(self):
        """
        How long each has held or waited, its fence, and what its lease has left; a long line is cut.
        """
        found = seen(*(place(f"lock/x/{n}", n, f"w{n}") for n in range(10, 18)))

        told = [each.split() for each in found.text().splitlines() if each.startswith(("x", "  "))]

        assert told[0] == ["x", "w10", "-", "10", "1m30s", "7", "of", "10", "s", "7"]
        assert told[1] == ["1.", "w11", "-", "11", "1m29s", "7", "of", "10", "s"]
        assert told[-1] == ["and", "2", "more"]

    @pytest.mark.parametrize("rich", [True, False])
    def test_a_screen_is_never_longer_than_the_terminal(self, rich, monkeypatch):
        """
        It says how much is left out; trouble is told first.
        """
        if not rich:
            monkeypatch.setattr(frame, "_rich", lambda table, columns: [])
        found = seen(*(place(f"lock/x{n}/1", n, "w") for n in range(10, 60)))

        shown = frame.lines(found, "etcd does not answer", 80, 20)

        assert len(shown) == 20
        assert shown[0] == "etcd does not answer"
        assert "more lines" in shown[-1]
        assert len(frame.lines(found, "", 80, 500)) < 100


@pytest.fixture
def url(mode, etcd, namespace) -> str:
    if mode != "threads":
        pytest.skip("the command line is no program that gevent patches")
    return f"etcd://{etcd.endpoint}/{namespace}"


class TestRounds:
    def test_rounds_are_printed(self, url, coord, coord_factory, capsys):
        """
        With -o -, or away from a terminal; as documents, one on each line.
        """
        lock = coord.lock("report")
        lock.acquire()
        (attempt,) = queue_up(coord_factory(identity="other").lock("report"))

        assert main.main(["top", "-o", "-", "-r", "2", "-d", "0.01", "--url", url]) == 0
        text = capsys.readouterr().out
        assert main.main(["top", "--json", "-r", "2", "-d", "0.01", "--url", url]) == 0
        documents = [json.loads(each) for each in capsys.readouterr().out.splitlines()]

        assert text.count("report") == 2 * 3  # the lock, and what two sessions hold and await
        assert text.count("\n  1. ") == 2
        assert [each["locks"][0]["waiters"][0]["identity"] for each in documents] == ["other", "other"]
        lock.release()
        attempt.wait_until_held().lock.release()

    def test_they_may_go_to_a_file(self, url, tmp_path, capsys):
        """
        A folder is none.
        """
        assert main.main(["top", "-o", str(tmp_path / "out"), "-r", "1", "--url", url]) == 0
        assert "revision" in (tmp_path / "out").read_text()
        assert main.main(["top", "-o", str(tmp_path), "-r", "1", "--url", url]) == 1
        assert "cannot write" in capsys.readouterr().err


class Interrupted(io.RawIOBase):
    """A terminal, as far as anybody looks; Ctrl-Z is typed in the middle of the first write to it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.written = b""

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, octets) -> int:
        if not self.written:
            signal.raise_signal(signal.SIGTSTP)
        self.written += bytes(octets)
        return len(octets)


class TestScreen:
    def test_it_is_stopped_in_the_middle_of_a_frame(self, mode, monkeypatch):
        """
        The terminal is given back and taken again past the buffer, where a frame is; that goes on.
        """
        if mode == "gevent":
            pytest.skip("the command line is no program that gevent patches")
        read, written = os.pipe()
        raw = Interrupted(written)
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BufferedWriter(raw)))
        stopped: list[tuple[int, int]] = []
        monkeypatch.setattr(screen.os, "kill", lambda *told: stopped.append(told))

        with screen.Screen() as shown:
            shown.draw(["the frame"])

        os.close(written)
        with open(read, "rb") as told:
            assert told.read().decode() == (screen._ENTER + screen._LEAVE) * 2
        assert stopped == [(os.getpid(), signal.SIGTSTP)]
        assert b"the frame" in raw.written


class TestTerminal:
    def test_it_shows_what_changes_until_q(self, url, coord):
        """
        A key is enough; modes and screen are as they were, also while Ctrl-Z has stopped it.
        """
        top = " ".join([*COORDKIT, "top", "-d", "0.1"])
        # A shell that knows jobs: the kernel stops nobody whom nobody could continue.
        shell = shutil.which("bash") or pytest.skip("bash is not installed")
        words = [shell, "-c", f"set -m; {top}; echo back; read -r; fg; echo done $?"]
        with Terminal(words, {"COORDKIT_URL": url}) as terminal:
            terminal.until(ENTERED).until("revision")
            with coord.lock("report"):
                terminal.until("report")
            terminal.type(b"\x1a")
            terminal.until(LEFT).until("back")
            stopped = termios.tcgetattr(terminal.slave)
            terminal.type(b"\n")
            terminal.until(ENTERED).until("revision")
            during = termios.tcgetattr(terminal.slave)
            terminal.type(b"\x1b[A")
            terminal.until("revision")
            terminal.type(b"q")

            assert terminal.end() == 0
            assert terminal.text.rpartition(LEFT)[2].split() == ["done", "0"]
            assert stopped == terminal.modes == termios.tcgetattr(terminal.slave)
            assert during != terminal.modes

    def test_a_silent_etcd_is_waited_for(self, mode, etcd_binary):
        """
        It is told, keys are heard meanwhile, and it goes on when etcd does.
        """
        if mode != "threads":
            pytest.skip("the command line is no program that gevent patches")
        with LocalEtcd(etcd_binary) as server:
            words = [*COORDKIT, "top", "-d", "0.1", "--timeout", "0.5", "--url", server.url]
            with Terminal(words, {}) as terminal:
                terminal.until("revision")
                server.pause()
                terminal.until("does not answer")
                server.resume()
                terminal.until_like(r"\x1b\[H\d\d:")  # a frame that does not begin with trouble
                server.pause()
                terminal.until("does not answer")
                terminal.type(b"q")

                assert terminal.end() == 0
            server.resume()

    @pytest.mark.parametrize(
        ("keys", "number", "status"),
        [(b"\x03", None, 130), (b"", signal.SIGTERM, 128 + signal.SIGTERM)],
        ids=["Ctrl-C", "SIGTERM"],
    )
    def test_whatever_ends_it_the_terminal_is_restored(self, url, keys, number, status):
        """
        Ctrl-C and signals, with the status that a shell expects.
        """
        with Terminal([*COORDKIT, "top"], {"COORDKIT_URL": url}) as terminal:
            terminal.until("revision")
            terminal.type(keys)
            if number is not None:
                terminal.send(number)

            assert terminal.end() == status
            assert LEFT in terminal.text
            assert "Traceback" not in terminal.text
            assert termios.tcgetattr(terminal.slave) == terminal.modes
