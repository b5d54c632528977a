"""What a siege does to a cluster, to the network and to those who are at work on it.

The dice are the siege's: the same seed does the same to the same members.

Cost: up to some seconds each.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from coordkit import coordinator, deadline, errors
from coordkit.testing import cluster as clusters
from coordkit.testing import direct, faults, netns, proxy
from coordkit.wire import messages

ALARM = "/etcdserverpb.Maintenance/Alarm"


class Besieger:
    """Does one thing after the other.

    Args:
        on: The cluster.
        proxies: Half of the clients come through these.
        coords: The clients.
        chance: Decides whom it hits, and how hard.
    """

    def __init__(
        self,
        on: clusters.EtcdCluster,
        proxies: Sequence[proxy.FaultProxy],
        coords: Sequence[coordinator.Coordinator],
        chance: random.Random,
    ) -> None:
        self._cluster = on
        self._network = on if isinstance(on, netns.NetnsCluster) else None
        self._proxies = proxies
        self._coords = coords
        self._chance = chance

    def strike(self) -> str | None:
        """Anything that can be done to this cluster; its name, or None when it failed.

        Whom it has hurt is well again by then.
        """
        kinds = {**FAULTS, **(NETWORK_FAULTS if self._network else {})}
        kind = self._chance.choice(list(kinds))
        try:
            kinds[kind](self)
            return kind
        except errors.CoordError:
            return None  # whom it was meant for has not yet got over the one before
        finally:
            self._cluster.leader(60)

    def kill_member(self) -> None:
        """Any of the three, for a second."""
        self._kill([self._chance.choice(self._cluster.members)])

    def kill_leader(self) -> None:
        """The leader, until another leads."""
        leader = self._cluster.leader(60)
        leader.kill()
        self._cluster.leader(60)
        leader.start()

    def kill_all(self) -> None:
        """All three, at the same time."""
        self._kill(list(self._cluster.members))

    def _kill(self, members: list[clusters.Member]) -> None:
        for member in members:
            member.kill()
        time.sleep(self._chance.uniform(0, 1))
        starting = [threading.Thread(target=member.start) for member in members]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join()

    def pause_leader(self) -> None:
        """SIGSTOP, for longer than the TTL of the sessions."""
        leader = self._cluster.leader(60)
        with faults.pause(leader):
            time.sleep(self._chance.uniform(1, 4))

    def move_leader(self) -> None:
        """Another one leads, in good order."""
        self._cluster.move_leader()

    def cut_off_leader(self) -> None:
        """Nothing passes between the leader and the others."""
        self._cut_off(self._cluster.leader(60))

    def cut_off_follower(self) -> None:
        """Nothing passes between one that follows and the others."""
        leader = self._cluster.leader(60)
        self._cut_off(self._chance.choice([each for each in self._cluster.members if each is not leader]))

    def _cut_off(self, member: clusters.Member) -> None:
        assert self._network is not None
        with faults.partition(self._network, member):
            time.sleep(self._chance.uniform(1, 6))

    def lose_one_way(self) -> None:
        """What one member sends to another is lost; what comes back arrives."""
        assert self._network is not None
        sender, receiver = self._chance.sample(self._cluster.members, 2)
        try:
            self._network.drop(sender, receiver)
            time.sleep(self._chance.uniform(1, 6))
        finally:
            self._network.heal()

    def end_session(self) -> None:
        """A lease is revoked."""
        faults.expire(self._chance.choice(self._coords).session)

    def compact(self) -> None:
        """History goes."""
        faults.compact(self._coords[0])

    def fill_up(self) -> None:
        """NOSPACE for a while: etcd refuses what puts."""
        member = self._cluster.leader(60)
        raised = messages.AlarmRequest(action=messages.AlarmRequest.ACTIVATE, alarm=1)
        direct.ask(member, ALARM, raised, messages.AlarmResponse)
        try:
            time.sleep(self._chance.uniform(0.2, 1.0))
        finally:
            self._end_alarm()

    def _end_alarm(self) -> None:
        """Until somebody has heard it: nothing would ever be put again."""
        ended = messages.AlarmRequest(action=messages.AlarmRequest.DEACTIVATE, alarm=1)
        limit = deadline.Deadline.after(60)
        while True:
            try:
                direct.ask(self._cluster.leader(60), ALARM, ended, messages.AlarmResponse)
                return
            except errors.CoordError:
                if limit.expired:
                    raise
                time.sleep(0.2)

    def reset_connections(self) -> None:
        """Half of the clients lose theirs."""
        for each in self._proxies:
            each.reset()

    def swallow_replies(self) -> None:
        """What half of the clients ask for happens, and nobody hears of it; then they are cut off."""
        for each in self._proxies:
            each.drop_reply_after_commit()
        time.sleep(self._chance.uniform(0.2, 1.0))
        for each in self._proxies:
            each.heal()


FAULTS: dict[str, Callable[[Besieger], None]] = {
    "member killed": Besieger.kill_member,
    "leader killed": Besieger.kill_leader,
    "all killed": Besieger.kill_all,
    "leader paused": Besieger.pause_leader,
    "leader moved": Besieger.move_leader,
    "lease revoked": Besieger.end_session,
    "compaction": Besieger.compact,
    "out of space": Besieger.fill_up,
    "connections reset": Besieger.reset_connections,
    "replies swallowed": Besieger.swallow_replies,
}
#: Where the members have a network of their own.
NETWORK_FAULTS: dict[str, Callable[[Besieger], None]] = {
    "leader cut off": Besieger.cut_off_leader,
    "follower cut off": Besieger.cut_off_follower,
    "one way lost": Besieger.lose_one_way,
}
