"""A crawler of 200 greenlets on one queue: each page is fetched once, however often it is linked.

usage: gevent_crawler.py [URL]

The pages are made up: page n links to a few others, and a fetch takes a moment.  A link is put with the
page's name as its dedup_id, so a page that many link to is in the queue once.
"""

from gevent import monkey

monkey.patch_all()

import secrets  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402

import etcd_server  # noqa: E402
import gevent  # noqa: E402

import coordkit  # noqa: E402

GREENLETS = 200
PAGES = 300
LIMIT_S = 40


def links(page: int) -> list[int]:
    """Where a made-up page leads."""
    return [link for link in (2 * page, 2 * page + 1, page + 7, page // 2) if 0 < link <= PAGES]


class Crawler:
    """Counts what it has fetched."""

    def __init__(self, coord: coordkit.Coordinator) -> None:
        self.name = f"crawler-{secrets.token_hex(4)}"
        self.queue = coord.queue(self.name, dedup_window=LIMIT_S)
        self.fetched: list[int] = []
        self.all_fetched = threading.Event()

    def add(self, pages: list[int]) -> None:
        names = [str(page) for page in pages]
        self.queue.put_many(names, dedup_ids=names)

    def fetch(self, job: coordkit.Job) -> None:
        page = int(job.value)
        gevent.sleep(0.01)  # the network
        self.add(links(page))
        self.fetched.append(page)
        if len(self.fetched) >= PAGES:
            self.all_fetched.set()


def main() -> int:
    url = etcd_server.url(sys.argv[1] if len(sys.argv) > 1 else None)
    try:
        coord = coordkit.connect(url)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)

    with coord:
        crawler = Crawler(coord)
        try:
            crawler.add([1])
            with crawler.queue.consume(crawler.fetch, workers=GREENLETS):
                crawler.all_fetched.wait(LIMIT_S)
            correct = sorted(crawler.fetched) == list(range(1, PAGES + 1)) and crawler.queue.empty()
        finally:
            coord.kv.delete_prefix(f"/{coord.settings.namespace}/queue/{crawler.name}/")
        print(
            f"{GREENLETS} greenlets, {len(crawler.fetched)} pages of {PAGES}, each once: "
            f"{'correct' if correct else 'WRONG'}"
        )
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
