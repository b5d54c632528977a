"""The first moments of a command: Ctrl-C before it has begun, while Python still imports."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

#: Strikes when a module is about to be imported.
STRIKER = """
import os, signal, sys

class Striker:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["STRIKE"]:
            os.kill(os.getpid(), signal.SIGINT)
        return None

sys.meta_path.insert(0, Striker())
"""

#: As pip writes it.
SCRIPT = """
import sys
from coordkit.cli.main import main
if __name__ == '__main__':
    sys.exit(main())
"""

#: Of the package, of what it needs, and of the command line: from the first one to the last.
MODULES = [
    "coordkit.coordinator",
    "google.protobuf",
    "coordkit.wire.messages",
    "attrs",
    "coordkit.session",
    "coordkit.recipes.topic",
    "coordkit.cli",
    "coordkit.cli.main",
    "argparse",
    "coordkit.cli.bench",
    "coordkit.cli.completion",
    "coordkit.cli.completion.bash",
]


@pytest.fixture(autouse=True)
def _threads_only(mode):
    if mode != "threads":
        pytest.skip("the command line is no program that gevent patches")


def start(folder: pathlib.Path, *command: object, strike: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(STRIKER)
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "STRIKE": strike}
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=50
    )


@pytest.mark.parametrize("strike", MODULES)
@pytest.mark.parametrize("how", ["module", "script"])
def test_ctrl_c_before_it_has_begun(tmp_path, how, strike):
    """
    Not a word, and the status of Ctrl-C, as later on.
    """
    script = tmp_path / "coordkit"
    script.write_text(SCRIPT)
    command = ["-m", "coordkit"] if how == "module" else [script]

    ended = start(tmp_path, *command, "completion", "bash", strike=strike)

    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_beside_a_checkout(tmp_path):
    """
    Seen from the folder that it is in, a clone's folder has the package's name, and nothing of it inside.
    """
    (tmp_path / "coordkit").symlink_to(ROOT, target_is_directory=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    ended = subprocess.run(
        [sys.executable, "-c", "import coordkit; print(coordkit.__version__)"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("name", ["coordkit", "other"])
def test_a_program_that_uses_the_library_keeps_its_signals(tmp_path, name):
    """
    Whatever it is called: KeyboardInterrupt comes out of the import, as of any other.
    """
    program = tmp_path / name
    program.write_text("try:\n    import coordkit\nexcept KeyboardInterrupt:\n    print('interrupted')\n")

    ended = start(tmp_path, program, strike="coordkit.session")

    assert (ended.returncode, ended.stdout) == (0, "interrupted\n")
