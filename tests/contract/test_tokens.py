"""Tokens that live for seconds: who holds, waits and watches for longer sees nothing of it."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import threading
from collections.abc import Iterator

import pytest
from contract.accounts import SECRET, enable_accounts
from contract.players import queue_up, wait_until

import coordkit
from coordkit.etcd import kv, watch
from coordkit.testing import LocalEtcd

QUICK = ("--heartbeat-interval=10", "--election-timeout=100", "--bcrypt-cost=4")


def rsa_keys(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Files with a public and a private key."""
    pytest.importorskip("cryptography", reason="keys for tests need the cryptography package")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "public.pem").write_bytes(public)
    (folder / "private.pem").write_bytes(private)
    return folder / "public.pem", folder / "private.pem"


def kinds(folder: pathlib.Path, life_s: int) -> dict[str, tuple[str, ...]]:
    """What makes a server hand out tokens of each kind that live for so long."""
    public, private = rsa_keys(folder)
    web = f"jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl={life_s}s"
    return {"simple": (f"--auth-token-ttl={life_s}",), "jwt": (f"--auth-token={web}",)}


class Play:
    """One who holds, one who waits, one who watches and says nothing; each has a connection of its own."""

    def __init__(self, server: LocalEtcd, ttl: float) -> None:
        url = f"etcd://ann:{SECRET}@{server.endpoint}/ann"
        self.coords = [coordkit.connect(url, ttl=ttl) for _ in range(3)]
        holder, waiter, watcher = self.coords
        self.told: list[coordkit.State] = []
        for coord in self.coords:
            coord.session.add_listener(self.told.append)
        self.first_tokens = [coord.client.metadata for coord in self.coords]
        self.lock = holder.lock("a")
        self.lock.acquire()
        (self.heir,) = queue_up(waiter.lock("a"))
        self._watcher = watcher._link.watcher
        self.heard, self.heard_late = self.listen(), Witness()
        self.said: list[bytes] = []

    def listen(self) -> Witness:
        """Begin a watch: on a stream that was opened with the first token, whatever became of that."""
        witness = Witness()
        self._watcher.watch_prefix(b"/ann/said/", witness)
        wait_until(lambda: witness.keys or witness.stands)
        return witness

    def say(self) -> None:
        """A guarded write: the holder needs a token for it, the watcher's stream hears of it."""
        self.said.append(b"/ann/said/%d" % len(self.said))
        assert self.lock.txn().then(kv.put(self.said[-1], b"")).commit().succeeded

    def end(self) -> None:
        """Nothing was visible; and the line, the watch and the lock do their work."""
        fence = self.lock.fence
        self.lock.release()
        assert self.heir.wait_until_held().lock.fence > fence
        self.heir.lock.release()
        wait_until(lambda: len(self.heard.keys) >= len(self.said) and self.heard_late.keys)
        assert self.heard.keys == self.said
        assert self.heard_late.keys == self.said[-1:]
        assert self.told == []

    def close(self) -> None:
        for coord in self.coords:
            coord.close()


class Witness:
    """A watch's listener."""

    def __init__(self) -> None:
        self.stands = False
        self.keys: list[bytes] = []

    def on_created(self, revision: int) -> None:
        self.stands = True

    def on_events(self, events: list[watch.Event]) -> None:
        self.keys.extend(event.key for event in events)

    def on_gap(self, compacted: int) -> None:
        raise AssertionError("there was no compaction")

    def on_refused(self, error: coordkit.CoordError) -> None:
        self.keys.append(repr(error).encode())


@contextlib.contextmanager
def plays(etcd_binary: str, folder: pathlib.Path, life_s: int, ttl: float) -> Iterator[dict[str, Play]]:
    """One on a server of each kind, side by side."""
    with contextlib.ExitStack() as stack:
        made = {}
        for kind, tokens in kinds(folder, life_s).items():
            server = stack.enter_context(LocalEtcd(etcd_binary, arguments=(*QUICK, *tokens)))
            enable_accounts(server)
            made[kind] = Play(server, ttl)
            stack.callback(made[kind].close)
        yield made


def live(made: dict[str, Play], seconds: int) -> None:
    """Say something now and then; a simple token lives on while it is used, so there are pauses, too."""
    pause = threading.Event()
    for second in range(seconds):
        if second % 4 == 0:
            for play in made.values():
                play.say()
        pause.wait(1.0)
    for play in made.values():
        play.heard_late = play.listen()
        play.say()


def renewals(play: Play) -> int:
    """How many of the three connections have another token than the first one."""
    return sum(
        coord.client.metadata != first for coord, first in zip(play.coords, play.first_tokens, strict=True)
    )


def test_tokens_of_a_second(etcd_binary, tmp_path, caplog):
    """
    Simple and JSON web tokens end several times under a lock that is held, waited for and watched.
    """
    with caplog.at_level(logging.WARNING, "coordkit"), plays(etcd_binary, tmp_path, 1, ttl=3) as made:
        live(made, 5)
        for play in made.values():
            play.end()
            assert renewals(play) >= 1

    assert [record.getMessage() for record in caplog.records if record.name == "coordkit"] == []


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_tokens_of_five_seconds_for_a_minute(etcd_binary, tmp_path, caplog):
    """
    The same as in a long working day.
    """
    with caplog.at_level(logging.WARNING, "coordkit"), plays(etcd_binary, tmp_path, 5, ttl=10) as made:
        live(made, 60)
        for play in made.values():
            play.end()
            assert renewals(play) >= 1

    assert [record.getMessage() for record in caplog.records if record.name == "coordkit"] == []
