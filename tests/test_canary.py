"""A canary password and a canary value: they appear in no log, no repr, no traceback.

Everything that the process logs is recorded at DEBUG, other packages' loggers too.
"""

from __future__ import annotations

import ast
import logging
import logging.config
import pathlib
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract.players import Attempt, expire, wait_until

import coordkit
from coordkit import errors, settings
from coordkit.etcd import heart as hearts
from coordkit.etcd import kv, watch
from coordkit.testing import LocalEtcd
from coordkit.wire import address, fields, http2

PASSWORD = "canary-pa55word"
VALUE = "canary-value-77"
SECRETS = (PASSWORD, VALUE)


class Recorder(logging.Handler):
    """Every record that the process logs, as a formatter would write it, exceptions included."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.names.add(record.name)
        self.lines.append(self.format(record))
        self.lines.append(repr(vars(record)))


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Records the whole process at DEBUG, as a program does that switches everything on."""
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    root, recording = logging.getLogger(), Recorder()
    before = root.level
    root.addHandler(recording)
    root.setLevel(logging.DEBUG)
    yield recording
    root.removeHandler(recording)
    root.setLevel(before)


@pytest.fixture(scope="module")
def guarded(etcd_binary: str) -> Iterator[LocalEtcd]:
    """A server that asks for passwords; root has the canary, `reader` may read under `/open/`."""
    with LocalEtcd(etcd_binary) as server:
        with coordkit.connect(server.url) as coord:
            _enable_authentication(coord.etcd)
        yield server


def _enable_authentication(etcd3c: Any) -> None:
    import etcd3

    rpc, auth = etcd3.etcdrpc, etcd3c.auth_stub
    for name in ("root", "reader"):
        auth.UserAdd(rpc.AuthUserAddRequest(name=name, password=PASSWORD))
        auth.RoleAdd(rpc.AuthRoleAddRequest(name=name))
        auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=name, role=name))
    permission = {"permType": 0, "key": b"/open/", "range_end": b"/open0"}
    auth.RoleGrantPermission(rpc.AuthRoleGrantPermissionRequest(name="reader", perm=permission))
    auth.AuthEnable(rpc.AuthEnableRequest())


def url_of(server: LocalEtcd, user: str = "root", password: str = PASSWORD) -> str:
    return f"etcd://{user}:{password}@{server.endpoint}/canary?ttl=2&timeout=1"


def failure_of(use: Callable[[], object]) -> errors.CoordError:
    with pytest.raises(errors.CoordError) as raised:
        use()
    return raised.value


def written(error: BaseException, with_locals: bool = False) -> str:
    """An error in every form in which it may be shown."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=with_locals)
    return "\n".join([str(error), repr(error), repr(vars(error)), repr(error.args), *shown.format()])


def assert_clean(text: str, *secrets: str) -> None:
    for secret in secrets or SECRETS:
        assert secret not in text, f"{secret} was shown: ...{text[max(0, text.find(secret) - 300) :][:400]}"


class TestSession:
    def test_a_session_with_everything_that_can_go_wrong(self, guarded, recorder):
        """
        Connect with a password, hold, wait, write, watch, be refused, lose: nothing of it shows a secret.
        """
        with coordkit.connect(url_of(guarded)) as coord:
            shown = [self.use(coord), *self.fail(coord, guarded)]

        assert_clean("\n".join(shown))
        assert_clean("\n".join(recorder.lines))
        assert "coordkit" in recorder.names, f"only {recorder.names} logged: the recorder is deaf"

    @staticmethod
    def use(coord: coordkit.Coordinator) -> str:
        """Ordinary work; the reprs of all that it makes."""
        events: list[Any] = []
        listener = Listener(events)
        standing = coord._link.watcher.watch(b"/canary/kv", listener)
        wait_until(lambda: listener.revision, what="the watch")
        with coord.lock("canary") as lock:
            waiter = Attempt(coord.lock("canary"), timeout=0.2).end()
            coord.kv.put("/canary/kv", VALUE)
            stored = coord.kv.get("/canary/kv")
            compare = kv.value(b"/canary/kv") == VALUE.encode()
            op = kv.put(b"/canary/kv", VALUE.encode(), prev=True)
            txn = lock.txn().when(compare).then(op, kv.get(b"/canary/kv"))
            result = txn.commit()
            wait_until(lambda: events, what="the event")
            made = [
                coord,
                coord.settings,
                coord.settings.options,
                coord.client,
                coord.kv,
                coord.session,
                lock,
            ]
            made += [
                waiter.lock,
                stored,
                compare,
                op,
                txn,
                result,
                result.results,
                events,
                standing,
                listener,
            ]
            made += [
                lock.contenders(),
                lock.guard(),
                coord.statistics(),
                coord.etcd,
                coord._link,
                coord.session.link,
            ]
            made += [
                hearts.heart_for(coord.client.options),
                coord.client.channel(coord.client.deadline(None)),
            ]
        assert result.succeeded
        standing.cancel()
        return "\n".join(map(repr, made))

    @staticmethod
    def fail(coord: coordkit.Coordinator, server: LocalEtcd) -> list[str]:
        """Refusals, timeouts and losses, as they are shown."""
        shown = []
        with coordkit.connect(url_of(server, user="reader")) as reader:
            refusals: list[Callable[[], object]] = [
                lambda: reader.kv.put("/closed/kv", VALUE),
                lambda: reader.kv.txn().then(kv.put(b"/closed/kv", VALUE.encode())).commit(),
                lambda: reader.lock("canary").acquire(timeout=1),
                lambda: coord.kv.put("/canary/kv", VALUE * 200_000),
                lambda: coord.kv.put("/canary/kv", VALUE, lease=12345),
            ]
            shown += [written(failure_of(refusal)) for refusal in refusals]
        lock = coord.lock("canary")
        lock.acquire()
        expire(coord.session, coord)
        wait_until(lock.lost.is_set, what="the loss")
        shown.append(written(failure_of(lock.release)))
        return shown

    def test_a_dead_server(self, etcd_binary, recorder):
        """
        A write that nobody answers names its key and never its value.
        """
        with LocalEtcd(etcd_binary) as server, coordkit.connect(url_of(server)) as coord:
            coord.kv.put("/canary/kv", VALUE)
            server.kill()

            error = failure_of(lambda: coord.kv.put("/canary/kv", VALUE))
            dialling = failure_of(lambda: coordkit.connect(url_of(server)))

        assert "/canary/kv" in str(error)
        assert_clean(written(error) + written(dialling) + "\n".join(recorder.lines))
        assert_clean(written(error, with_locals=True) + written(dialling, with_locals=True), PASSWORD)


class Listener:
    """Keeps the events of a watch."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events
        self.revision = 0

    def on_created(self, revision: int) -> None:
        self.revision = revision

    def on_events(self, events: list[watch.Event]) -> None:
        self.events.extend(events)

    def on_gap(self, compacted: int) -> None:
        self.events.append(compacted)

    def on_refused(self, error: errors.CoordError) -> None:
        self.events.append(error)


class TestPassword:
    @pytest.mark.parametrize("how", ["URL", "argument"])
    def test_a_wrong_one_is_shown_nowhere(self, guarded, recorder, how):
        """
        Not even to tools that print a traceback's locals, as long as the caller does not keep it in one.
        """
        if how == "URL":
            refused = failure_of(lambda: coordkit.connect(url_of(guarded, password=PASSWORD + "-wrong")))
        else:
            url = f"etcd://{guarded.endpoint}/canary"
            refused = failure_of(lambda: coordkit.connect(url, user="root", password=PASSWORD + "-wrong"))

        assert isinstance(refused, errors.Unauthenticated)
        assert "authenticat" in str(refused)
        assert_clean(written(refused) + written(refused, with_locals=True) + "\n".join(recorder.lines))

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://root:{0}@h:1/ns",
            "root:{0}@h:port/ns",
            "etcd://root:{0}@h:99999/ns",
            "etcd://root:{0}@h:1/ns?bogus=1",
            "etcd://root:{0}@h:1/ns?ttl=0",
            "etcd://h:1/ns?password={0}",
            "etcd://root:{0}/x@h:1/ns",
            "etcd://root:1/{0}@h:1/ns",
            "etcd://root:1?{0}@h:1/ns",
            "etcd://root:{0}?x@h:1/ns",
            "etcd:/root:{0}@h:1/ns",
            "ftp://root:{0}?x@h:1/ns",
            "https://root:{0}@h:1/ns?cacert=/nowhere&key=x",
            "etcd://root:{0}@h:1/ns?cacert=/nowhere",
            "etcd://root:{0}@,/ns",
        ],
    )
    def test_a_url_that_cannot_be_used(self, url, recorder):
        """
        The error says what is wrong with it, and quotes nothing that may be a part of the password.
        """
        error = failure_of(lambda: coordkit.connect(url.format(PASSWORD)))

        assert isinstance(error, errors.InvalidValue)
        assert_clean(written(error) + "\n".join(recorder.lines))

    @pytest.mark.parametrize(
        "endpoint", ["http://root:{0}@h:1", "root:{0}@h", "unix:{0}@h", "tcp://root:{0}@h"]
    )
    def test_an_endpoint_takes_none(self, endpoint):
        """
        User and password belong into the URL or the arguments; an endpoint that holds them is not quoted.
        """
        text = endpoint.format(PASSWORD)

        assert_clean(written(failure_of(lambda: coordkit.connect([text]))))
        assert_clean(written(failure_of(lambda: address.Address.parse(text))))

    def test_the_environments(self, monkeypatch):
        """
        COORDKIT_URL, COORDKIT_PASSWORD and ETCDCTL_USER are read, and not repeated.
        """
        for name, value in (
            ("COORDKIT_PASSWORD", PASSWORD),
            ("ETCDCTL_USER", f"root:{PASSWORD}"),
            ("COORDKIT_URL", f"etcd://root:{PASSWORD}@h:1/ns?nonsense=1"),
        ):
            monkeypatch.setenv(name, value)
            if name == "COORDKIT_URL":
                error = failure_of(lambda: coordkit.connect())
                assert_clean(written(error))
            else:
                chosen = settings.resolve("etcd://h:1", {})
                assert chosen.options.password == PASSWORD
                assert_clean(repr(chosen))


class TestHeart:
    """Its native thread shares logging's locks with greenlets under gevent: so it never logs."""

    def test_what_it_runs_knows_no_logging(self):
        """
        Of all modules below the sessions that it runs one imports logging: fields, to silence hpack.
        """
        package = pathlib.Path(coordkit.__file__).parent
        below = [
            *package.glob("wire/*.py"),
            package / "errors.py",
            package / "deadline.py",
            package / "keys.py",
        ]
        below += [package / "etcd" / f"{name}.py" for name in hearts_modules()]
        logging_ones = {path.name for path in below if "logging" in imported(path)}

        assert logging_ones == {"fields.py"}
        assert "import logging" in pathlib.Path(fields.__file__).read_text()

    def test_hpack_is_silent_whatever_logging_was_told(self, recorder):
        """
        A header block is decoded without a record, and without a look at a level, which takes a lock.
        """
        asked: list[str] = []
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
        connection = http2.Connection()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                logging.Logger, "getEffectiveLevel", lambda log: asked.append(log.name) or logging.DEBUG
            )
            headers = connection._decoder.decode(b"\x88\x00\x05token\x0fcanary-pa55word")

        assert headers[b"token"] == PASSWORD.encode()
        assert asked == []
        assert recorder.lines == []

    def test_it_logs_nothing_through_an_outage(self, etcd_binary, namespace, recorder, monkeypatch):
        """
        Renewals, a server that dies, dials that fail, a loss: no logger is asked for its level by the heart.
        """
        asked: set[str] = set()
        beating = threading.local()
        hear = hearts.Heart._turn
        enabled = logging.Logger.isEnabledFor

        def turn(heart: hearts.Heart) -> None:
            beating.now = True
            hear(heart)

        def is_enabled(log: logging.Logger, level: int) -> bool:
            if getattr(beating, "now", False) and not log.disabled:
                asked.add(log.name)
            return enabled(log, level)

        monkeypatch.setattr(hearts.Heart, "_turn", turn)
        monkeypatch.setattr(logging.Logger, "isEnabledFor", is_enabled)
        with (
            LocalEtcd(etcd_binary) as server,
            coordkit.connect(f"etcd://{server.endpoint}/{namespace}", ttl=2) as coord,
        ):
            session = coord.session
            heart = hearts.heart_for(coord.client.options)
            wait_until(lambda: heart.renewals, what="a renewal")
            server.kill()
            wait_until(lambda: session.state is coordkit.State.SUSPENDED, what="the outage")
            server.start()
            wait_until(
                lambda: session.state is coordkit.State.ACTIVE or session.lost.is_set(), what="the end"
            )
            expire(session, coord)
            wait_until(session.lost.is_set, what="the loss")

        assert asked == set()


def hearts_modules() -> set[str]:
    """The modules of coordkit.etcd that the heart runs: what it imports, and what that imports."""
    folder = pathlib.Path(hearts.__file__).parent
    found, todo = set(), ["heart"]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [
                each.rpartition(".")[2]
                for each in imported(folder / f"{name}.py")
                if each.startswith("coordkit.etcd.")
            ]
    return found


def imported(path: pathlib.Path) -> set[str]:
    """The modules that a file imports, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if not name.startswith("coordkit.etcd.results.")}
