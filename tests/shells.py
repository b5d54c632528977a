"""A shell in a terminal of its own, and somebody who types and reads there."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import threading
import time

PATIENCE_S = 20.0
PROMPT = "=> "

CTRL_C = "\x03"
CTRL_BACKSLASH = "\x1c"
CTRL_D = "\x04"
CTRL_Z = "\x1a"


class Shell:
    """An interactive bash: it has job control, and says `=> ` when it is ready.

    Nothing is echoed, so that what is read was said by a program.
    """

    def __init__(self, environment: dict[str, str], folder: str) -> None:
        self._ours, theirs = pty.openpty()
        self._text = ""
        self._seen = 0
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env={**environment, "PS1": PROMPT, "TERM": "dumb"},
            # The first terminal that the leader of a session opens becomes its own.
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(theirs), os.O_RDWR)),
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.prompt()
        self.run("stty -echo")

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._ours, 4096)
            except OSError:
                chunk = b""  # the last one who had it open has ended
            with self._news:
                self._text += chunk.decode(errors="replace")
                self._news.notify_all()
            if not chunk:
                return

    def types(self, text: str) -> None:
        """As a person does; control characters are what keys send."""
        os.write(self._ours, text.encode())

    def reads(self, pattern: str) -> re.Match[str]:
        """Wait until something new that matches was shown."""
        deadline_s = time.monotonic() + PATIENCE_S
        with self._news:
            while not (found := re.compile(pattern, re.MULTILINE).search(self._text, self._seen)):
                left_s = deadline_s - time.monotonic()
                assert left_s > 0, f"{pattern!r} was not shown in {self._text[self._seen :]!r}"
                self._news.wait(left_s)
            self._seen = found.end()
        return found

    def prompt(self) -> str:
        """Wait for it; what was shown before."""
        return self.reads(f"(?s)(.*?){PROMPT}")[1]

    def starts(self, line: str) -> None:
        """Type a line; what it shows comes later."""
        self.types(f"{line}\n")

    def run(self, line: str) -> str:
        """Type a line, wait for the next prompt; what was shown in between."""
        self.starts(line)
        return self.prompt().replace("\r", "")

    def status(self) -> int:
        """That of the last line."""
        return int(re.findall(r"^(\d+)$", self.run("echo $?"), re.MULTILINE)[0])

    def close(self) -> None:
        """Hang up."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        self._reader.join(PATIENCE_S)
