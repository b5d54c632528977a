"""The first five minutes: connect, write and read keys, take a lock.

usage: quickstart.py [URL]

Every step is logged with its time, level and caller by the standard library's logging.
"""

import datetime
import logging
import sys

import etcd_server

import coordkit

PREFIX = "/quickstart/"
LOCK_PREFIX = "/funtester/"

log = logging.getLogger("quickstart")


class IsoFormatter(logging.Formatter):
    """Times as in ISO 8601, with the offset from UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        moment = datetime.datetime.fromtimestamp(record.created).astimezone()
        return moment.isoformat(timespec="milliseconds")


def log_to_stdout() -> None:
    stream = logging.StreamHandler(sys.stdout)
    stream.setFormatter(
        IsoFormatter("%(asctime)s %(levelname)s %(filename)s:%(lineno)d %(funcName)s: %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[stream])


def keys(coord: coordkit.Coordinator) -> None:
    """Put, read by prefix, delete."""
    for name in ("one", "two", "three"):
        revision = coord.kv.put(f"{PREFIX}{name}", name.upper())
        log.info("put %s%s at revision %d", PREFIX, name, revision)

    for found in coord.kv.range(PREFIX):
        log.info("read %s = %s", found.key.decode(), found.value.decode())

    log.info("deleted %d keys", coord.kv.delete_prefix(PREFIX))


def mutex(coord: coordkit.Coordinator) -> None:
    """Lock and unlock.  The prefix is taken as it is: Go programs and etcdctl can stand in the same line."""
    lock = coordkit.Lock.at(coord.session, LOCK_PREFIX)

    with lock.within(10):
        log.info("locked %s: fence %d, ours for another %.1f s", lock.name, lock.fence, lock.remaining())
        lock.check()  # before each step that must not be taken without the lock

    log.info("unlocked %s", lock.name)


def main() -> None:
    log_to_stdout()
    url = etcd_server.url(sys.argv[1] if len(sys.argv) > 1 else None)
    try:
        coord = coordkit.connect(url, timeout=5)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)

    with coord:
        log.info("connected: %r", coord)
        keys(coord)
        mutex(coord)
    log.info("disconnected")


if __name__ == "__main__":
    main()
