"""`coordkit lock run`: a command that does not mind TERM is gone before anybody else can hold the lock."""

from __future__ import annotations

import concurrent.futures
import contextlib
import random
import signal
from collections.abc import Callable, Iterator

import attrs
import pytest
from contract.players import wait_until
from lock_runs import STUBBORN, Run

import coordkit
from coordkit.deadline import Deadline
from coordkit.etcd import lease
from coordkit.testing import FaultProxy, LocalEtcd, processes

TTL_S = 2
LONG_S = 40.0  # until a lease has run out and a server is well again, on a busy machine


@pytest.fixture(autouse=True)
def _threads_only(mode: str) -> None:
    if mode != "threads":
        pytest.skip("the command is a process of its own, and never patched: tested in threads")


@attrs.frozen
class Scene:
    """What a fault may break."""

    name: str
    server: LocalEtcd
    proxy: FaultProxy
    run: Run
    rival: coordkit.Coordinator  # speaks to the server itself
    chance: random.Random


Fault = Callable[[Scene], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def silence(scene: Scene) -> Iterator[None]:
    """A pulled cable."""
    scene.proxy.half_open()
    yield


@contextlib.contextmanager
def deafness(scene: Scene) -> Iterator[None]:
    """Requests arrive, replies do not: etcd renews a lease whose owner does not know."""
    scene.proxy.half_open(requests=False)
    yield


@contextlib.contextmanager
def refusal(scene: Scene) -> Iterator[None]:
    """Connections are cut, and nobody listens."""
    scene.proxy.refuse()
    scene.proxy.reset()
    yield


@contextlib.contextmanager
def standstill(scene: Scene) -> Iterator[None]:
    """The supervisor is stopped: it renews nothing and kills nobody."""
    processes.pause(scene.run.pid)
    yield
    processes.resume(scene.run.pid)


@contextlib.contextmanager
def death(scene: Scene) -> Iterator[None]:
    """The supervisor is killed."""
    scene.run.signal(signal.SIGKILL)
    yield


@contextlib.contextmanager
def paused_server(scene: Scene) -> Iterator[None]:
    """etcd stands still for longer than the lease, or for less: then the supervisor is cut off, too."""
    scene.server.pause()
    wait_until(lambda: scene.run.process.poll() is not None or scene.chance.random() < 0.002, LONG_S)
    scene.server.resume()
    scene.proxy.half_open()
    yield


@contextlib.contextmanager
def killed_server(scene: Scene) -> Iterator[None]:
    """etcd dies; when it comes back it gives every lease its full time again."""
    scene.server.kill()
    scene.proxy.refuse()
    scene.server.start()
    yield


@contextlib.contextmanager
def revocation(scene: Scene) -> Iterator[None]:
    """Somebody ends the lease by hand: the rival holds the lock at that very moment."""
    (place,) = (each for each in scene.rival.lock(scene.name).contenders() if not each.mine)
    lease.revoke(scene.rival.client, place.lease, Deadline.after(LONG_S))
    yield


NETWORK: list[Fault] = [silence, deafness, refusal, standstill, death, revocation]
SERVER: list[Fault] = [paused_server, killed_server]


def one_round(server: LocalEtcd, namespace: str, fault: Fault, seed: int) -> str:
    """Let a stubborn command hold a lock, break something, and look who lives when a rival holds it."""
    name = f"{fault.__name__}-{seed}"
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(server.endpoint))
        rival = stack.enter_context(coordkit.connect(server.url, namespace=namespace, ttl=600))
        run = Run(f"etcd://{proxy.endpoint}/{namespace}?ttl={TTL_S}", name, "--", *STUBBORN)
        stack.callback(run.close)
        pids = run.numbers()
        assert len(pids) == 2, run.end().err
        lock = rival.lock(name)
        with fault(Scene(name, server, proxy, run, rival, random.Random(seed))):
            assert lock.acquire(timeout=LONG_S), f"{name}: the lock was never free"
            if fault is revocation:  # no deadline comes before: it is told, and kills then
                wait_until(lambda: not any(map(processes.lives, pids)))
            alive = [pid for pid in pids if processes.lives(pid)]
            lock.release()
        proxy.heal()
        status = run.end().status
        assert not alive, f"{name}: {alive} lived when somebody else held the lock"
        assert status == (-signal.SIGKILL if fault is death else 76), name
        return name


def all_rounds(plan: list[tuple[LocalEtcd, Fault, int]], namespace: str, at_once: int) -> None:
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        rounds = [pool.submit(one_round, server, namespace, fault, seed) for server, fault, seed in plan]
        done = [each.result() for each in rounds]
    assert len(done) == len(plan)


def test_one_round_of_each(etcd, etcd_binary, namespace):
    """
    Network, supervisor and server, all at the same time.
    """
    with LocalEtcd(etcd_binary) as own, LocalEtcd(etcd_binary) as another:
        servers = [(own, SERVER[0], 1), (another, SERVER[1], 1)]
        all_rounds([*((etcd, fault, 1) for fault in NETWORK), *servers], namespace, 8)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_hundred_rounds(etcd_binary, namespace):
    """
    Network and supervisor faults six at a time; a server's one after the other, each on a server of its own.
    """
    with LocalEtcd(etcd_binary) as shared:
        all_rounds([(shared, NETWORK[n % len(NETWORK)], n) for n in range(80)], namespace, 6)
    with contextlib.ExitStack() as stack:
        own = [stack.enter_context(LocalEtcd(etcd_binary)) for _ in range(2)]

        def series(server: LocalEtcd, first: int) -> None:
            for n in range(first, 20, len(own)):
                one_round(server, namespace, SERVER[n // 2 % len(SERVER)], n)

        with concurrent.futures.ThreadPoolExecutor(len(own)) as pool:
            for each in [pool.submit(series, server, n) for n, server in enumerate(own)]:
                each.result()
