"""`coordkit status`: the cluster and the namespace, on one page."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import attrs

from coordkit.cli import failure, options
from coordkit.cli.terminal import Table, plain

if TYPE_CHECKING:
    from coordkit import settings
    from coordkit.cli.doctor import health
    from coordkit.inspection import census

_SUMMARY = "show the cluster and what the namespace holds"
_EXAMPLES = """\
examples:
  coordkit status
  coordkit status -v
  coordkit status -o json --url etcd://h1:2379,h2:2379/shop

Of the namespace it shows how many primitives of each kind there are, and how many keys they have; with -v
each of them, who holds it, since when and from where, and how many wait.  Who is inside of a double barrier
holds it; a latch shows how many are still to come, a closed gate who closed it and at which revision.

What is wrong, and what to do about it, is the business of coordkit doctor.

exit status: 0; 1 an endpoint was not reached or raised an alarm; 69 none was reached"""


def register(commands: Any) -> None:
    """Add `status`."""
    parser = options.command(commands, "status", _SUMMARY, _EXAMPLES, run)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default table")
    parser.add_argument(
        "--json", dest="output", action="store_const", const="json", help="the same as -o json"
    )
    options.connection(parser)
    options.speech(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask every endpoint, count the namespace's keys, show.

    Cost: two connections and some six requests for each endpoint; 1 round trip for each 1,000 keys, at most 2
    for each primitive that has more.
    """
    options.listen(arguments)
    chosen = options.settings_of(arguments)
    seen = look(chosen, each=arguments.verbose > 0)
    if not any(each.cluster for each in seen.endpoints):
        told = "; ".join(f"{each.url}: {each.trouble.text}" for each in seen.endpoints if each.trouble)
        raise failure.CommandFailed(f"no endpoint was reached: {told}", failure.UNREACHABLE)
    if arguments.output == "json":
        print(json.dumps(seen.document(each=arguments.verbose > 0), indent=2))
    else:
        seen.show(each=arguments.verbose > 0)
    return 0 if seen.healthy else 1


@attrs.frozen
class Status:
    """What was seen."""

    namespace: str
    endpoints: list[health.Endpoint]
    revision: int
    census: census.Census | None  # None: not to be had
    refused: str = ""

    @property
    def healthy(self) -> bool:
        return not self.refused and all(each.trouble is None and not each.alarms for each in self.endpoints)

    def show(self, each: bool) -> None:
        """For people; `each` primitive, too."""
        columns = ["endpoint", "version", "role", "revision", "round trip", "database", "in use", "alarms"]
        Table("cluster", columns, list(map(_row, self.endpoints))).show()
        print()
        shown = f"/{self.namespace}/" if self.namespace else "/"
        if self.census is None:
            print(f"{shown}: {self.refused}")
            return
        counts = self.census.counts()
        if not counts:
            print(f"{shown} at revision {self.revision}: no key")
            return
        rows = [[plain(kind) or "-", str(number), str(size)] for kind, (number, size) in counts.items()]
        Table(f"{shown} at revision {self.revision}", ["kind", "number", "keys"], rows).show()
        if each and self.census.primitives:
            from coordkit.cli import views

            print()
            views.View(self.census, {}, views.now()).primitives(self.census.primitives).show()

    def document(self, each: bool) -> dict[str, Any]:
        """For programs."""
        from coordkit.cli import views
        from coordkit.cli.doctor import report

        found = self.census
        primitives = []
        if found and each:
            view = views.View(found, {}, views.now())
            primitives = list(map(view.lock_document, found.primitives))
        return {
            "endpoints": list(map(report.endpoint_document, self.endpoints)),
            "namespace": self.namespace,
            "revision": self.revision,
            "error": self.refused or None,
            "kinds": found
            and {kind: {"number": number, "keys": size} for kind, (number, size) in found.counts().items()},
            **({"primitives": primitives} if each else {}),
        }


def look(chosen: settings.Settings, each: bool = False) -> Status:
    """At each endpoint, and through one that works at the namespace; at who stands where only if `each`."""
    from coordkit import errors
    from coordkit.cli.doctor import examination
    from coordkit.etcd import client as clients
    from coordkit.inspection import reading

    endpoints = [examination.examine(each, chosen.options) for each in chosen.options.endpoints]
    usable = tuple(
        address for address, seen in zip(chosen.options.endpoints, endpoints, strict=True) if seen.usable
    )
    revision = max((each.revision for each in endpoints), default=0)
    if not usable:
        return Status(chosen.namespace, endpoints, revision, None, "no endpoint is of use")
    client = clients.Client(attrs.evolve(chosen.options, endpoints=usable))
    try:
        reader = reading.Reader(client, chosen.namespace)
        found = reader.census() if each else reader.overview()
        return Status(chosen.namespace, endpoints, found.revision, found)
    except errors.CoordError as error:
        return Status(chosen.namespace, endpoints, revision, None, str(error))
    finally:
        client.close()


def _row(seen: health.Endpoint) -> list[str]:
    from coordkit.cli.doctor import finding

    if not seen.cluster:
        return [seen.url, seen.trouble.text if seen.trouble else "silent", *["-"] * 6]
    return [
        seen.url,
        seen.version,
        seen.role,
        str(seen.revision),
        f"{seen.round_trip_ms:.2f} ms",
        finding.size(seen.size_bytes),
        finding.size(seen.used_bytes),
        "; ".join(seen.alarms) or "none",
    ]
