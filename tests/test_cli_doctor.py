"""`coordkit doctor`: what it sees of real servers, what it says about that, and what it never shows."""

from __future__ import annotations

import re
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import consoles
import pytest

import coordkit
from coordkit import errors, settings
from coordkit.cli import failure, main
from coordkit.cli.doctor import examination, finding, health, origins, refusals, trial
from coordkit.cli.doctor.finding import Level
from coordkit.deadline import Deadline
from coordkit.etcd import pulse
from coordkit.testing import Certificates, EtcdCluster, LocalEtcd
from coordkit.wire import address, channel, messages

PASSWORD = "canary-pa55word"
NOWHERE = "127.0.0.1:1"  # a port that needs privileges; nobody here has them
TIMEOUT = ("--request-timeout", "10")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    consoles.clear_environment(monkeypatch)


class Told(consoles.Told):
    """What the doctor told."""

    def says(self, words: str, level: str = "problem") -> dict[str, str]:
        """The one finding that holds these words."""
        found = [each for each in self.document["findings"] if words in each["text"]]
        assert len(found) == 1, self.document["findings"]
        assert found[0]["level"] == level
        return found[0]


@pytest.fixture
def doctor(monkeypatch, whole_doctor) -> Callable[..., Told]:
    """The same without the second that the look at the lease's clock takes."""
    clock = health.LeaseClock(10, 10, 9.7, 10.0)
    monkeypatch.setattr(trial, "examine_clock", lambda client, ttl_s: clock)
    return whole_doctor


@pytest.fixture
def whole_doctor(capsys) -> Callable[..., Told]:
    """Runs the command in this process."""

    def run(*words: str) -> Told:
        return Told(*attrs.astuple(consoles.run(capsys, "doctor", *TIMEOUT, *words)))

    return run


def call(server: LocalEtcd, method: str, request: Any) -> bytes:
    limit = Deadline.after(30)
    connection = channel.Channel.connect(address.Address.parse(server.endpoint), limit)
    try:
        return connection.call(f"/etcdserverpb.{method}", request.SerializeToString(), limit)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def guarded(etcd_binary: str) -> Iterator[LocalEtcd]:
    """With authentication: root; `writer` and `reader` of /shop/; `stranger` without any role."""
    with LocalEtcd(etcd_binary) as server:
        for role, kind in (("writer", 2), ("reader", 0)):
            call(server, "Auth/RoleAdd", messages.AuthRoleAddRequest(name=role))
            allowed = messages.Permission(permType=kind, key=b"/shop/", range_end=b"/shop0")
            call(
                server,
                "Auth/RoleGrantPermission",
                messages.AuthRoleGrantPermissionRequest(name=role, perm=allowed),
            )
        for user in ("root", "writer", "reader", "stranger"):
            call(server, "Auth/UserAdd", messages.AuthUserAddRequest(name=user, password=PASSWORD))
            if user != "stranger":
                request = messages.AuthUserGrantRoleRequest(user=user, role=user)
                call(server, "Auth/UserGrantRole", request)
        call(server, "Auth/AuthEnable", messages.AuthEnableRequest())
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    pytest.importorskip("trustme", reason="trustme, of the test extra, is not installed")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(etcd_binary, certificates) -> Iterator[LocalEtcd]:
    with LocalEtcd(etcd_binary, tls=certificates) as server:
        yield server


class TestAHealthyServer:
    def test_all_is_well(self, whole_doctor, etcd, namespace, coord):
        """
        Exit status 0; every right is there, and nothing is left in the namespace.
        """
        told = whole_doctor("--url", f"etcd://{etcd.endpoint}/{namespace}")

        assert told.status == 0
        assert told.out.endswith("all is well\n")
        assert re.findall(r"^  (\w+) +yes ", told.out, re.MULTILINE) == [
            "lease",
            "watch",
            "write",
            "event",
            "read",
            "delete",
        ]
        assert not coord.kv.range(f"/{namespace}/")

    def test_the_document_says_what_the_server_says(self, doctor, etcd, namespace):
        """
        Version, role, ids, sizes and the quota, as etcd itself tells them.
        """
        told = doctor("--endpoints", etcd.endpoint, "--namespace", namespace, "--json").document

        status = messages.StatusResponse.FromString(
            call(etcd, "Maintenance/Status", messages.StatusRequest())
        )
        (endpoint,) = told["endpoints"]
        assert told["status"] == 0
        assert told["prefix"] == f"/{namespace}/"
        assert endpoint["url"] == f"http://{etcd.endpoint}"
        assert endpoint["version"] == etcd.version == status.version
        assert endpoint["role"] == "leader"
        assert endpoint["member"] == f"{status.header.member_id:x}" == told["members"][0]["id"]
        assert endpoint["cluster"] == f"{status.header.cluster_id:x}"
        assert endpoint["term"] == status.raftTerm
        assert endpoint["quota_bytes"] == 2 * 2**30
        assert 0 < endpoint["used_bytes"] <= endpoint["size_bytes"]
        assert [right["error"] for right in told["rights"]] == [None] * 6

    def test_its_leases_are_gone(self, whole_doctor, etcd, namespace):
        """
        Neither the trial's lease nor the clock's outlives the command.
        """

        def leases() -> set[int]:
            reply = call(etcd, "Lease/LeaseLeases", messages.LeaseLeasesRequest())
            return {lease.ID for lease in messages.LeaseLeasesResponse.FromString(reply).leases}

        before = leases()

        assert whole_doctor("--endpoints", etcd.endpoint, "--namespace", namespace).status == 0

        assert leases() <= before

    def test_our_deadline_comes_before_etcds(self, whole_doctor, etcd, namespace):
        """
        The lease of the configured TTL, seen from both sides.
        """
        told = whole_doctor("--endpoints", etcd.endpoint, "--namespace", namespace, "--ttl", "7", "--json")

        lease = told.document["lease"]
        assert (lease["asked_s"], lease["granted_s"]) == (7, 7)
        assert lease["deadline_s"] == pytest.approx(pulse.deadline_of(0, 7))
        assert lease["deadline_s"] < lease["end_s"] + lease["blur_s"]

    def test_where_history_begins(self, doctor, etcd_binary):
        """
        From the first revision, until somebody compacts.
        """
        with LocalEtcd(etcd_binary) as server, coordkit.connect(server.url) as coord:
            whole = doctor("--url", server.url, "--json")
            revision = coord.kv.put("/a", "b")
            call(server, "KV/Compact", messages.CompactionRequest(revision=revision))

            rest = doctor("--url", server.url, "--json")

        assert whole.document["compacted"] == 0
        assert rest.document["compacted"] == revision


class TestNobodyThere:
    def test_nobody_listens(self, doctor):
        """
        Exit status 69, which scripts know from `connect` too.
        """
        told = doctor("--endpoints", NOWHERE, "--json")

        assert told.status == told.document["status"] == failure.UNREACHABLE
        assert "start etcd" in told.says("nobody listens")["remedy"]

    def test_one_of_two_is_a_problem(self, doctor, etcd, namespace):
        """
        What answers is examined all the same.
        """
        told = doctor("--url", f"etcd://{NOWHERE},{etcd.endpoint}/{namespace}", "--json")

        assert told.status == 1
        assert told.says("nobody listens")["about"] == f"http://{NOWHERE}"
        assert [right["error"] for right in told.document["rights"]] == [None] * 6

    def test_tls_to_a_plain_port(self, doctor, etcd):
        """
        The port answers without TLS: it is not the network.
        """
        told = doctor("--url", f"etcds://{etcd.endpoint}", "--json")

        assert told.status == failure.UNREACHABLE
        assert "etcd://" in told.says("TLS was spoken to a port without TLS")["remedy"]

    def test_a_server_that_hangs_and_ctrl_c(self, etcd_binary, child, eventually):
        """
        The wait ends at once, with status 130 and without a traceback.
        """
        with LocalEtcd(etcd_binary) as server:
            server.pause()
            running = child(
                """
                import os, sys
                sys.stderr = sys.stdout
                from coordkit.cli import main
                sys.exit(main.main(["doctor", "--timeout", "60", "--endpoints", sys.argv[1]]))
                """,
                server.endpoint,
            )
            first = running.stdout.readline()
            while running.stdout.readline().strip():
                pass  # until the settings are told, and the dialling has begun
            running.send_signal(signal.SIGINT)
            rest, _ = running.communicate(timeout=30)

        assert first == "settings\n"
        assert running.returncode == failure.INTERRUPTED
        assert "Traceback" not in rest

    def test_a_server_that_hangs(self, etcd_binary, capsys):
        """
        The timeout is kept, and the firewall is suspected.
        """
        with LocalEtcd(etcd_binary) as server:
            server.pause()

            status = main.main(["doctor", "--timeout", "0.2", "--endpoints", server.endpoint])

        assert status == failure.UNREACHABLE
        assert "no answer in time" in capsys.readouterr().out

    @pytest.mark.parametrize("scheme", ["http", "https"])
    @pytest.mark.parametrize("host", ["a" * 70, ".example", "elsewhere.invalid"])
    def test_a_name_of_no_host(self, doctor, scheme, host):
        """
        Too long a label, a leading dot, or one that nobody knows.
        """
        told = doctor("--endpoints", f"{scheme}://{host}:2379", "--json")

        assert told.status == failure.UNREACHABLE
        assert told.says("the host's name")


class TestTls:
    def test_all_is_well(self, doctor, secure):
        """
        With the right certificates; the page of metrics is reached over TLS too.
        """
        told = doctor("--url", secure.url, "--json")

        assert told.status == 0
        assert told.document["endpoints"][0]["quota_bytes"] == 2 * 2**30

    def test_plain_to_a_port_with_tls(self, doctor, secure):
        """
        The port shows a certificate.
        """
        told = doctor("--endpoints", secure.endpoint.replace("https", "http"), "--json")

        assert told.status == failure.UNREACHABLE
        assert "etcds://" in told.says("wants TLS")["remedy"]

    def test_an_unknown_authority(self, doctor, secure):
        """
        Without cacert, nobody vouches for the server.
        """
        told = doctor("--endpoints", secure.endpoint, "--json")

        assert "cacert" in told.says("unknown authority")["remedy"]

    def test_no_certificate_of_ours(self, doctor, secure, certificates):
        """
        A server that wants one ends the connection behind the handshake.
        """
        told = doctor("--endpoints", secure.endpoint, "--cacert", certificates.cacert, "--json")

        assert "cert and key" in told.says("certificate")["remedy"]

    def test_a_file_that_is_not_there(self, doctor, secure):
        """
        That is a setting's fault: exit status 2, and the file is named.
        """
        told = doctor("--endpoints", secure.endpoint, "--cacert", "/nowhere/ca.pem")

        assert told.status == failure.USAGE
        assert "/nowhere/ca.pem" in told.err


class TestRights:
    @pytest.fixture
    def as_user(self, doctor, guarded, monkeypatch) -> Callable[..., Told]:
        def run(user: str, password: str = PASSWORD) -> Told:
            monkeypatch.setenv("COORDKIT_PASSWORD", password)
            return doctor("--url", f"etcd://{user}@{guarded.endpoint}/shop", "--json")

        return run

    @pytest.mark.parametrize("user", ["root", "writer"])
    def test_enough(self, as_user, user):
        """
        readwrite on the prefix is all that it takes.
        """
        told = as_user(user)

        assert told.status == 0
        assert [right["error"] for right in told.document["rights"]] == [None] * 6

    @pytest.mark.parametrize(
        ("user", "missing", "refused"),
        [
            ("reader", "no write permission", "write, delete"),
            ("stranger", "no read and write permission", "watch, write, read, delete"),
        ],
    )
    def test_which_grant_is_missing(self, as_user, user, missing, refused):
        """
        And the command that would give it.
        """
        told = as_user(user)

        found = told.says(missing)
        assert told.status == 1
        assert found["about"] == "/shop/"
        assert f"(refused: {refused})" in found["text"]
        assert found["remedy"] == "etcdctl role grant-permission ROLE readwrite --prefix=true /shop/"

    def test_another_namespace(self, doctor, guarded):
        """
        The prefix ends with a slash: /shopping/ is not /shop/.
        """
        told = doctor("--url", f"etcd://writer:{PASSWORD}@{guarded.endpoint}/shopping", "--json")

        assert told.says("no read and write permission")["about"] == "/shopping/"

    def test_no_user(self, doctor, guarded):
        """
        One finding, however many requests were refused for it.
        """
        told = doctor("--endpoints", guarded.endpoint, "--json")

        assert told.status == 1
        assert "COORDKIT_USER" in told.says("no user was given")["remedy"]

    def test_a_wrong_password(self, as_user):
        """
        The server is examined as far as it speaks to strangers.
        """
        told = as_user("writer", "canary-wrong-one")

        assert told.status == 1
        assert told.says("wrong password for the user 'writer'")
        assert told.document["endpoints"][0]["version"]
        assert not told.document["rights"]

    def test_a_user_where_nobody_asks_for_one(self, doctor, etcd, namespace):
        """
        Authentication that is off protects nothing, and should not look as if it did.
        """
        told = doctor("--url", f"etcd://u:{PASSWORD}@{etcd.endpoint}/{namespace}", "--json")

        assert told.status == 0
        assert told.says("authentication is off", "advice")


class TestSpace:
    def test_the_alarm(self, doctor, etcd_binary):
        """
        One finding, although the grant of a lease is refused as well; reads and deletes are still tried.
        """
        with LocalEtcd(etcd_binary) as server:
            status = messages.StatusResponse.FromString(
                call(server, "Maintenance/Status", messages.StatusRequest())
            )
            alarm = messages.AlarmRequest(action=1, memberID=status.header.member_id, alarm=messages.NOSPACE)
            call(server, "Maintenance/Alarm", alarm)

            told = doctor("--url", server.url, "--json")

        refused = {right["name"] for right in told.document["rights"] if right["error"]}
        assert told.status == 1
        assert "alarm disarm" in told.says("out of space")["remedy"]
        assert refused == {"lease"}


class TestEndpoints:
    def test_a_cluster_and_one_member_less(self, doctor, etcd_binary):
        """
        One leads, whatever it is asked by; a dead member is a problem, a majority still works.
        """
        with EtcdCluster(binary=etcd_binary) as cluster:
            whole = doctor("--url", cluster.url, "--json")
            part = doctor("--endpoints", cluster.endpoints[0])
            leader = cluster.leader()
            leader.kill()
            cluster.leader()

            rest = doctor("--url", cluster.url, "--json")

        roles = sorted(endpoint["role"] for endpoint in whole.document["endpoints"])
        assert whole.status == 0
        assert roles == ["follower", "follower", "leader"]
        assert len({endpoint["leader"] for endpoint in whole.document["endpoints"]}) == 1
        assert "1 of 3 members are named" in part.out
        assert rest.status == 1
        assert rest.says("nobody listens")["about"] == f"http://{leader.endpoint}"
        assert [right["error"] for right in rest.document["rights"]] == [None] * 6

    def test_two_clusters(self, doctor, etcd, etcd_binary, namespace):
        """
        Locks in two clusters exclude nobody.
        """
        with LocalEtcd(etcd_binary) as another:
            told = doctor("--url", f"etcd://{etcd.endpoint},{another.endpoint}/{namespace}", "--json")

        assert told.status == 1
        assert told.says("different clusters")["about"] == "endpoints"

    def test_somebody_who_says_nothing(self, doctor):
        """
        The timeout is kept.
        """
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

            told = doctor("--timeout", "0.3", "--endpoints", f"127.0.0.1:{port}", "--json")

        assert told.status == failure.UNREACHABLE
        assert told.says("no answer in time")


class TestSettings:
    def test_each_value_has_its_source(self, doctor, monkeypatch):
        """
        The option, the URL, or the very variable; the earlier wins.
        """
        monkeypatch.setenv("COORDKIT_TTL", "21")
        monkeypatch.setenv("COORDKIT_NAMESPACE", "unused")
        monkeypatch.setenv("COORDKIT_URL", "etcd://u@unused:1/unused?identity=me")
        monkeypatch.setenv("ETCDCTL_USER", f"unused:{PASSWORD}")
        monkeypatch.setenv("ETCDCTL_DIAL_TIMEOUT", "9s")

        told = doctor("--url", f"etcd://{NOWHERE}/shop", "--timeout", "2", "--json").document["settings"]

        assert {name: (each["value"], each["source"]) for name, each in told.items()} == {
            "endpoints": (f"http://{NOWHERE}", "--url"),
            "namespace": ("shop", "--url"),
            "user": ("u", "COORDKIT_URL"),
            "password": (origins.HIDDEN, "ETCDCTL_USER"),
            "cacert": (None, None),
            "cert": (None, None),
            "key": (None, None),
            "ttl": ("21 s", "COORDKIT_TTL"),
            "timeout": ("2 s", "--timeout"),
            "identity": ("me", "COORDKIT_URL"),
        }

    def test_user_and_password_of_different_people(self, monkeypatch):
        """
        One of them etcdctl's: then they may not belong together.
        """
        monkeypatch.setenv("ETCDCTL_USER", f"root:{PASSWORD}")
        chosen = settings.resolve("etcd://shop@127.0.0.1", {})

        (found,) = origins.of_settings(chosen)

        assert "different places" in found.text
        assert not origins.of_settings(settings.resolve(f"etcd://shop:{PASSWORD}@127.0.0.1", {}))

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            (f"etcd://:{PASSWORD}@127.0.0.1", None),
            (f"etcd://u:{PASSWORD}@elsewhere.invalid", "without TLS"),
            ("etcd://u@127.0.0.1", "no password"),
            (f"etcds://u:{PASSWORD}@elsewhere.invalid", None),
        ],
    )
    def test_what_is_odd_before_anybody_is_asked(self, url, words):
        """
        A password in the clear, a user without one.
        """
        found = origins.of_settings(settings.resolve(url, {}))

        assert [words for _ in found] == [words for each in found if words and words in each.text]

    @pytest.mark.parametrize(
        "words",
        [
            ["--url", "gopher://h"],
            ["--endpoints", "h:99999"],
            ["--ttl", "0.5"],
            ["--namespace", "\udcff"],
            ["--url", f"etcd://root:{PASSWORD}@h:port"],
            ["--url", f"etcd://root:x/{PASSWORD}@h"],
            ["--endpoints", f"http://root:{PASSWORD}@h"],
        ],
        ids=range(7),
    )
    def test_a_setting_that_makes_no_sense(self, doctor, words):
        """
        Exit status 2, a sentence on standard error, and never the password.
        """
        told = doctor(*words)

        assert told.status == failure.USAGE
        assert told.err.startswith("coordkit: ")
        assert PASSWORD not in told.out + told.err

    @pytest.mark.parametrize(
        "words", [["--url", "a", "--endpoints", "b"], ["--ttl", "x"], ["--password", "x"]]
    )
    def test_a_wrong_command_line(self, words, capsys):
        """
        There is no --password: other users could read it in the list of processes.
        """
        with pytest.raises(SystemExit) as ended:
            main.main(["doctor", *words])

        assert ended.value.code == failure.USAGE
        assert "error:" in capsys.readouterr().err

    def test_help_has_an_example(self, capsys):
        """
        And the exit statuses.
        """
        with pytest.raises(SystemExit) as ended:
            main.main(["doctor", "--help"])

        shown = capsys.readouterr().out
        assert ended.value.code == 0
        assert "\n  coordkit doctor --url etcds://" in shown
        assert "69 no endpoint" in shown


class TestThePassword:
    @pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
    @pytest.mark.parametrize("user", ["writer", "reader", "nobody"])
    def test_it_is_never_shown(self, doctor, guarded, monkeypatch, user, form):
        """
        Whether it is right or wrong, and nothing tells its length.
        """
        hidden = re.compile(r'^.*password[^"]*hidden.*$|"value": "\(hidden\)"', re.MULTILINE)
        shown = []
        for password in (PASSWORD, PASSWORD * 3):
            monkeypatch.setenv("COORDKIT_PASSWORD", password)
            told = doctor("--url", f"etcd://{user}@{guarded.endpoint}/shop", *form)
            assert PASSWORD not in told.out + told.err
            shown.append(hidden.findall(told.out))

        assert shown[0] == shown[1] != []

    def test_the_token_is_not_shown(self, doctor, guarded, monkeypatch):
        """
        It is as good as the password, for a while.
        """
        tokens = []
        ask = channel.Channel.call

        def spy(connection: channel.Channel, method: str, *arguments: Any) -> bytes:
            reply = ask(connection, method, *arguments)
            if method.endswith("Authenticate"):
                tokens.append(messages.AuthenticateResponse.FromString(reply).token)
            return reply

        monkeypatch.setattr(channel.Channel, "call", spy)

        told = doctor("--url", f"etcd://writer:{PASSWORD}@{guarded.endpoint}/shop", "--json")

        assert told.status == 0
        assert len(tokens) >= 2
        assert not [token for token in tokens if token.partition(".")[0] in told.out + told.err]


# --- what is concluded, without a server


SEEN = health.Endpoint(
    "http://h:2379", version="3.5.30", cluster=1, member=2, leader=2, term=3, revision=50, size_bytes=1000
)


def texts(found: list[finding.Finding]) -> list[tuple[Level, str]]:
    return [(each.level, each.text) for each in found]


class TestVersions:
    @pytest.mark.parametrize("version", ["3.4.31", "3.4.40", "3.5.13", "3.5.30", "3.6.0-rc.1", "4.0.0"])
    def test_nothing_is_known_against(self, version):
        """
        Maintained releases.
        """
        assert health.of_version("h", version) == []

    @pytest.mark.parametrize(
        ("version", "level", "words"),
        [
            ("3.3.27", Level.PROBLEM, "too old"),
            ("3.4.23", Level.ADVICE, "lose events"),
            ("3.4.30", Level.ADVICE, "lose events"),
            ("3.5.0", Level.ADVICE, "lose consistency"),
            ("3.5.2", Level.ADVICE, "lose consistency"),
            ("3.5.3", Level.ADVICE, "lose events"),
            ("3.5.12", Level.ADVICE, "lose events"),
            ("banana", Level.ADVICE, "'banana'"),
        ],
    )
    def test_what_is_known_against_others(self, version, level, words):
        """
        Said with what to do.
        """
        (found,) = health.of_version("h", version)

        assert found.level is level
        assert words in found.text
        assert found.remedy


class TestMembers:
    def test_three_that_go_together(self):
        """
        Nothing to say about a leader and two followers.
        """
        others = [attrs.evolve(SEEN, url=f"http://h{n}:2379", member=n, revision=49) for n in (5, 6)]

        assert health.of_endpoints([SEEN, *others]) == []
        assert [each.role for each in (SEEN, *others)] == ["leader", "follower", "follower"]

    @pytest.mark.parametrize(
        ("change", "level", "words"),
        [
            ({"learner": True}, Level.PROBLEM, "learner"),
            ({"leader": 0}, Level.PROBLEM, "sees no leader"),
            ({"leader": 7, "member": 9}, Level.ADVICE, "different leaders"),
            ({"cluster": 9}, Level.PROBLEM, "different clusters"),
            ({"revision": 5000}, Level.PROBLEM, "4950 revisions behind"),
            ({"round_trip_ms": 250.0}, Level.ADVICE, "250 ms"),
            ({"authenticates": False}, Level.ADVICE, "authentication is off"),
        ],
    )
    def test_one_that_is_odd(self, change, level, words):
        """
        Beside one that is not.
        """
        odd = attrs.evolve(SEEN, url="http://odd:2379", **change)

        (found,) = health.of_endpoints([SEEN, odd])

        assert found.level is level
        assert words in found.text

    def test_what_is_said_of_several_is_said_once(self):
        """
        All are named.
        """
        found = [finding.advice(about, "old", "upgrade") for about in ("a", "b", "a")]

        (one,) = finding.merged(found)

        assert one.about == "a, b"


def unverified(text: str) -> ssl.SSLCertVerificationError:
    return ssl.SSLCertVerificationError(1, text)


class TestDialling:
    @pytest.mark.parametrize(
        ("cause", "otherwise", "words"),
        [
            (ConnectionRefusedError(111, "Connection refused"), None, "nobody listens"),
            (socket.gaierror(-2, "Name or service not known"), None, "name is not known"),
            (FileNotFoundError(2, "No such file"), None, "no such socket"),
            (TimeoutError("timed out"), None, "no answer in time"),
            (ConnectionResetError("closed"), True, "this port wants TLS"),
            (ConnectionResetError("closed"), False, "what was met"),
            (unverified("certificate verify failed: certificate has expired"), None, "expired"),
            (unverified("certificate verify failed: Hostname mismatch"), None, "another name"),
            (unverified("certificate verify failed: self-signed"), None, "unknown authority"),
            (ssl.SSLError(1, "tlsv13 alert certificate required"), None, "wants a certificate"),
            (ssl.SSLError(1, "tlsv1 alert unknown ca"), None, "authority of our certificate"),
            (ssl.SSLError(1, "no shared cipher"), None, "TLS failed"),
        ],
    )
    def test_why(self, cause, otherwise, words):
        """
        In plain words, with what to do.
        """
        found = refusals.of_dial("http://h:2379", "what was met", cause, otherwise)

        assert words in found.text
        assert found.remedy

    def test_a_servers_words_cannot_command_the_terminal(self):
        """
        Control characters are taken out, and length is bounded.
        """
        found = refusals.of_dial("http://h", "\x1b[31mred\x07" + "x" * 1000, None, None)

        assert "\x1b" not in found.text
        assert len(found.text) <= 300

    def test_an_endpoint_as_people_write_it(self):
        """
        With its scheme, for that is what is often wrong.
        """
        for text in ("http://h:1", "https://h:1", "http://[::1]:1", "unix:///x", "unixs:///x"):
            assert examination.url_of(address.Address.parse(text)) == text


class TestClock:
    def test_as_it_should_be(self):
        """
        Ours ends first; the clocks agree.
        """
        assert health.of_clock(health.LeaseClock(10, 10, 9.7, 10.002, 0.001, 0.003)) == []

    @pytest.mark.parametrize(
        ("clock", "level", "words"),
        [
            (health.LeaseClock(10, 10, 9.7, 9.5), Level.PROBLEM, "0.200 s before"),
            (health.LeaseClock(10, 10, 9.7, 9.9, 0.05, 0.01), Level.PROBLEM, "5.0% faster"),
            (health.LeaseClock(10, 10, 9.7, None), Level.ADVICE, "did not tell"),
            (health.LeaseClock(2, 15, 14.65, 15.1), Level.ADVICE, "15 s where 2 s"),
        ],
    )
    def test_what_is_wrong(self, clock, level, words):
        """
        An end before our deadline breaks what holds rely on.
        """
        (found,) = health.of_clock(clock)

        assert found.level is level
        assert words in found.text


class TestRoom:
    def test_there_is_room(self):
        """
        Quota known or not.
        """
        assert health.of_space([SEEN, attrs.evolve(SEEN, quota_bytes=2**31)], 0, 50) == []

    @pytest.mark.parametrize(
        ("change", "level", "words"),
        [
            ({"quota_bytes": 1100}, Level.PROBLEM, "91% of its quota"),
            ({"size_bytes": 2**30, "used_bytes": 2**20}, Level.ADVICE, "unused"),
            ({"alarms": ("memberID:1 alarm:NOSPACE ",)}, Level.PROBLEM, "out of space"),
            ({"alarms": ("memberID:1 alarm:CORRUPT ",)}, Level.PROBLEM, "corrupt"),
        ],
    )
    def test_there_is_little(self, change, level, words):
        """
        Said before the first write fails.
        """
        (found,) = health.of_space([attrs.evolve(SEEN, **change)], 0, 50)

        assert found.level is level
        assert words in found.text

    def test_a_long_history(self):
        """
        Nobody compacts: the database only grows.
        """
        (found,) = health.of_space([SEEN], 10, 200_000)

        assert "199990 revisions" in found.text
        assert health.of_space([SEEN], None, 200_000) == []

    @pytest.mark.parametrize(
        ("size_bytes", "text"),
        [(0, "0 bytes"), (999, "999 bytes"), (1023, "1023 bytes"), (20480, "20 KiB"), (2**31, "2 GiB")],
    )
    def test_sizes_for_people(self, size_bytes, text):
        """
        Three digits are enough.
        """
        assert finding.size(size_bytes) == text


class TestFailures:
    def test_an_outage_in_the_middle(self):
        """
        The step that was not answered is named.
        """
        right = refusals.Right("write", "write", 1.0, errors.Unavailable("put: gone"))

        (found,) = refusals.of_rights([right], "/x/", None, full=False)

        assert "write was not answered in time" in found.text

    def test_the_same_refusal_is_told_once(self):
        """
        Space that ran out between the look and the trial.
        """
        full = errors.QuotaExceeded("full")
        rights = [refusals.Right(name, "write", 1.0, full) for name in ("lease", "write")]

        assert len(refusals.of_rights(rights, "/x/", None, full=False)) == 1
        assert refusals.of_rights(rights, "/x/", None, full=True) == []
