"""A queue as one process sees it: what all handles of the same name share."""

from __future__ import annotations

import threading
import typing
import weakref

from coordkit import attendant as attendants
from coordkit import keys
from coordkit.deadline import Deadline
from coordkit.recipes import hold as holds
from coordkit.recipes.queue import arrivals, delivery, fetcher, names, producer
from coordkit.session import Link, Session


class Site:
    """One producer, one fetcher, one watch; and a desk for each session that comes and goes."""

    def __init__(self, link: Link, source: holds.Source, name: str) -> None:
        self.link = link
        self.layout = names.Layout(keys.prefix(link.namespace, "queue", name))
        self.title = f"queue {name!r}"
        self._source = source
        self._desk: delivery.Desk | None = None
        self.producer = producer.Producer(link, self.layout, self.title)
        self.fetcher = fetcher.Fetcher(self)
        self.room = Bells()  # producers that wait for an item to go
        self.arrivals = arrivals.Arrivals(link, self.layout, self.fetcher.ring, self.room.ring)

    @property
    def renews(self) -> bool:
        """Whether there is another session after one that was lost."""
        return not isinstance(self._source, Session)

    def itself(self) -> Site:
        """This, and no proxy of it."""
        return self

    def desk(self, deadline: Deadline) -> delivery.Desk:
        """That of the current session.

        Raises:
            SessionLost, Closed: There is none, and will be none.
            Unavailable: It could not be opened.
        """
        session = holds.current(self._source, deadline)
        session.check()
        desk = self._desk
        if desk is None or desk.session is not session:
            desk = self._desk = delivery.desk_at(session, self.layout, self.title)
            ring = attendants.weakly(self.fetcher.ring)
            session.add_listener(lambda state: ring())
        return desk


class Bells:
    """Events that are set together."""

    def __init__(self) -> None:
        self._events: weakref.WeakSet[threading.Event] = weakref.WeakSet()

    def add(self, event: threading.Event) -> None:
        """From now on it is set, too."""
        self._events.add(event)

    def ring(self) -> None:
        """Set all."""
        for event in list(self._events):
            event.set()


_Key = tuple[str, "Session | None"]
_SITES: weakref.WeakKeyDictionary[Link, weakref.WeakValueDictionary[_Key, Site]] = weakref.WeakKeyDictionary()


def site_at(link: Link, source: holds.Source, name: str) -> Site:
    """The site of a queue: handles of one coordinator, or one session, share it."""
    sites = _SITES.get(link)
    if sites is None:
        sites = _SITES.setdefault(link, weakref.WeakValueDictionary())
    key: _Key = (name, source if isinstance(source, Session) else None)
    found = sites.get(key)
    return found if found is not None else sites.setdefault(key, Site(link, source, name))


__all__: typing.Final = ["Bells", "Site", "site_at"]
