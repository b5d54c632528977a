"""What etcd says about itself, and what is wrong with that.  Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from coordkit.cli.doctor.finding import Finding, advice, problem, size
from coordkit.cli.doctor.refusals import out_of_space
from coordkit.etcd import pulse

SLOW_MS = 100.0  # a round trip from which heartbeats and hand-overs suffer
LAG_REVISIONS = 1000  # more than what is written while one endpoint is asked after the other
MUCH_HISTORY = 100_000  # revisions that nobody compacted
FULL = 0.8  # of the quota
SLACK_BYTES = 64 * 2**20  # of free pages in the file: less is not worth a defragmentation
NOSPACE, CORRUPT = "NOSPACE", "CORRUPT"


@attrs.frozen
class Endpoint:
    """What one endpoint said; `trouble` is why it is of no use to us."""

    url: str
    reached: bool = True  # it speaks etcd's language; otherwise all that follows is empty
    trouble: Finding | None = None
    dial_ms: float = 0.0
    round_trip_ms: float = 0.0
    version: str = ""
    cluster: int = 0
    member: int = 0
    leader: int = 0  # a member; 0: it sees none
    term: int = 0
    revision: int = 0
    learner: bool = False
    size_bytes: int = 0
    used_bytes: int = 0
    quota_bytes: int | None = None  # None: it does not tell
    alarms: tuple[str, ...] = ()
    reticent: bool = False  # it tells its state to root alone, and we are not root
    authenticates: bool | None = None  # None: we gave no user, so we did not ask

    @property
    def usable(self) -> bool:
        """Whether recipes could run on it."""
        return self.reached and self.trouble is None and not self.learner

    @property
    def role(self) -> str:
        """In the cluster, in a word."""
        if self.learner:
            return "learner"
        if self.reticent:
            return "a member"
        return "leader" if self.leader == self.member else "follower" if self.leader else "no leader"


@attrs.frozen
class LeaseClock:
    """One lease, seen by etcd and by us.  Seconds from when the grant was sent, on our clock."""

    asked_s: int
    granted_s: int
    deadline_s: float  # when we stop to rely on it
    end_s: float | None  # when etcd ends it, by its own word; None: it did not say
    drift: float = 0.0  # how much faster than ours its clock runs
    precision: float = 0.0  # of the drift
    blur_s: float = 0.0  # of the end: how long before or after it may be


# --- versions and members


def of_version(url: str, version: str) -> list[Finding]:
    """What is known to be wrong with a release."""
    number = _number(version)
    if number is None:
        return [advice(url, f"it says that it is version {version[:40]!r}", "is it etcd?")]
    if number < (3, 4):
        return [problem(url, f"etcd {version} is too old for coordkit", "upgrade to a maintained release")]
    if (3, 5, 0) <= number <= (3, 5, 2):
        text = f"etcd {version} can lose consistency in a crash, as 3.5.0 to 3.5.2 do"
        remedy = "good for development, not for production: upgrade to a maintained release"
        return [advice(url, text, remedy)]
    if number < (3, 4, 31) or (3, 5) <= number < (3, 5, 13):
        # 3.4.25 mended one way to lose events, 3.4.31 and 3.5.13 another: etcd's pull request 17555.
        text = f"etcd {version} can lose events of a watch; waits are then longer, never wrong"
        return [advice(url, text, "upgrade to a maintained release: 3.4.31, 3.5.13 or newer")]
    return []


def _number(version: str) -> tuple[int, ...] | None:
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in match.groups()) if match else None


def of_endpoints(endpoints: Sequence[Endpoint]) -> list[Finding]:
    """What each says, and whether they go together."""
    found = []
    for endpoint in endpoints:
        if endpoint.trouble is not None:
            found.append(endpoint.trouble)
        found += of_version(endpoint.url, endpoint.version) if endpoint.version else []
        found += _of_member(endpoint)
    reached = [endpoint for endpoint in endpoints if endpoint.reached and endpoint.cluster]
    return found + _of_cluster(reached) if reached else found


def _of_member(endpoint: Endpoint) -> list[Finding]:
    found = []
    if endpoint.learner:
        remedy = "take it from the endpoints until it is promoted: etcdctl member promote"
        found.append(problem(endpoint.url, "it is a learner: it answers next to nothing", remedy))
    elif endpoint.cluster and not endpoint.leader and not endpoint.reticent:
        remedy = "bring a majority of the members up again, and look at the network between them"
        found.append(problem(endpoint.url, "this member sees no leader, so nothing can be written", remedy))
    if endpoint.authenticates is False:
        text = "a user was given, but authentication is off: everybody may read and write everything"
        found.append(advice(endpoint.url, text, "etcdctl auth enable, or drop the user"))
    if endpoint.round_trip_ms > SLOW_MS:
        text = f"a round trip takes {endpoint.round_trip_ms:.0f} ms"
        found.append(advice(endpoint.url, text, "use a nearer endpoint; give locks a longer ttl"))
    return found


def _of_cluster(reached: Sequence[Endpoint]) -> list[Finding]:
    if len({endpoint.cluster for endpoint in reached}) > 1:
        named = ", ".join(f"{endpoint.url} to {endpoint.cluster:x}" for endpoint in reached)
        remedy = "name the endpoints of one cluster only: locks in two clusters exclude nobody"
        return [problem("endpoints", f"they belong to different clusters: {named}", remedy)]
    found = []
    if len({endpoint.leader for endpoint in reached if endpoint.leader and not endpoint.learner}) > 1:
        text = "they name different leaders: an election is going on"
        found.append(advice("endpoints", text, "look again"))
    newest = max(endpoint.revision for endpoint in reached)
    for endpoint in reached:
        if newest - endpoint.revision > LAG_REVISIONS:
            text = f"it is {newest - endpoint.revision} revisions behind the newest one"
            found.append(problem(endpoint.url, text, "look at its disk, its load and its network"))
    return found


# --- the lease's clock


def of_clock(clock: LeaseClock) -> list[Finding]:
    """Whether our deadline comes before etcd's, as all holds rely on."""
    found = []
    if clock.granted_s > clock.asked_s:
        text = f"etcd grants {clock.granted_s} s where {clock.asked_s} s are asked: its own least"
        found.append(advice("lease", text, "locks of dead processes are free that much later"))
    remedy = "look at the clocks of this machine and of etcd's leader: one of them runs wrongly"
    if clock.end_s is None:
        found.append(advice("lease", "etcd did not tell how its lease's time runs", "look again"))
    elif clock.end_s + clock.blur_s < clock.deadline_s:
        text = f"etcd ends a lease {clock.deadline_s - clock.end_s:.3f} s before we stop to rely on it"
        found.append(problem("lease", text, remedy))
    elif clock.drift - clock.precision > pulse.DRIFT:
        text = f"etcd's clock runs {clock.drift:.1%} faster than ours; {pulse.DRIFT:.0%} is allowed for"
        found.append(problem("lease", text, remedy))
    return found


# --- space


def of_space(endpoints: Sequence[Endpoint], compacted: int | None, revision: int) -> list[Finding]:
    """Whether there is room, and whether anybody makes some.

    Args:
        endpoints: That answered.
        compacted: The revision up to which history is gone; 0: all of it is there; None: not known.
        revision: The newest.
    """
    alarms = {alarm for endpoint in endpoints for alarm in endpoint.alarms}  # each member knows all of them
    full = any(NOSPACE in alarm for alarm in alarms)
    found = [out_of_space("space")] if full else []
    if any(CORRUPT in alarm for alarm in alarms):
        remedy = "stop writing, and follow etcd's guide to data corruption"
        found.append(problem("space", "a member says that its data is corrupt", remedy))
    for endpoint in endpoints:
        if not full and endpoint.quota_bytes and endpoint.size_bytes > FULL * endpoint.quota_bytes:
            part = endpoint.size_bytes / endpoint.quota_bytes
            remedy = "compact and defragment, or raise --quota-backend-bytes: a full etcd takes no write"
            found.append(problem(endpoint.url, f"its database fills {part:.0%} of its quota", remedy))
        elif endpoint.size_bytes - endpoint.used_bytes > max(endpoint.size_bytes / 2, SLACK_BYTES):
            unused = size(endpoint.size_bytes - endpoint.used_bytes)
            text = f"{unused} of its file's {size(endpoint.size_bytes)} are unused"
            found.append(advice(endpoint.url, text, f"etcdctl defrag --endpoints={endpoint.url}"))
    if compacted is not None and revision - compacted > MUCH_HISTORY:
        text = f"a history of {revision - compacted} revisions is kept: the database only grows"
        found.append(advice("space", text, "start etcd with --auto-compaction-retention=1h"))
    return found
