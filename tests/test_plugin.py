"""The pytest plugin, as users meet it: in a project of their own, in a pytest run of its own."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap
import xml.etree.ElementTree
from collections.abc import Callable, Mapping

import attrs
import pytest

from coordkit import testing
from coordkit.testing import FaultProxy, etcd_program
from coordkit.testing.running import RunningEtcd

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTEST = {"threads": ["-m", "pytest"], "gevent": ["-m", "gevent.monkey", "--module", "pytest"]}
IN_A_HURRY = "from coordkit.testing import leaks\nleaks.SETTLE_S = 1.0\n"
NO_ETCD = "from coordkit.testing import etcd_program\netcd_program._packaged_etcd = lambda: None\n"


@attrs.frozen
class Run:
    """A finished pytest run."""

    status: int
    output: str
    results: Mapping[str, str]  # by test: "passed", or why not


def environment(**changes: str) -> dict[str, str]:
    """Ours, less what is meant for other runs."""
    meant_for_others = ("CI", "PYTEST_", "COORDKIT_", "ETCDCTL_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(meant_for_others)}
    return {**kept, **changes}


def result(case: xml.etree.ElementTree.Element) -> str:
    said = [f"{each.tag}: {each.get('message')}\n{each.text}" for each in case if each.tag != "properties"]
    return "\n".join(said) or "passed"


@pytest.fixture(scope="module")
def run_tests(tmp_path_factory: pytest.TempPathFactory, mode: str) -> Callable[..., Run]:
    """`run_tests(source, *arguments, conftest="", **variables)`: a project with one file, run in this mode.

    The package is where it is; nothing else of this project, and no other plugin, is in the run.
    """

    def run(source: str, *arguments: str, conftest: str = "", **variables: str) -> Run:
        project = tmp_path_factory.mktemp("project")
        (project / "test_theirs.py").write_text(textwrap.dedent(source))
        (project / "conftest.py").write_text(textwrap.dedent(conftest))
        report = project / "report.xml"
        plugins = ["-p", "pytest_coordkit", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, *PYTEST[mode], *plugins, f"--junitxml={report}", "--strict-markers", *arguments],
            cwd=project,
            env=environment(PYTHONPATH=str(ROOT), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **variables),
            capture_output=True,
            text=True,
            timeout=50,
        )
        cases = xml.etree.ElementTree.parse(report).iter("testcase") if report.exists() else ()
        output = done.stdout + done.stderr
        return Run(done.returncode, output, {case.get("name", ""): result(case) for case in cases})

    return run


class TestLoading:
    def test_importing_it_imports_pytest_alone(self):
        """
        It is loaded in every run of its users, whatever they test: nothing of coordkit comes with it, and
        nothing that gevent patches.
        """
        source = (
            "import sys, pytest; old = {*sys.modules}; import pytest_coordkit; print(*{*sys.modules} - old)"
        )
        command = [sys.executable, "-c", source]

        output = subprocess.check_output(command, env=environment(PYTHONPATH=str(ROOT)), text=True)

        brought = {name.partition(".")[0] for name in output.split()}
        assert "pytest_coordkit" in brought
        assert brought <= {"pytest_coordkit", *sys.stdlib_module_names}
        assert not brought & {"ssl", "_ssl", "socket", "threading", "queue", "select", "http", "subprocess"}

    def test_a_project_may_patch_after_it_was_loaded(self, tmp_path, etcd):
        """
        A conftest that patches finds the process as if the plugin were not there, and the fixtures work then.
        """
        (tmp_path / "conftest.py").write_text(
            "import sys\n"
            "assert 'pytest_coordkit' in sys.modules\n"
            "assert not {'coordkit', 'ssl', 'gevent'} & {*sys.modules}\n"
            "from gevent import monkey\n"
            "monkey.patch_all()\n"
        )
        (tmp_path / "test_theirs.py").write_text("def test_it(coord):\n    with coord.lock('a'): pass\n")
        command = [sys.executable, "-W", "error::gevent.monkey.MonkeyPatchWarning", "-m", "pytest", "-q"]
        command += ["-p", "pytest_coordkit", "-p", "no:cacheprovider", f"--etcd-endpoints={etcd.endpoint}"]
        variables = environment(PYTHONPATH=str(ROOT), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")

        done = subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=50
        )

        assert "1 passed" in done.stdout, done.stdout + done.stderr


FIXTURES = """
    import pytest

    from coordkit import testing


    def test_the_server_runs(etcd_proc, etcd_exec):
        assert etcd_proc.running and etcd_proc.binary == etcd_exec

    def test_lock(coord):
        with coord.lock("a") as lock:
            assert lock.held

    def test_others_contend(coord, coord_factory, coord_namespace):
        other = coord_factory(ttl=3, identity="other")
        assert other.settings.namespace == coord.settings.namespace == coord_namespace
        with coord.lock("a"):
            assert not other.lock("a").acquire(blocking=False)

    @pytest.mark.parametrize("time", [1, 2])
    def test_the_same_name_in_another_test_is_another_lock(coord, time):
        assert not coord.lock("a").locked()
        coord.lock("a").acquire()

    def test_expire(coord):
        testing.expire(coord.session)

    def test_cluster(etcd_cluster):
        assert etcd_cluster.leader() in etcd_cluster.members and len(etcd_cluster.endpoints) == 3

    def test_without_endpoints(etcd_noproc):
        pass
"""


class TestFixtures:
    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, run_tests, etcd_binary) -> Run:
        # What is set around a run is for programs; a private server knows nothing of it.
        around = {"COORDKIT_CACERT": "/nowhere", "COORDKIT_TTL": "nonsense", "ETCDCTL_USER": "root:wrong"}
        return run_tests(FIXTURES, "-rs", COORDKIT_ETCD=str(etcd_binary), **around)

    @pytest.mark.parametrize(
        "test", sorted(set(re.findall(r"test_\w+", FIXTURES)) - {"test_without_endpoints"})
    )
    def test_a_project_can_use_them(self, run, test):
        """
        Each test of the project above passes.
        """
        found = {name: said for name, said in run.results.items() if name.partition("[")[0] == test}

        assert {*found.values()} == {"passed"}, run.output

    def test_the_top_of_the_run_shows_the_server(self, run, etcd_binary):
        """
        Its version and its path.
        """
        assert f"etcd {etcd_program.version_of(etcd_binary)} ({etcd_binary})" in run.output

    def test_etcd_noproc_needs_endpoints(self, run):
        """
        Without --etcd-endpoints the test is skipped, and says why.
        """
        assert (
            "skipped: no etcd that runs already was named: --etcd-endpoints"
            in run.results["test_without_endpoints"]
        )

    def test_all_of_it_can_run_on_a_server_that_is_there(self, run_tests, etcd):
        """
        With --etcd-endpoints nothing is started: coord is a coordinator of that server.
        """
        source = """
            def test_there(coord, etcd_noproc):
                assert coord.settings.options.endpoints[0].authority == etcd_noproc.endpoint == {endpoint!r}
        """

        run = run_tests(
            source.format(endpoint=etcd.endpoint),
            f"--etcd-endpoints={etcd.endpoint}",
            "--etcd-exec=/nowhere/etcd",
        )

        assert run.results == {"test_there": "passed"}, run.output
        assert f"etcd at {etcd.endpoint}" in run.output


class TestManual:
    def test_its_examples_pass(self, run_tests):
        """
        Every test that docs/testing.md shows.
        """
        page = (ROOT / "docs" / "testing.md").read_text()
        source = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))

        run = run_tests(source)

        assert {*run.results} == {*re.findall(r"def (test_\w+)", page)}
        others = {name: said for name, said in run.results.items() if said != "passed"}
        why = testing.netns.lacking()
        # One needs a network of its own, and says so where there can be none; nothing else excuses anything.
        assert {*others} == ({"test_a_leader_is_cut_off"} if why else set()), run.output
        assert all(why is not None and said.startswith(f"skipped: {why}") for said in others.values()), others

    def test_it_names_every_fixture_and_fault(self):
        """
        And whatever else there is in coordkit.testing.
        """
        page = (ROOT / "docs" / "testing.md").read_text()
        fixtures = re.findall(r"^def (\w+)\(", (ROOT / "pytest_coordkit.py").read_text(), re.MULTILINE)
        public = {name for name in fixtures if not name.startswith(("pytest_", "_"))}
        methods = {name for name, each in vars(FaultProxy).items() if callable(each) and name[0] != "_"}

        assert {name for name in public if f"`{name}`" not in page} == set()
        assert {name for name in testing.__all__ if name not in page} == {"EtcdFailed", "EtcdNotFound"}
        assert {name for name in methods if f"{name}(" not in page} == set()


LEAKS = """
    import threading

    import coordkit
    import pytest

    never = threading.Event()

    def test_clean(coord):
        with coord.lock("a"):
            coord.kv.put(f"/{coord.settings.namespace}/gone", b"x")
            coord.kv.delete(f"/{coord.settings.namespace}/gone")

    def test_held_to_the_end(coord):
        coord.lock("a").acquire()

    def test_waiting_to_the_end(coord, coord_factory):
        coord.lock("a").acquire()
        waiting = coord_factory().lock("a")

        def wait():
            try:
                waiting.acquire()
            except coordkit.CoordError:
                pass

        threading.Thread(target=wait, daemon=True).start()
        while len(waiting.contenders()) < 2:
            never.wait(0.01)

    def test_key(coord):
        coord.kv.put(f"/{coord.settings.namespace}/left", b"canary-value")

    @pytest.mark.coordkit_leaves("keys")
    def test_key_allowed(coord):
        coord.kv.put(f"/{coord.settings.namespace}/left", b"canary-value")

    def test_session(coord_factory, coord_namespace, etcd_noproc):
        test_session.kept = coordkit.connect(etcd_noproc.url, namespace=coord_namespace)
        test_session.kept.session

    @pytest.mark.coordkit_leaves("sessions")
    def test_session_allowed(coord_factory, coord_namespace, etcd_noproc):
        test_session_allowed.kept = coordkit.connect(etcd_noproc.url, namespace=coord_namespace)
        test_session_allowed.kept.session

    def test_thread(coord):
        threading.Thread(target=never.wait, name="forgotten", daemon=True).start()

    @pytest.mark.coordkit_leaves("threads", "keys")
    def test_thread_allowed(coord):
        threading.Thread(target=never.wait, daemon=True).start()

    def test_failed(coord):
        coord.kv.put(f"/{coord.settings.namespace}/left", b"canary-value")
        raise RuntimeError("its own trouble")

    @pytest.mark.coordkit_leaves("crumbs")
    def test_unknown_word(coord):
        pass

    def test_zz_nothing_is_there_any_more(etcd_noproc):
        with coordkit.connect(etcd_noproc.url) as witness:
            assert not [each.key for each in witness.kv.range("/test-") if each.key.endswith(b"/left")]
"""


class TestLeaks:
    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, run_tests, etcd_binary) -> Run:
        from coordkit.testing import LocalEtcd

        with LocalEtcd(etcd_binary) as server:
            return run_tests(LEAKS, f"--etcd-endpoints={server.endpoint}", conftest=IN_A_HURRY)

    @pytest.mark.parametrize(
        "test",
        [
            "clean",
            "held_to_the_end",
            "waiting_to_the_end",
            "key_allowed",
            "session_allowed",
            "thread_allowed",
        ],
    )
    def test_what_is_gone_or_allowed_is_no_leak(self, run, test):
        """
        Closing the coordinators ends holds and waits; the mark names what may stay.
        """
        assert run.results[f"test_{test}"] == "passed", run.output

    @pytest.mark.parametrize(
        ("test", "what"),
        [
            ("key", r"keys: b'/test-\w+/left'"),
            ("session", r"sessions: b'/test-\w+/session/\w+'"),
            ("thread", r"threads: 'forgotten', daemonic"),
        ],
    )
    def test_what_is_left_behind_fails_the_test(self, run, test, what):
        """
        It is named, and nothing else is.
        """
        said = run.results[f"test_{test}"]

        assert said.startswith("error: "), run.output
        assert re.search(rf"this test left behind\s+{what}", said), said
        assert len(re.findall("(keys|sessions|threads): ", said.rpartition("this test left behind")[2])) == 1

    def test_a_failure_is_told_once(self, run):
        """
        Who failed had no chance to clean up: only the failure is reported.
        """
        assert run.results["test_failed"].startswith("failure: RuntimeError: its own trouble")
        assert "left behind" not in run.results["test_failed"]

    def test_an_unknown_word_in_the_mark_is_an_error(self, run):
        """
        Rather than allowing nothing in silence.
        """
        assert "coordkit_leaves takes keys, sessions, threads; not crumbs" in run.results["test_unknown_word"]

    def test_keys_are_removed(self, run):
        """
        On a server that others use, too, nothing stays.
        """
        assert run.results["test_zz_nothing_is_there_any_more"] == "passed", run.output

    def test_no_value_is_shown(self, run):
        """
        What was stored is not the report's business.
        """
        said = "".join(said for test, said in run.results.items() if test != "test_failed")

        assert "canary" not in said


class TestServer:
    ASKS = "def test_it(etcd_exec):\n    print('found', etcd_exec)\n"

    def test_none_is_a_reason_to_skip(self, run_tests, tmp_path):
        """
        It says how to get one; the top of the run says that there is none.
        """
        run = run_tests(self.ASKS, conftest=NO_ETCD, PATH=str(tmp_path))

        assert run.status == 0
        assert run.results["test_it"].startswith(
            "skipped: no etcd server was found: pip install 'coordkit[etcd]'"
        )
        assert "No etcd server was found" in run.output

    def test_none_is_a_failure_where_nobody_reads_reasons(self, run_tests, tmp_path):
        """
        With CI set a missing server must not look like success.
        """
        run = run_tests(self.ASKS, conftest=NO_ETCD, PATH=str(tmp_path), CI="true")

        assert run.status == 1
        assert "no etcd server was found" in run.results["test_it"]

    def test_one_that_was_named_and_is_not_there_is_a_failure(self, run_tests):
        """
        What was asked for on purpose is neither replaced nor skipped.
        """
        run = run_tests(self.ASKS, "--etcd-exec=/nowhere/etcd")

        assert run.status == 1
        assert "'/nowhere/etcd', which cannot be run" in run.results["test_it"]

    def test_the_option_comes_before_the_variable(self, run_tests, tmp_path):
        """
        And the variable before what is installed.
        """
        for name in ("option", "variable"):
            (tmp_path / name).write_text("#!/bin/sh\necho etcd Version: 9.9\n")
            (tmp_path / name).chmod(0o755)
        variable = str(tmp_path / "variable")

        both = run_tests(self.ASKS, "-s", f"--etcd-exec={tmp_path / 'option'}", COORDKIT_ETCD=variable)
        one = run_tests(self.ASKS, "-s", COORDKIT_ETCD=variable)

        assert f"found {tmp_path / 'option'}\n" in both.output
        assert f"found {variable}\n" in one.output
        assert f"etcd 9.9 ({variable})" in one.output

    def test_a_run_that_needs_none_does_not_look_for_one(self, run_tests):
        """
        In a project that does something else nobody notices that the plugin is there.
        """
        source = "import sys\ndef test_it():\n    assert 'coordkit' not in sys.modules\n"

        run = run_tests(source)

        assert run.results == {"test_it": "passed"}, run.output
        assert "etcd" not in run.output


class TestRunningEtcd:
    @pytest.mark.parametrize(
        ("where", "url", "endpoints"),
        [
            ("h1:2379,h2:2379", "etcd://h1:2379,h2:2379/coordkit", ("h1:2379", "h2:2379")),
            ("https://h1:2379,https://h2:2379", "etcds://h1:2379,h2:2379/coordkit", ("h1:2379", "h2:2379")),
            ("etcds://me:secret@h1:2379/ns?ttl=3", "etcds://me:secret@h1:2379/ns?ttl=3", ("h1:2379",)),
        ],
    )
    def test_endpoints_are_written_as_people_write_them(self, where, url, endpoints):
        """
        A list of them, or a URL; whose password is not shown.
        """
        running = RunningEtcd.at(where)

        assert (running.url, running.endpoints, running.endpoint) == (url, endpoints, endpoints[0])
        assert "secret" not in repr(running)


@pytest.mark.soak
class TestInstalled:
    def test_a_fresh_environment_needs_nothing_but_the_package(self, tmp_path):
        """
        In a project far from this one: install the package and pytest, write a test, run it.
        """
        python = tmp_path / "environment" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        pip = [str(python), "-m", "pip", "-q", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "pip>=23.1"], env=environment(), check=True)
        copy = tmp_path / "copy"  # for pip leaves its traces in what it installs from
        shutil.copytree(ROOT / "coordkit", copy / "coordkit", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.cfg", "pyproject.toml", "pytest_coordkit.py", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, copy)
        subprocess.run([*pip, f"{copy}[etcd]", "pytest"], cwd=tmp_path, env=environment(), check=True)
        shutil.rmtree(copy)
        (tmp_path / "test_theirs.py").write_text(textwrap.dedent(FIXTURES))

        for how in PYTEST.values():
            command = [str(python), *how, "-rs", "test_theirs.py"]
            done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)

            assert done.returncode == 0, done.stdout + done.stderr
            assert re.search(r"plugins: .*coordkit-", done.stdout)
            assert "7 passed, 1 skipped" in done.stdout
