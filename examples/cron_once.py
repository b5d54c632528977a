"""The same short job on several replicas whose clocks differ: each slot is run by exactly one of them.

usage: cron_once.py [URL]

A lock could not do this: the job is over, and the lock free again, when the replica whose clock is behind
asks for it.  From a crontab `coordkit once` does the same.
"""

import datetime
import subprocess
import sys
import time

import etcd_server

import coordkit

JOB = "cron-once"
REPLICAS = 3
SLOTS = 4
PERIOD = datetime.timedelta(minutes=5)
BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
SKEW_S = 0.1


def replicate(url: str, number: int) -> None:
    """A replica: its scheduler fires each slot, later than the others' by its number."""
    ran = []
    with coordkit.connect(url, identity=f"replica-{number}") as coord:
        for n in range(SLOTS):
            time.sleep(number * SKEW_S)
            # A scheduler that says for when it meant the run names the slot best; else `slot="5m"`.
            slot = (BEGIN + n * PERIOD).isoformat()
            once = coord.once(JOB, slot=slot, retention=3600)
            once.run(lambda slot=slot: ran.append(slot))
    print(len(ran))


def main() -> int:
    url = etcd_server.url(sys.argv[1] if len(sys.argv) > 1 else None)
    if len(sys.argv) > 2:
        replicate(url, int(sys.argv[2]))
        return 0
    try:
        coord = coordkit.connect(url)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)

    with coord:
        prefix = f"/{coord.settings.namespace}/once/{JOB}/"
        coord.kv.delete_prefix(prefix)  # of a run before this one
        commands = [[sys.executable, __file__, url, str(number)] for number in range(REPLICAS)]
        replicas = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
        runs = sum(int(replica.communicate()[0]) for replica in replicas)
        history = coord.once(JOB, slot="any").history()
        coord.kv.delete_prefix(prefix)
    done = [slot for slot in history if slot.state is coordkit.SlotState.DONE]
    correct = runs == len(done) == SLOTS
    print(f"{REPLICAS} replicas, {SLOTS} slots: {runs} runs: {'correct' if correct else 'WRONG'}")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
