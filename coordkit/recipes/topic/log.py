"""Retained topics, the publisher's side: a log whose key order is its revision order.

Status: stable.
Source: the compare-and-append of CORFU (NSDI 2012), on one key; Kafka's retention by count or age.
Keys: `head`, `log/<h>-<k>`, `trimmed`; see `names.py`.
Cost: 1 commit for up to 100 messages; over all processes one publish commits at a time.
Invariant: `log/<h>-<k>` was put by the transaction that found `head` at revision h and moved it, so keys grow
with revisions, and each transaction's h is the revision of the one before it.

A publish is: if mod(head) = h: put head, put the messages.  h is part of each key, so a copy of it that comes
late, or twice, finds `head` moved and does nothing.  Whoever got no answer sends it again with the same h; if
that is refused, the key `log/<h>-000` tells by its nonce who won: **exactly once**, without a dedup key.
"""

from __future__ import annotations

import logging
import secrets
import time

import attrs

from coordkit import coalescer, errors, intake, worker
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv
from coordkit.recipes.topic import names as keys
from coordkit.recipes.topic import trimming
from coordkit.session import Link

FIRST_PAUSE_S = 0.02
TRIM_S = 60.0  # for one run of the background's


_log = logging.getLogger("coordkit")


@attrs.frozen
class Head:
    """The end of the log."""

    revision: int = 0  # of the newest transaction
    count: int = 0  # of all messages that were ever published


class Log:
    """One partition of a retained topic, for its publishers."""

    def __init__(self, link: Link, names: keys.Names, retention: trimming.Retention) -> None:
        self._link = link
        self._names = names
        self._retention = retention
        self._head: Head | None = None  # as far as we know: a compare finds out
        self._trimmed = keys.Trimmed()
        self._trims = worker.Worker("coordkit-trim")
        self._trimmed_at_s: float | None = None

    def publish(self, values: list[bytes], deadline: Deadline) -> int:
        """Append up to 100 messages; returns their revision.

        Raises:
            Unavailable, DeadlineExceeded: The time was up; UNKNOWN if it may have been applied.
            Rejected: It certainly was not.
        """
        revision = self._append(values, deadline)
        self._trim_if_due()
        return revision

    def _append(self, values: list[bytes], deadline: Deadline) -> int:
        header = keys.Header(secrets.token_hex(8).encode(), trimming.now_ms(), len(values))
        doubt: Head | None = None
        pause_s = FIRST_PAUSE_S
        while True:
            # DOUBT: a copy that compares this very head may have been applied, or may yet be.
            head = doubt or self._head or self._read_head(deadline)
            request = self._request(head, header, values, settle=doubt is not None)
            try:
                result = self._link.client.txn(request, deadline.sooner(self._link.client.options.timeout_s))
            except errors.OUTAGE as error:
                doubt = head if error.outcome is errors.Outcome.UNKNOWN else doubt
                if deadline.remaining() <= pause_s:
                    error.outcome = errors.Outcome.UNKNOWN if doubt else errors.Outcome.NONE
                    raise
                pause_s = coalescer.pause(pause_s, deadline)
                continue
            except errors.Rejected as error:
                return self._refused(head, header, doubt is not None, error, deadline)
            if result.succeeded:
                self._head = Head(result.revision, head.count + len(values))
                return result.revision
            self._head = self._moved(head, result)
            if doubt:
                revision = self._settle(doubt, header, result.found(1).first, result.found(2).first)
                if revision:
                    return revision
                doubt = None  # not applied, and `head` has moved: it never will be

    def _request(self, head: Head, header: keys.Header, values: list[bytes], settle: bool) -> kv.TxnRequest:
        names = self._names
        # if nobody has published since
        when = [kv.mod(names.head) == head.revision]
        if not head.revision:
            # (nor has anybody deleted the head alone: then revisions and keys would part)
            when.append(kv.create(names.log, names.log_end) == 0)
        # then it is our turn: move the head, and put the messages where only this turn can
        first = kv.put(names.message(head.revision, 0), header.before(values[0]))
        others = [kv.put(names.message(head.revision, k), values[k]) for k in range(1, len(values))]
        then = [kv.put(names.head, b"%d" % (head.count + len(values))), first, *others]
        # else tell where it is; and, in doubt, whose turn it was
        otherwise = [kv.get(names.head)]
        if settle:
            otherwise += [kv.get(names.message(head.revision, 0)), kv.get(names.trimmed)]
        return kv.txn_request(when, then, otherwise)

    def _moved(self, head: Head, result: kv.TxnResult) -> Head:
        """Where the head was found instead."""
        found = result.found(0).first
        if found is None and head.revision:
            return (
                Head()
            )  # somebody has deleted the whole topic; or the head alone, which the next compare finds
        if found is None:
            raise errors.CoordError(
                f"{self._names.head.decode()} was deleted by another hand, and messages are left: delete the "
                "whole topic, or restore it"
            )
        return Head(found.mod_revision, keys.parse_head(found.value))

    def _settle(
        self, doubt: Head, header: keys.Header, first: kv.KeyValue | None, trimmed: kv.KeyValue | None
    ) -> int:
        """The head has moved: by us?  Returns our revision; 0 when it was somebody else.

        Raises:
            Unavailable: What would tell was trimmed already.
        """
        if first is not None:
            parsed = keys.parse_header(first.value)
            mine = parsed is not None and parsed[0].nonce == header.nonce
            return first.mod_revision if mine else 0
        if trimmed is not None and keys.parse_trimmed(trimmed.value).revision > doubt.revision:
            raise errors.Unavailable(
                f"publish to {self._names.prefix.decode()}: no reply, and what would tell was trimmed",
                errors.Outcome.UNKNOWN,
            )
        return 0

    def _refused(
        self, head: Head, header: keys.Header, doubtful: bool, error: errors.Rejected, deadline: Deadline
    ) -> int:
        """etcd refused it: raises that, unless an earlier copy was applied.

        Out of space, etcd may even have applied what it refuses.
        """
        if not doubtful and not isinstance(error, errors.QuotaExceeded):
            raise error
        names, client = self._names, self._link.client
        found = intake.read_key(client, names.head, deadline)
        if (found.mod_revision if found is not None else 0) != head.revision:
            # It has moved: what is at this turn's place is there for good, or was trimmed.
            self._head = None
            first = intake.read_key(client, names.message(head.revision, 0), deadline)
            trimmed = intake.read_key(client, names.trimmed, deadline)
            revision = self._settle(head, header, first, trimmed)
            if revision:
                return revision
        elif doubtful:
            # Nothing yet, but a copy may be on its way.
            raise errors.Unavailable(str(error), errors.Outcome.UNKNOWN) from error
        raise error

    def _read_head(self, deadline: Deadline) -> Head:
        trimmed = intake.read_key(self._link.client, self._names.trimmed, deadline)
        head = intake.read_key(self._link.client, self._names.head, deadline)
        if trimmed is not None:
            self._trimmed = keys.parse_trimmed(trimmed.value)
        return Head() if head is None else Head(head.mod_revision, keys.parse_head(head.value))

    # Trimming, in the background.

    def _trim_if_due(self) -> None:
        head, last_s = self._head, self._trimmed_at_s
        if head is None or self._retention.unlimited:
            return
        now_s = time.monotonic()
        too_many = self._retention.is_exceeded(head.count - self._trimmed.count)
        if too_many or last_s is None or now_s - last_s >= self._retention.look_s:
            self._trimmed_at_s = now_s
            self._trimmed = attrs.evolve(self._trimmed, count=head.count)  # until it is known: not again
            self._trims.submit(self._trim)

    def _trim(self) -> None:
        try:
            self._trimmed = trimming.trim(self._link, self._names, self._retention, NEVER.sooner(TRIM_S))
        except errors.CoordError as error:
            _log.debug(
                "%s: not trimmed, the next publish tries again: %s", self._names.prefix.decode(), error
            )
            self._trimmed_at_s = None
