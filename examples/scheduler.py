"""APScheduler on several replicas: it runs in the one that leads, and only for as long as it leads.

usage: scheduler.py [URL]

APScheduler itself knows nothing of other processes.  Here it is started on election and paused on loss; this
program plays two replicas, lets each lead in its turn, and counts who ran the job.  For a job that must run
once at each time, and not merely in one place at a time, name the runs with `coord.once`.
"""

import sys
import threading

import etcd_server

import coordkit

try:
    from apscheduler.schedulers.background import BackgroundScheduler
except ImportError as missing:
    BackgroundScheduler = None
    REASON = f"left out: {missing} (pip install 'apscheduler<4')"

ELECTION = "scheduler"
LIMIT_S = 30


class Replica:
    """One process of several, as it were."""

    def __init__(self, url: str, name: str) -> None:
        self.coord = coordkit.connect(url, ttl=2, identity=name)
        self.election = self.coord.election(ELECTION)
        self.ran = threading.Event()
        self.ran_without_leading = False
        self._thread = threading.Thread(target=self.election.run, args=(self.lead,), daemon=True)
        self._thread.start()

    def lead(self, leadership: coordkit.Leadership) -> None:
        """From the election to the loss, or to `stop`."""
        scheduler = BackgroundScheduler()
        scheduler.add_job(self.job, "interval", args=(leadership,), seconds=0.05)
        scheduler.start()
        try:
            leadership.wait()
        finally:
            scheduler.shutdown(wait=True)  # before it resigns: nobody else begins while a job runs

    def job(self, leadership: coordkit.Leadership) -> None:
        self.ran_without_leading |= leadership.remaining() <= 0
        self.ran.set()

    def stop(self) -> None:
        self.election.cancel()
        self._thread.join(LIMIT_S)
        self.coord.close()


def main() -> int:
    url = etcd_server.url(sys.argv[1] if len(sys.argv) > 1 else None)
    try:
        coordkit.connect(url).close()
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    if BackgroundScheduler is None:
        print(REASON)
        return 0

    first = Replica(url, "first")
    led_first = first.ran.wait(LIMIT_S)
    second = Replica(url, "second")
    idle = not second.ran.wait(0.3)
    first.stop()
    led_second = second.ran.wait(LIMIT_S)
    second.stop()
    correct = (
        led_first and idle and led_second and not (first.ran_without_leading or second.ran_without_leading)
    )
    print(f"APScheduler ran with the first leader, then with the second: {'correct' if correct else 'WRONG'}")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
