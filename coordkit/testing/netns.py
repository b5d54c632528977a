"""A cluster with a network of its own: members in network namespaces, between which packets can be dropped.

    with netns.NetnsCluster(3) as cluster:
        with partition(cluster, cluster.leader()):
            ...

The members meet on a bridge, which stands in a namespace of its own, and on which this machine's programs
reach them all: whatever members are cut off from each other, clients are not.  Packets are dropped by nft as
they arrive.  All that was made bears the network's name, and goes with `stop()`, or with the process that
made it, however that ends.

Linux only, for who may make network namespaces (root), with `ip` of iproute2 and `nft` of nftables.
Source: ip-netns(8), veth(4), nft(8).  Cost: some 20 short processes to make one, 1 for each drop.
"""

from __future__ import annotations

import functools
import os
import pathlib
import random
import secrets
import shutil
import subprocess

from coordkit import deadline, errors
from coordkit.testing import cluster, loopback

#: For measuring devices (RFC 2544), so nobody's in earnest; a network takes 256 addresses of it.
RANGE = ("198.18", "198.19")
OUTSIDE = 254  # the address of this machine
RULES = "table inet coordkit { chain arriving { type filter hook input priority 0; }; }"

_WATCHER = """
trap '' HUP INT QUIT TERM
read -r _
ip link del "$1" 2>/dev/null; shift
for name in "$@"; do ip netns del "$name" 2>/dev/null; done
"""


class NetworkFailed(errors.CoordError):
    """A network could not be made, or changed; the message says which command failed, and how."""


def run(*command: str, given: str | None = None) -> str:
    """A command's output.

    Raises:
        NetworkFailed: It is not there, or failed.
    """
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkFailed(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise NetworkFailed(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


@functools.cache
def lacking() -> str | None:
    """Why there can be no network of our own here; None where there can."""
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            return f"{program} is not on PATH"
    try:
        trial = Network(1)
        try:
            trial.make()
        finally:
            trial.remove()
    except NetworkFailed as error:
        return str(error)
    return None


class Network:
    """A bridge, and as many namespaces as there are members; they are counted from 0.

    Attributes:
        name: Every namespace and link that it makes begins with it.
    """

    def __init__(self, members: int) -> None:
        self.name = f"ck{secrets.token_hex(4)}"
        self._bridge = f"{self.name}-net"
        self.namespaces = tuple(f"{self.name}-{number}" for number in range(1, members + 1))
        self._range = f"{random.SystemRandom().choice(RANGE)}.{random.SystemRandom().randrange(256)}"
        self._watcher: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def address(self, member: int) -> str:
        """Where its servers listen."""
        return f"{self._range}.{member + 1}"

    def make(self) -> None:
        """Make all of it.

        Raises:
            NetworkFailed: What was made is removed by `remove()`.
        """
        names = (self._bridge, *self.namespaces)
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "sh", self.name, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        for name in names:
            run("ip", "netns", "add", name)
        self._in(self._bridge, "link", "add", "bridge", "type", "bridge")
        self._in(self._bridge, "link", "set", "bridge", "up")
        for number, namespace in enumerate(self.namespaces):
            link = f"member{number + 1}"
            self._in(self._bridge, "link", "add", link, "type", "veth", "peer", "eth0", "netns", namespace)
            self._plug_in(link)
            self._in(namespace, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
            self._in(namespace, "link", "set", "eth0", "up")
            self._in(namespace, "link", "set", "lo", "up")
            run("ip", "netns", "exec", namespace, "nft", "-f", "-", given=RULES)
        run("ip", "link", "add", self.name, "type", "veth", "peer", "outside", "netns", self._bridge)
        self._plug_in("outside")
        run("ip", "address", "add", f"{self._range}.{OUTSIDE}/24", "dev", self.name)
        run("ip", "link", "set", self.name, "up")

    def enter(self, member: int) -> tuple[str, ...]:
        """What to put before a command so that it runs in a member's namespace, as the same process."""
        return "ip", "netns", "exec", self.namespaces[member]

    def drop(self, sender: int, receiver: int) -> None:
        """From now on nothing that one member sends arrives at the other."""
        rule = f"add rule inet coordkit arriving ip saddr {self.address(sender)} drop"
        run(*self.enter(receiver), "nft", rule)

    def heal(self) -> None:
        """Everything arrives again."""
        for member in range(len(self.namespaces)):
            run(*self.enter(member), "nft", "flush", "chain", "inet", "coordkit", "arriving")

    def remove(self) -> None:
        """Remove what there is of it, links included.  Nothing to do in a forked child."""
        if self._watcher is None or self._owner != os.getpid():
            return
        # A namespace takes its links along in its own time; this one is seen by everybody.
        if pathlib.Path("/sys/class/net", self.name).exists():
            run("ip", "link", "del", self.name)
        for name in (self._bridge, *self.namespaces):
            if pathlib.Path("/run/netns", name).exists():
                run("ip", "netns", "del", name)
        self._watcher.communicate()
        self._watcher = None

    def _in(self, namespace: str, *command: str) -> None:
        run("ip", "-n", namespace, *command)

    def _plug_in(self, link: str) -> None:
        self._in(self._bridge, "link", "set", link, "master", "bridge", "up")


class NetnsCluster(cluster.EtcdCluster):
    """An `EtcdCluster` whose members can be cut off from each other; the arguments are the same.

    Raises:
        EtcdNotFound: There is no server.
        NetworkFailed: By `start()`; `lacking()` says beforehand why.
    """

    _network: Network | None = None

    def drop(self, sender: cluster.Member, receiver: cluster.Member) -> None:
        """Lose all that one member sends to another; what comes back arrives, until `heal()`."""
        self._built().drop(self.members.index(sender), self.members.index(receiver))

    def cut_off(self, *members: cluster.Member) -> None:
        """Lose all between these and the others, both ways, until `heal()`."""
        for other in self.members:
            for member in members if other not in members else ():
                self.drop(member, other)
                self.drop(other, member)

    def heal(self) -> None:
        """Every member reaches every other one again."""
        self._built().heal()

    def stop(self) -> None:
        """End the members, remove their data and their network."""
        super().stop()
        if self._network is not None:
            self._network.remove()
            self._network = None

    def _built(self) -> Network:
        if self._network is None:
            raise errors.UsageError(f"{self} was not started, or was stopped")
        return self._network

    def _start_anywhere(self, limit: deadline.Deadline) -> None:
        self._network = Network(len(self.members))
        self._network.make()
        ports = iter(loopback.free_ports(2 * len(self.members)))
        for number, member in enumerate(self.members):
            member._host, member._enter = self._network.address(number), self._network.enter(number)
            member._client_port, member._peer_port = next(ports), next(ports)
        self._found(limit)
