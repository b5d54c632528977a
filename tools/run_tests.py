"""Runs the tests in plain threads and under gevent, two processes for each, with a limit outside of them.

usage: run_tests.py [--all | --soak] [pytest arguments]

--all   on every Python 3.10 to 3.13 found, each in an environment of its own under .venvs
--soak  the long tests instead of the others, without a limit

COORDKIT_TEST_LIMIT_S (1800) bounds them together.  A blocked gevent hub stops every timer inside the
process, so only a limit from outside is certain to end a run.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import typing

ROOT = pathlib.Path(__file__).resolve().parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
MODES = {
    "threads": ["-m", "pytest"],
    "gevent": ["-m", "gevent.monkey", "--module", "pytest"],
}
SHARES = 2  # processes a mode; they divide its modules among them as they go
SHORT = ["-m", "not soak"]
LONG = ["-m", "soak", "--timeout=0", "-o", "faulthandler_timeout=0"]
FAILED = 1
NO_TESTS_RAN = 5
TIMED_OUT = 124


def run_modes(python: str, arguments: list[str], limit_s: float) -> dict[str, int]:
    """Run the tests in both modes, all processes at once, for they mostly wait; the processes' statuses.

    The first one prints as it goes, the others' output follows when they are done.
    """
    deadline_s = time.monotonic() + limit_s
    statuses: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        claims = {mode: stack.enter_context(tempfile.TemporaryDirectory()) for mode in MODES}
        runs: dict[str, tuple[subprocess.Popen[bytes], typing.IO[bytes] | None]] = {}
        for number in range(1, SHARES + 1):
            for mode in MODES:
                run = f"{mode} {number}"
                output: typing.IO[bytes] | None = None
                if runs:
                    output = stack.enter_context(tempfile.TemporaryFile())
                runs[run] = start(python, run, arguments, output, claims[mode]), output
        try:
            for run, (process, output) in runs.items():
                print(f"\n--- {run} of {SHARES} ---", flush=True)
                statuses[run] = wait_for(run, process, deadline_s)
                if output is not None:
                    output.seek(0)
                    print(output.read().decode(errors="replace"), flush=True)
        except KeyboardInterrupt:
            for process, _ in runs.values():
                end(process, signal.SIGINT)
            raise
    for run in [run for run, status in statuses.items() if status == FAILED]:
        print(f"\n--- {run}, what failed beside the others, alone: flaky, or wrong ---", flush=True)
        statuses[run] = wait_for(run, start(python, run, [*arguments, "--last-failed"], None), deadline_s)
    return without_idlers(statuses)


def without_idlers(statuses: dict[str, int]) -> dict[str, int]:
    """Less the processes that ran no test because another one of their mode ran all of them."""
    busy = {run.split()[0] for run, status in statuses.items() if status != NO_TESTS_RAN}
    return {
        run: status
        for run, status in statuses.items()
        if status != NO_TESTS_RAN or run.split()[0] not in busy
    }


def start(
    python: str, run: str, arguments: list[str], output: typing.IO[bytes] | None, claims: str = ""
) -> subprocess.Popen[bytes]:
    """One pytest process, in a session of its own so that whatever it started can be ended with it."""
    mode = run.split()[0]
    environment = {
        **os.environ,
        "COORDKIT_TEST_MODE": mode,
        "COORDKIT_TEST_CLAIMS": claims,
        "PYTHONFAULTHANDLER": "1",
    }
    # The tests start hundreds of programs: where nothing may be compiled for keeps, half of their time would
    # go into compiling.  What is kept here is ignored by git, and gone with `make clean`.
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        environment["PYTHONPYCACHEPREFIX"] = str(ROOT / ".pytest_cache" / "bytecode")
    errors = None if output is None else subprocess.STDOUT
    return subprocess.Popen(
        [python, *MODES[mode], "-o", f"cache_dir=.pytest_cache/{run.replace(' ', '-')}", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
    )


def wait_for(run: str, process: subprocess.Popen[bytes], deadline_s: float) -> int:
    """A run's exit status; one that takes too long is ended."""
    try:
        return process.wait(max(0.0, min(deadline_s - time.monotonic(), threading.TIMEOUT_MAX)))
    except subprocess.TimeoutExpired:
        print(f"\nThe {run} run is over its limit; every thread's stack follows.", flush=True)
        end(process, signal.SIGABRT)
        return TIMED_OUT


def end(process: subprocess.Popen[bytes], first: signal.Signals) -> None:
    """Ask with the first signal, wait for a while, then end all that the process started."""
    process.send_signal(first)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def find_python(version: str) -> str | None:
    """An interpreter of this version: on PATH, else pyenv's newest."""
    found = shutil.which(f"python{version}")
    roots = [pathlib.Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()]
    pyenv = shutil.which("pyenv")
    if pyenv:
        answer = subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip()
        roots += [pathlib.Path(answer)] if answer else []
    releases = {path for root in roots for path in root.glob(f"versions/{version}.*/bin/python{version}")}
    newest_first = sorted(releases, key=release, reverse=True)
    candidates = [*([found] if found else []), *map(str, newest_first)]
    return next((path for path in candidates if runs(path, version)), None)


def release(python: pathlib.Path) -> list[int]:
    """3, 11, 7 for pyenv's versions/3.11.7/bin/python3.11."""
    return [int(number) for number in re.findall(r"\d+", python.parts[-3])]


def runs(python: str, version: str) -> bool:
    """Whether this is that version: pyenv's shims exist for versions that they then refuse to run."""
    command = [python, "-c", "import sys; print('{}.{}'.format(*sys.version_info))"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.strip() == version


def run_everywhere(arguments: list[str], limit_s: float) -> dict[str, int]:
    """Run both modes on every Python found; the exit statuses by version and mode."""
    statuses: dict[str, int] = {}
    found = {version: python for version in VERSIONS if (python := find_python(version))}
    for version, python in found.items():
        print(f"\n=== Python {version}: {python} ===", flush=True)
        folder = f".venvs/{version}"
        done = subprocess.run([python, "-I", "tools/environment.py", folder, "test"], cwd=ROOT)
        if done.returncode:
            statuses[f"{version} environment"] = done.returncode
            continue
        results = run_modes(str(ROOT / folder / "bin" / "python"), arguments, limit_s)
        statuses.update({f"{version} {mode}": status for mode, status in results.items()})
    missing = [version for version in VERSIONS if version not in found]
    print(f"\nPythons run: {' '.join(found) or 'none'}; not found: {' '.join(missing) or 'none'}")
    if len(found) < 2 and os.environ.get("CI"):
        print("Fewer than two Pythons were found.")
        statuses["Pythons"] = 1
    return statuses


def main(arguments: list[str]) -> int:
    """The command line."""
    option = arguments.pop(0) if arguments[:1] in (["--all"], ["--soak"]) else ""
    limit_s = float(os.environ.get("COORDKIT_TEST_LIMIT_S") or 1800)
    if option == "--all":
        statuses = run_everywhere([*SHORT, *arguments], limit_s)
    elif option == "--soak":
        statuses = run_modes(sys.executable, [*LONG, *arguments], math.inf)
    else:
        statuses = run_modes(sys.executable, [*SHORT, *arguments], limit_s)
    print()
    words = {0: "ok", NO_TESTS_RAN: "no test ran", TIMED_OUT: "over its limit"}
    for name, status in statuses.items():
        print(f"{name}: {words.get(status, f'failed ({status})')}")
    return int(not statuses or any(statuses.values()))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
