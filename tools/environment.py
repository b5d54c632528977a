"""Makes a virtual environment with this checkout and the named extras in it, unless it is there already.

usage: environment.py [--ready] FOLDER EXTRA[,EXTRA...]

The environment is of the Python that runs this file.  A stamp in it says what it was made from, so a second
run has nothing to do; another Python or another place of the checkout makes it anew, another setup.cfg
installs again.  With --ready nothing is made: the exit status is 0 when nothing would have to be.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent

#: Older ones cannot make a project without setup.py follow its checkout, or build old packages their own way.
LEAST_PIP = "pip>=23.1"


def identity() -> dict[str, str]:
    """What an environment is made from, its extras apart."""
    sources = hashlib.sha256()
    for name in ("setup.cfg", "pyproject.toml"):
        sources.update((ROOT / name).read_bytes())
    return {
        "checkout": str(ROOT),
        "base": sys.base_prefix,
        "version": sys.version,
        "sources": sources.hexdigest(),
    }


def prepare(folder: pathlib.Path, extras: set[str]) -> None:
    """Make `folder` an environment with the project and `extras` installed."""
    stamp = read_stamp(folder)
    wanted = identity()
    if is_ready(stamp, wanted, extras):
        return
    kept = all(stamp.get(key) == wanted[key] for key in ("checkout", "base", "version"))
    if not kept:
        create(folder)
    known = stamp.get("extras")
    if kept and isinstance(known, list):
        extras = extras | set(known)
    (folder / "coordkit.json").unlink(missing_ok=True)
    install(folder, extras)
    (folder / "coordkit.json").write_text(json.dumps({**wanted, "extras": sorted(extras)}))


def read_stamp(folder: pathlib.Path) -> dict[str, object]:
    """What `folder` was made from; empty when it was not finished, or is not ours."""
    try:
        stamp = json.loads((folder / "coordkit.json").read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and (folder / "bin" / "python").exists() else {}


def is_ready(stamp: dict[str, object], wanted: dict[str, str], extras: set[str]) -> bool:
    """Whether an environment with this stamp has all that is wanted."""
    known = stamp.get("extras")
    return wanted.items() <= stamp.items() and isinstance(known, list) and extras <= set(known)


def create(folder: pathlib.Path) -> None:
    """Make an empty environment with a pip in it, by the first way that works on this machine."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    site = folder / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    bare = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    ways: list[list[list[str]]] = [
        [[sys.executable, "-m", "venv", str(folder)]],
        # Debian and others keep ensurepip in a package of its own; a pip outside can install one inside.
        [bare, [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(site), LEAST_PIP]],
        [[sys.executable, "-m", "virtualenv", "--quiet", str(folder)]],
        [["uv", "venv", "--quiet", "--seed", "--python", sys.executable, str(folder)]],
    ]
    complaints = []
    for commands in ways:
        shutil.rmtree(folder, ignore_errors=True)
        complaint = first_complaint(commands)
        if complaint is None:
            return
        complaints.append(complaint)
    shutil.rmtree(folder, ignore_errors=True)
    version = "{}.{}".format(*sys.version_info)
    raise SystemExit(NO_ENVIRONMENT.format(python=sys.executable, version=version, first=complaints[0]))


NO_ENVIRONMENT = """\
{python} cannot make a virtual environment:

{first}

Install what it lacks (Debian and Ubuntu: apt install python{version}-venv), or choose another
Python with make PYTHON=/path/to/python3 ..."""


def first_complaint(commands: Sequence[Sequence[str]]) -> str | None:
    """Run the commands in order; what the first one that fails has to say, or None."""
    for command in commands:
        try:
            done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
        except OSError as error:
            return str(error)
        if done.returncode:
            return (done.stdout + done.stderr).strip()
    return None


def install(folder: pathlib.Path, extras: set[str]) -> None:
    """Install the project, so that it follows the checkout, and its extras."""
    named = ",".join(sorted(extras))
    say(f"installing coordkit[{named}] into {folder.name}: once, for a minute or so ...")
    python = str(folder / "bin" / "python")
    pip = [python, "-I", "-m", "pip", "-qq", "--disable-pip-version-check", "install"]
    for wanted in ([LEAST_PIP], ["--editable", f".[{named}]"]):
        done = subprocess.run([*pip, *wanted], env=clean_environment(), cwd=ROOT)
        if done.returncode:
            raise SystemExit(f"Installing into {folder} failed, see above; pip must reach a package index.")


def clean_environment() -> dict[str, str]:
    """Our environment variables, less those that would make pip install elsewhere."""
    elsewhere = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONHOME", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    return {**kept, "PIP_USER": "0"}


def say(line: str) -> None:
    """One line to whoever waits."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Only one process at a time works on this checkout's environments."""
    directory = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def main(arguments: list[str]) -> int:
    """The command line."""
    check_only = arguments[0] == "--ready"
    folder, extras = arguments[check_only:]
    wanted = set(extras.split(","))
    if check_only:
        return 0 if is_ready(read_stamp(ROOT / folder), identity(), wanted) else 1
    with alone():
        prepare(ROOT / folder, wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
