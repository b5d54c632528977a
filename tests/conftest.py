"""What every test can ask for, beside the fixtures of coordkit's own plugin: a child process, a wait.

The suite runs twice: in plain threads, and with `python -m gevent.monkey --module pytest`.
COORDKIT_TEST_MODE says which of the two is meant, and a fixture proves that it is what runs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
import typing
from collections.abc import Callable, Iterator

import hypothesis
import pytest

#: Where coordkit is installed pytest has loaded its plugin already; a bare checkout has to name it.
pytest_plugins = [] if "pytest_coordkit" in sys.modules else ["pytest_coordkit"]

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATCHABLE = ["os", "queue", "select", "signal", "socket", "ssl", "subprocess", "threading", "time"]

# A shared machine is slow at times; a hang is caught by the limits around each test and the run.
hypothesis.settings.register_profile(
    "coordkit", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("coordkit")


# --- the run as a whole


def patched_modules() -> list[str]:
    """What gevent has patched in this process; asks without importing gevent."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return []
    return [name for name in PATCHABLE if monkey.is_module_patched(name)]


def announced_mode() -> str:
    """ "threads" or "gevent", as the run was announced; without an announcement, as it is."""
    return os.environ.get("COORDKIT_TEST_MODE") or ("gevent" if patched_modules() else "threads")


def pytest_configure() -> None:
    """What a script puts into the background, or nohup starts, ignores these, and hands that on."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGQUIT: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    for number, handler in usual.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_report_header() -> str:
    """The mode, on top of each run."""
    return f"mode: {announced_mode()}"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where nobody reads the reasons for skipping, a run in which nothing passed is no success."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    passed = reporter.stats.get("passed", []) if reporter else []
    if os.environ.get("CI") and exitstatus == 0 and not passed:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Share the modules of a mode with other processes: each is run by the one that claims it first."""
    folder = os.environ.get("COORDKIT_TEST_CLAIMS")
    if not folder or session.testsfailed or session.config.option.collectonly:
        return None  # pytest's own loop, which also says what could not be collected
    ours = claimed(session.items, pathlib.Path(folder))
    item = next(ours, None)
    while item is not None:
        following = next(ours, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail or session.shouldstop:
            raise session.Failed(session.shouldfail) if session.shouldfail else session.Interrupted(
                session.shouldstop
            )
        item = following
    return True


def claimed(items: list[pytest.Item], folder: pathlib.Path) -> Iterator[pytest.Item]:
    """The tests of those modules that nobody else has claimed; a module is claimed when its turn comes."""
    for path, tests in itertools.groupby(items, key=lambda item: item.path):
        try:
            (folder / path.relative_to(ROOT).as_posix().replace("/", "+")).touch(exist_ok=False)
        except FileExistsError:
            continue
        yield from tests


@pytest.fixture(scope="session", autouse=True)
def mode() -> str:
    """The run's mode, "threads" or "gevent", proven."""
    announced, patched = announced_mode(), patched_modules()
    assert patched == {"threads": [], "gevent": PATCHABLE}[announced], f"{announced}, but patched: {patched}"
    return announced


# --- servers: the plugin's, under the names that this project's tests use


@pytest.fixture(scope="session")
def etcd_binary(etcd_exec: str) -> str:
    """The path of an etcd server."""
    return etcd_exec


@pytest.fixture(scope="session")
def etcd(etcd_proc: object) -> object:
    """A server for the whole run; who kills or pauses a server starts one for that."""
    return etcd_proc


@pytest.fixture(scope="module")
def shared_network(etcd_binary: str) -> Iterator[object]:
    """A cluster of three whose members can be cut off from each other; where that cannot be had, a skip."""
    from coordkit.testing import netns

    if (why := netns.lacking()) is not None:
        pytest.skip(f"NO NETWORK OF OUR OWN, nothing is cut off here: {why}")
    quick = ("--heartbeat-interval=20", "--election-timeout=200")
    with netns.NetnsCluster(3, etcd_binary, arguments=quick) as cluster:
        yield cluster


@pytest.fixture
def networked(shared_network: typing.Any) -> typing.Any:
    """The same, whole, with all members up."""
    shared_network.heal()
    shared_network.start()
    return shared_network


@pytest.fixture
def namespace(coord_namespace: str) -> str:
    """A namespace that no other test has; that of `coord`."""
    return coord_namespace


# --- processes and waits


@pytest.fixture
def child(tmp_path: pathlib.Path, mode: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a Python program, given as source, in the mode of this run: `child(source, *arguments)`.

    Its stdin and stdout are pipes, its stderr is the test's.  It is killed when the test ends.
    """
    prelude = {"threads": "", "gevent": "from gevent import monkey; monkey.patch_all()\n"}[mode]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with contextlib.ExitStack() as stack:

        def start(source: str, *arguments: str) -> subprocess.Popen[str]:
            script = tmp_path / f"child-{secrets.token_hex(4)}.py"
            script.write_text(prelude + textwrap.dedent(source))
            process = subprocess.Popen(
                [sys.executable, str(script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def eventually() -> Callable[..., object]:
    """Waits for a state: `eventually(lambda: line.empty, within_s=10)` gives the first true result."""

    def wait(state: Callable[[], object], within_s: float = 10.0) -> object:
        deadline_s = time.monotonic() + within_s
        pause = threading.Event()
        while not (result := state()):
            assert time.monotonic() < deadline_s, f"this did not come true within {within_s:g} s"
            pause.wait(0.01)
        return result

    return wait
