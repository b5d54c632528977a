"""All that was found, as text for people and as one JSON document for programs."""

from __future__ import annotations

import json
import typing
from collections.abc import Sequence

import attrs

from coordkit.cli import failure
from coordkit.cli.doctor import health, refusals
from coordkit.cli.doctor.finding import Finding, Level, shorten, size
from coordkit.cli.doctor.origins import UNSET, Setting


@attrs.define
class Report:
    """Filled step by step; what was not reached stays empty."""

    settings: list[Setting]
    prefix: str
    endpoints: list[health.Endpoint] = attrs.field(factory=list)
    members: dict[int, tuple[str, tuple[str, ...]]] = attrs.field(factory=dict)
    rights: list[refusals.Right] = attrs.field(factory=list)
    clock: health.LeaseClock | None = None
    compacted: int | None = None
    revision: int = 0
    findings: list[Finding] = attrs.field(factory=list)

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level is Level.PROBLEM]

    @property
    def status(self) -> int:
        """For the shell."""
        if not any(endpoint.reached for endpoint in self.endpoints):
            return failure.UNREACHABLE
        return failure.VIOLATION if self.problems else 0

    # --- for programs

    def json(self) -> str:
        document: dict[str, typing.Any] = {
            "status": self.status,
            "settings": {each.name: {"value": each.value, "source": each.source} for each in self.settings},
            "endpoints": [endpoint_document(each) for each in self.endpoints],
            "members": [
                {"id": f"{number:x}", "name": name, "urls": list(urls)}
                for number, (name, urls) in self.members.items()
            ],
            "prefix": self.prefix,
            "rights": [
                {"name": each.name, "ms": round(each.took_ms, 3), "error": each.error and str(each.error)}
                for each in self.rights
            ],
            "lease": None if self.clock is None else attrs.asdict(self.clock),
            "revision": self.revision,
            "compacted": self.compacted,
            "findings": [{**attrs.asdict(each), "level": each.level.value} for each in self.findings],
        }
        return json.dumps(document, indent=2)

    # --- for people

    def text(self) -> str:
        """All but the settings, which are shown first, before anything can take its time."""
        parts = [self._endpoints_text()]
        if self.rights:
            parts.append(self._rights_text())
        if self.clock is not None:
            parts.append(_section("lease", [clock_text(self.clock)]))
        if any(endpoint.cluster for endpoint in self.endpoints):
            parts.append(self._space_text())
        return "\n".join([*parts, self._findings_text()])

    def settings_text(self) -> str:
        rows = [(each.name, each.value or UNSET, each.source or "") for each in self.settings]
        return _section("settings", _aligned(rows))

    def _endpoints_text(self) -> str:
        rows = []
        for each in self.endpoints:
            if not each.cluster:
                trouble = each.trouble.text if each.trouble else "silent"
                rows.append((each.url, trouble))
                continue
            name = self.members.get(each.member, ("", ()))[0]
            said = f"etcd {each.version}, {each.role}, round trip {each.round_trip_ms:.2f} ms"
            where = f"member {each.member:x}{f' ({name})' if name else ''} of cluster {each.cluster:x}"
            rows.append((each.url, f"{said}, dial {each.dial_ms:.1f} ms"))
            rows.append(("", f"{where}, term {each.term}, revision {each.revision}"))
        return _section("endpoints", [*_aligned(rows), *self._leader_lines()])

    def _leader_lines(self) -> list[str]:
        lines = []
        leaders = {each.leader for each in self.endpoints if each.leader}
        if leaders - {each.member for each in self.endpoints}:
            named = (f"{self.members.get(each, ('', ()))[0]} ({each:x})".strip() for each in sorted(leaders))
            lines.append(f"leader: {', '.join(named)}")
        if len(self.members) > len(self.endpoints):
            lines.append(
                f"{len(self.endpoints)} of {len(self.members)} members are named: name more, for failover"
            )
        return lines

    def _rights_text(self) -> str:
        rows = [
            (
                each.name,
                "no" if each.error else "yes",
                shorten(str(each.error)) if each.error else f"{each.took_ms:.2f} ms",
            )
            for each in self.rights
        ]
        return _section(f"rights under {self.prefix}", _aligned(rows))

    def _space_text(self) -> str:
        rows = [
            (
                each.url,
                f"{size(each.size_bytes)}, {size(each.used_bytes)} in use, of "
                + (size(each.quota_bytes) if each.quota_bytes else "an unknown quota (2 GiB by default)"),
            )
            for each in self.endpoints
            if each.cluster
        ]
        if self.compacted is not None:
            since = f"since revision {self.compacted}" if self.compacted else "from the beginning"
            rows.append(("history", f"kept {since}, now at {self.revision}"))
        return _section("space", _aligned(rows))

    def _findings_text(self) -> str:
        lines = []
        for level, title in ((Level.ADVICE, "good to know"), (Level.PROBLEM, "problems")):
            chosen = [each for each in self.findings if each.level is level]
            entries = [f"{each.about}: {each.text}\n      -> {each.remedy}" for each in chosen]
            if entries:
                lines.append(_section(title, entries))
        count = len(self.problems)
        verdict = "all is well" if not count else f"{count} problem{'s' if count > 1 else ''} found"
        return "\n".join([*lines, verdict])


def clock_text(clock: health.LeaseClock) -> str:
    """One sentence: what was granted, when we stop, when etcd ends it."""
    text = f"{clock.granted_s} s granted for {clock.asked_s} s; ours ends after {clock.deadline_s:.2f} s"
    if clock.end_s is None:
        return text
    drift = f"drift {clock.drift:+.1%} (within {clock.precision:.1%})"
    return f"{text}, etcd's after {clock.end_s:.2f} s; {drift}"


def endpoint_document(endpoint: health.Endpoint) -> dict[str, typing.Any]:
    """One endpoint, for programs."""
    document = attrs.asdict(endpoint, filter=lambda field, _: field.name != "trouble")
    document["trouble"] = endpoint.trouble and endpoint.trouble.text
    document["role"] = endpoint.role if endpoint.cluster else None
    for name in ("cluster", "member", "leader"):
        document[name] = f"{document[name]:x}"  # 64 bits are more than JSON's readers keep
    return document


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines), ""])


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
