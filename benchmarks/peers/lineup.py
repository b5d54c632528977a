"""Who is compared, what each promises, and whether it can be had on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import attrs

from benchmarks.peers import servers
from coordkit.cli.bench.primitives import Scenario

OURS = "coordkit"
GO_FOLDER = pathlib.Path(__file__).parent / "go"
GO_PATH = "/usr/share/gocode"
ROOT = pathlib.Path(__file__).resolve().parents[2]


@attrs.frozen
class Peer:
    """One client, on one kind of server."""

    name: str
    server: str  # "etcd", "zookeeper" or "redis"
    role: str  # of a worker process; Go's where `go` is set
    promise: str
    fenced: bool  # whether its order can be judged, not only its exclusion
    module: str = ""  # what must be importable
    primitive: str = "lock"  # of a role that has several
    store: str = "coordkit"  # what stands behind it: see `fillers`
    go: bool = False
    environment: str = ""  # of its own, below .venvs, where it cannot live with the others
    modes: tuple[str, ...] = ("processes", "threads")
    most: int | None = None  # processes that contend

    def unfit(self, scenario: Scenario) -> str | None:
        """Why it takes no part in it; None when it does."""
        if scenario.mode not in self.modes:
            return f"it takes no part with {scenario.mode}"
        if scenario.mode == "processes" and self.most and scenario.contenders > self.most:
            return f"it is measured with {self.most} processes at most"
        return None


_GOROUTINES = ("processes", "threads", "greenlets")  # they are what Go has for both
_GUARDED = "fair, fenced, guarded"
_HERE = "benchmarks.peers.mutexes:"
LOCKS = (
    Peer(OURS, "etcd", "contenders", _GUARDED, True, modes=("processes", "threads", "greenlets")),
    Peer("Go concurrency.Mutex", "etcd", "mutex", _GUARDED, True, go=True, modes=_GOROUTINES),
    Peer("kazoo Lock", "zookeeper", f"{_HERE}Kazoo", "fair", True, "kazoo"),
    Peer("etcdctl lock", "etcd", f"{_HERE}Etcdctl", "fair", False, modes=("processes",), most=8),
    Peer("etcd3 Lock", "etcd", f"{_HERE}Etcd3", "unfair", False, environment="peer-etcd3", most=8),
    Peer("tooz etcd3gw", "etcd", f"{_HERE}Tooz", "unfair", False, "tooz", most=8),
    Peer("redis-py Lock", "redis", f"{_HERE}RedisPy", "unfair, one server", False, "redis", most=8),
    Peer(
        "python-redis-lock", "redis", f"{_HERE}PythonRedisLock", "unfair, one server", False, "redis_lock",
        most=8,
    ),
)  # fmt: skip


_QUEUES = "benchmarks.peers.queues:"


def _go(name: str, role: str, promise: str, fenced: bool = True) -> Peer:
    return Peer(f"Go {name}", "etcd", role, promise, fenced, go=True, store="go", modes=_GOROUTINES)


def _kazoo(name: str, primitive: str, promise: str, store: str = "kazoo") -> Peer:
    role = f"{_QUEUES}Kazoo"
    return Peer(f"kazoo {name}", "zookeeper", role, promise, True, "kazoo", primitive, store)


def _ours(primitive: str, promise: str, name: str = OURS) -> Peer:
    """Each other name is a way of ours to do the same, compared as a peer is."""
    return Peer(name, "etcd", f"{_QUEUES}Ours", promise, True, primitive=primitive)


ELECTIONS = (
    Peer(OURS, "etcd", "contenders", _GUARDED, True, primitive="election"),
    _go("concurrency.Election", "election", _GUARDED),
    _kazoo("Election", "election", "fair"),
)
RWLOCKS = (
    Peer(OURS, "etcd", "contenders", _GUARDED, True, primitive="rwlock"),
    _go("recipes.RWMutex", "rwmutex", "fair", fenced=False),
    Peer("kazoo ReadLock, WriteLock", "zookeeper", f"{_HERE}Kazoo", "fair", True, "kazoo", "rwlock"),
)
SEMAPHORES = (
    Peer(OURS, "etcd", "contenders", _GUARDED, True, primitive="semaphore"),
    Peer("kazoo Semaphore", "zookeeper", f"{_HERE}Kazoo", "fair", False, "kazoo", "semaphore"),
)
COUNTERS = (
    Peer(OURS, "etcd", "contenders", "once, even in doubt", True, primitive="counter"),
    _go("STM counter", "counter", "unknown when in doubt"),
    _kazoo("Counter", "counter", "retried: may count twice"),
)
PUTS = (
    _ours("put", "FIFO"),
    _ours("put_many", "FIFO", "coordkit put_many(100)"),
    _go("recipes.Queue", "enqueue", "roughly FIFO"),
    _kazoo("Queue", "put", "FIFO"),
    _kazoo("LockingQueue", "locking put", "FIFO", "kazoo-locking"),
)
TAKINGS = (
    _ours("take", "claimed, acked"),
    _ours("take_many", "claimed, acked", "coordkit claim_many(100)"),
    _go("recipes.Queue", "dequeue", "dies with its consumer"),
    _kazoo("Queue", "take", "dies with its consumer"),
    _kazoo("LockingQueue", "locking take", "locked, consumed", "kazoo-locking"),
)
PEERS = {
    "lock": LOCKS,
    "rwlock": RWLOCKS,
    "semaphore": SEMAPHORES,
    "election": ELECTIONS,
    "counter": COUNTERS,
    "put": PUTS,
    "take": TAKINGS,
}


def why_not(peer: Peer) -> str | None:
    """What is missing on this machine; None when nothing is."""
    if peer.module and importlib.util.find_spec(peer.module) is None:
        return f"the Python package that brings {peer.module} is not installed"
    if peer.environment and not pathlib.Path(interpreter(peer)).exists():
        return f"it needs an environment of its own, .venvs/{peer.environment}: make bench-peers makes it"
    if peer.name == "etcdctl lock" and not etcdctl():
        return "no etcdctl"
    if peer.go:
        try:
            go_program()
        except servers.Missing as missing:
            return str(missing)
    return None


def interpreter(peer: Peer) -> str:
    """The Python that runs it."""
    return str(ROOT / ".venvs" / peer.environment / "bin" / "python") if peer.environment else sys.executable


def etcdctl() -> str | None:
    """The packaged one, else the one on PATH."""
    return shutil.which("etcdctl", path=os.path.dirname(sys.executable)) or shutil.which("etcdctl")


def go_program() -> str:
    """Our Go program, built if it is not there or older than its source.

    Raises:
        servers.Missing: It cannot be built here.

    Cost: half a minute the first time.
    """
    program = ROOT / "build" / "peer-go"
    sources = sorted(GO_FOLDER.glob("*.go"))
    newest = max(source.stat().st_mtime for source in sources)
    if program.exists() and program.stat().st_mtime > newest:
        return str(program)
    go = shutil.which("go")
    if go is None or not pathlib.Path(GO_PATH, "src/go.etcd.io/etcd/clientv3").exists():
        raise servers.Missing("no Go client of etcd: Debian's golang-go and golang-etcd-server-dev bring it")
    program.parent.mkdir(exist_ok=True)
    path = os.pathsep.join([GO_PATH, str(program.parent / "gopath")])
    done = subprocess.run(
        [go, "build", "-o", str(program), "."],
        cwd=GO_FOLDER,
        env={**os.environ, "GO111MODULE": "off", "GOPATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise servers.Missing(f"the Go program does not build: {done.stderr.strip().splitlines()[-1]}")
    return str(program)


def served(stack: contextlib.ExitStack, kinds: set[str], missing: dict[str, str]) -> dict[str, str]:
    """Start the servers of other kinds than etcd; `host:port` by kind, and in `missing` why there is none."""
    starts = {"zookeeper": servers.zookeeper, "redis": servers.redis}
    found = {}
    for kind in sorted(kinds & starts.keys()):
        try:
            found[kind] = stack.enter_context(starts[kind]())
        except servers.Missing as error:
            missing[kind] = str(error)
    return found
