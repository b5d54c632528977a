"""Several processes move money between accounts; the sum stays the same, and the books agree with it.

usage: bank_transfers.py [URL] [--workers N] [--transfers N]

A transfer holds the locks of both accounts, whichever way the money goes: no deadlock, and no torn balance.
Its two lines in the books belong side by side: `enter_pair` holds the books' lock and calls `enter`, which
locks, too; with an rlock it may.
"""

import argparse
import json
import random
import subprocess
import sys

import etcd_server

import coordkit
from coordkit import kv

ACCOUNTS = ("ann", "bob", "cem", "dora")
OPENING = 100
BALANCES, BOOKS = "/bank-transfers/balances/", "/bank-transfers/books/"
PATIENCE_S = 30  # for one turn
LIMIT_S = 60  # for all of it


class Books:
    """Numbered lines, one key each."""

    def __init__(self, coord: coordkit.Coordinator) -> None:
        self._coord = coord
        self._lock = coord.rlock("bank-transfers-books")

    def enter(self, account: str, amount: int) -> None:
        """One line, with the next number."""
        with self._lock.within(PATIENCE_S):
            number = len(self._coord.kv.range(BOOKS))
            line = kv.put(f"{BOOKS}{number:06}", json.dumps([account, amount]))
            must(self._lock.txn().then(line))

    def enter_pair(self, source: str, target: str, amount: int) -> None:
        """Two lines, and none of anybody else's between them."""
        with self._lock.within(PATIENCE_S):
            self.enter(source, -amount)
            self.enter(target, amount)


def must(txn: kv.Txn) -> None:
    """Commit what carries a lock's guard."""
    if not txn.commit().succeeded:
        raise coordkit.LockLost("the lock was lost: etcd refused the write")


def balance(coord: coordkit.Coordinator, account: str) -> int:
    found = coord.kv.get(BALANCES + account)
    return int(found.value) if found else 0


def transfer(coord: coordkit.Coordinator, source: str, target: str, amount: int) -> bool:
    """Move money if there is enough of it; whether it was moved."""
    with coord.multilock([source, target]).within(PATIENCE_S) as both:
        left = balance(coord, source) - amount
        if left < 0:
            return False
        more = balance(coord, target) + amount
        puts = [kv.put(BALANCES + source, str(left)), kv.put(BALANCES + target, str(more))]
        must(both.txn().then(*puts))  # refused if either lock was lost
        return True


def work(url: str, transfers: int) -> None:
    """A teller, a process of its own."""
    with coordkit.connect(url) as coord:
        books = Books(coord)
        for _ in range(transfers):
            source, target = random.sample(ACCOUNTS, 2)
            amount = random.randint(1, 40)
            if transfer(coord, source, target, amount):
                books.enter_pair(source, target, amount)


def agree(lines: list[list], balances: dict[str, int]) -> bool:
    """Whether each pair of lines is whole, and all lines together give the balances."""
    computed = dict.fromkeys(ACCOUNTS, OPENING)
    for account, amount in lines:
        computed[account] += amount
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return computed == balances and all(out[1] < 0 and out[1] + into[1] == 0 for out, into in pairs)


def run(coord: coordkit.Coordinator, url: str, workers: int, transfers: int) -> int:
    for account in ACCOUNTS:
        coord.kv.put(BALANCES + account, str(OPENING))
    command = [sys.executable, __file__, url, "--transfers", str(transfers), "--work"]
    tellers = [subprocess.Popen(command) for _ in range(workers)]
    try:
        statuses = [teller.wait(LIMIT_S) for teller in tellers]
    finally:
        for teller in tellers:
            teller.kill()
            teller.wait()

    balances = {account: balance(coord, account) for account in ACCOUNTS}
    lines = [json.loads(found.value) for found in coord.kv.range(BOOKS)]
    total, expected = sum(balances.values()), OPENING * len(ACCOUNTS)
    correct = not any(statuses) and total == expected and min(balances.values()) >= 0
    correct = correct and len(lines) > 0 and agree(lines, balances)
    print(
        f"{workers} tellers x {transfers} transfers: the sum is {total} of {expected}, "
        f"and the books agree: {'correct' if correct else 'WRONG'}"
    )
    return 0 if correct else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Money moved between accounts by several processes.")
    parser.add_argument("url", nargs="?", help="default COORDKIT_URL")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="processes; default 4")
    parser.add_argument("--transfers", type=int, default=20, metavar="N", help="of each; default 20")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)  # this is a worker
    arguments = parser.parse_args()
    url = etcd_server.url(arguments.url)
    if arguments.work:
        work(url, arguments.transfers)
        return 0
    try:
        coord = coordkit.connect(url)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    with coord:
        coord.kv.delete_prefix("/bank-transfers/")  # of a run that was killed
        try:
            return run(coord, url, arguments.workers, arguments.transfers)
        finally:
            coord.kv.delete_prefix("/bank-transfers/")


if __name__ == "__main__":
    sys.exit(main())
