"""The examples run, say what they promise, and leave nothing behind; in plain threads and under gevent."""

from __future__ import annotations

import datetime
import os
import pathlib
import re
import subprocess
import sys

import pytest

from coordkit.testing import loopback

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "etcd_server.py")
PRELUDE = "from gevent import monkey; monkey.patch_all(); assert monkey.is_module_patched('socket')\n"
LOG_LINE = re.compile(
    r"(?P<time>\S+) (?P<level>[A-Z]+) quickstart\.py:(?P<line>\d+) (?P<caller>\w+): (?P<text>.*)"
)


@pytest.fixture
def script(tmp_path, mode):
    """The path of an example; under gevent that of a copy which patches itself, and its workers."""

    def find(name: str) -> pathlib.Path:
        if mode == "threads":
            return EXAMPLES / name
        copy = tmp_path / name
        copy.write_text(PRELUDE + (EXAMPLES / name).read_text())
        return copy

    return find


@pytest.fixture
def run(script):
    """Runs an example to its end: `run(name, *arguments)`."""

    def start(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("COORDKIT_")}
        path = os.pathsep.join([str(EXAMPLES.parent), str(EXAMPLES)])
        return subprocess.run(
            [sys.executable, str(script(name)), *arguments],
            env={**inherited, "PYTHONPATH": path, **variables},
            capture_output=True,
            text=True,
            timeout=50,
        )

    return start


@pytest.fixture
def url(etcd, namespace, coord, eventually):
    """Of the server; after the test no key stays that was not there before.  Those of the killed run out."""
    before = {found.key for found in coord.kv.range("")}
    yield f"etcd://{etcd.endpoint}/{namespace}"
    eventually(lambda: {found.key for found in coord.kv.range("")} <= before)


class TestQuickstart:
    def test_each_step_is_logged_with_time_level_and_caller(self, run, script, url):
        """
        Times are ISO 8601 with an offset; file, line and function are those of the logging call.
        """
        done = run("quickstart.py", url)

        assert (done.returncode, done.stderr) == (0, "")
        lines = [LOG_LINE.fullmatch(line) for line in done.stdout.splitlines()]
        assert all(lines), done.stdout
        assert all(datetime.datetime.fromisoformat(line["time"]).utcoffset() is not None for line in lines)
        source = script("quickstart.py").read_text().splitlines()
        assert all("log.info(" in source[int(line["line"]) - 1] for line in lines)
        assert {(line["level"], line["caller"]) for line in lines} == {
            ("INFO", "main"),
            ("INFO", "keys"),
            ("INFO", "mutex"),
        }

    def test_it_writes_reads_deletes_locks_and_unlocks(self, run, url):
        """
        In this order; the lock has a fence.
        """
        done = run("quickstart.py", url)

        told = [LOG_LINE.fullmatch(line)["text"].split(" ")[0] for line in done.stdout.splitlines()]
        assert told == [
            "connected:", *["put"] * 3, *["read"] * 3, "deleted", "locked", "unlocked", "disconnected",
        ]  # fmt: skip
        assert re.search(r"locked /funtester/: fence [1-9]\d*, ours for another \d\.\d s", done.stdout)


class TestCriticalSection:
    @pytest.mark.parametrize("store", ["file", "etcd"])
    def test_no_addition_is_lost(self, run, url, store):
        """
        Three processes add eight times each.
        """
        arguments = ("--store", store, "--workers", "3", "--rounds", "8")

        done = run("critical_section.py", *arguments, COORDKIT_URL=url)

        assert done.stdout == (
            f"3 processes x 8 additions, counter in {store}: 24 of 24, exit statuses [0, 0, 0]: correct\n"
        )
        assert (done.returncode, done.stderr) == (0, "")


class TestGevent:
    def test_greenlets_exclude_each_other_and_computing_does_not_cost_the_lock(self, run, url):
        """
        The second line is printed only if the lock was verified to be ours at its release.
        """
        done = run("gevent_critical_section.py", url)

        assert done.stdout.splitlines() == [
            "8 greenlets x 5 deposits: 40 of 40: correct",
            "computed for 3.0 s with a lease of 2 s: the lock was ours to the end",
        ]
        assert (done.returncode, done.stderr) == (0, "")


class TestLocks:
    def test_readers_never_see_half_a_change(self, run, url):
        """
        Four readers beside a writer; nothing is left in etcd.
        """
        done = run("read_mostly_cache.py", url)

        assert done.stdout == "40 of 40 reads were consistent; the last change was seen: True\n"
        assert (done.returncode, done.stderr) == (0, "")

    def test_no_more_connections_than_the_limit(self, run, url):
        """
        Six workers, and a limit that changes while they are at it; nothing is left in etcd.
        """
        done = run("connection_limiter.py", url)

        assert done.stdout == "24 of 24 queries, never more than 3 at once: True; 3 permits left\n"
        assert (done.returncode, done.stderr) == (0, "")

    def test_money_moves_and_the_sum_stays(self, run, url):
        """
        Three processes lock two accounts at a time, and books that a function locks twice.
        """
        done = run("bank_transfers.py", url, "--workers", "3", "--transfers", "10")

        said = "3 tellers x 10 transfers: the sum is 400 of 400, and the books agree: correct\n"
        assert done.stdout == said, done.stderr
        assert (done.returncode, done.stderr) == (0, "")

    def test_many_threads_of_two_processes_number_without_a_gap(self, run, url):
        """
        In fewer turns than there are numbers, for the lock is handed on within a process.
        """
        done = run("invoice_numbers.py", url, "--threads", "8", "--invoices", "10")

        found = re.fullmatch(
            r"2 processes x 8 threads: 160 of 160 invoices without a gap, "
            r"in (\d+) turns of a process: correct\n",
            done.stdout,
        )
        assert found, done.stderr
        assert int(found[1]) < 160
        assert (done.returncode, done.stderr) == (0, "")


class TestCounters:
    def test_each_hit_counts_and_each_prize_is_won_once(self, run, url):
        """
        Three processes of eight threads.
        """
        done = run("page_hits.py", url, "--hits", "200")

        said = "3 processes x 200 hits: 600 of 600, 30 prizes, each won once: correct\n"
        assert done.stdout == said, done.stderr
        assert (done.returncode, done.stderr) == (0, "")


class TestMeetings:
    def test_phases_do_not_mix(self, run, url):
        """
        What several processes compute is what one computes.
        """
        done = run("heat_in_a_rod.py", url, "--workers", "3", "--steps", "10")

        assert done.stdout == "3 processes x 10 steps: as one loop computes it: correct\n", done.stderr
        assert (done.returncode, done.stderr) == (0, "")

    def test_nobody_works_during_the_maintenance(self, run, url):
        """
        Three workers stop at the gate, and go on.
        """
        done = run("maintenance.py", url, "--workers", "3")

        assert done.stdout == "3 workers stopped at the gate, and went on: correct\n", done.stderr
        assert (done.returncode, done.stderr) == (0, "")


class TestStartTogether:
    def test_nobody_starts_before_all_are_ready(self, run, url):
        """
        Three processes, two rounds; nothing is left in etcd.
        """
        done = run("start_together.py", url, "--workers", "3", "--rounds", "2")

        assert done.stdout == "3 processes started together in 2 of 2 rounds\n"
        assert (done.returncode, done.stderr) == (0, "")


class TestQueues:
    def test_jobs_survive_the_death_of_any_worker(self, run, url):
        """
        Each counts once, for its effect and its ack are one transaction.
        """
        done = run("job_workers.py", url, "--workers", "3", "--jobs", "40", "--kills", "2")

        assert done.stdout == "40 jobs, 2 workers killed: sum 820 of 820: correct\n", done.stderr
        assert done.returncode == 0

    def test_two_hundred_greenlets_fetch_each_page_once(self, run, url):
        """
        However often it is linked.
        """
        done = run("gevent_crawler.py", url)

        assert done.stdout == "200 greenlets, 300 pages of 300, each once: correct\n", done.stderr
        assert (done.returncode, done.stderr) == (0, "")


class TestTopics:
    def test_every_worker_applies_every_change(self, run, url):
        """
        Although each is killed once.
        """
        done = run("config_fan_out.py", url, "--workers", "2", "--changes", "20")

        lines = done.stdout.splitlines()
        assert (done.returncode, done.stderr) == (0, "")
        assert lines[0] == "2 workers, each killed once: 2 have applied all 20 changes"
        assert int(re.search(r": (\d+), at most 2", lines[1])[1]) <= 2

    def test_who_comes_later_reads_what_was_said(self, script, url, coord):
        """
        Two chats, one after the other.
        """
        path = os.pathsep.join([str(EXAMPLES.parent), str(EXAMPLES)])

        def chat(who: str, says: str) -> str:
            command = [sys.executable, str(script("chat.py")), url, who]
            environment = {**os.environ, "PYTHONPATH": path}
            done = subprocess.run(
                command, input=says, capture_output=True, text=True, timeout=50, env=environment
            )
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout

        assert chat("ann", "hello\n") == "ann: hello\nann: (leaves)\n"
        assert chat("bob", "hi\n").endswith("ann: hello\nann: (leaves)\nbob: hi\nbob: (leaves)\n")
        coord.kv.delete_prefix(f"/{coord.settings.namespace}/topic/")


class TestElections:
    @pytest.mark.parametrize(
        ("program", "said"),
        [
            (
                "leader_takeover.py",
                "3 workers, 1 leader killed, 2 led, with rising fences: correct",
            ),
            ("cron_once.py", "3 replicas, 4 slots: 4 runs: correct"),
            ("gunicorn_scheduler.py", "2 gevent workers, one scheduler, killed, one scheduler: correct"),
            ("scheduler.py", "APScheduler ran with the first leader, then with the second: correct"),
            ("celery_beat.py", "2 replicas, one beat, killed, one beat: correct"),
            ("periodic_job.py", "2 processes, one reported, then the other; no line is lost: correct"),
        ],
    )
    def test_it_says_what_it_promises(self, run, url, program, said):
        """
        One leader at a time, one run a slot.
        """
        done = run(program, url)

        assert (done.returncode, done.stdout, done.stderr) == (0, f"{said}\n", "")


class TestLeftOut:
    @pytest.mark.parametrize(
        ("program", "package"),
        [
            ("celery_beat.py", "celery"),
            ("gunicorn_scheduler.py", "gunicorn"),
            ("scheduler.py", "apscheduler"),
        ],
    )
    def test_a_package_that_is_not_there_is_named(self, run, url, tmp_path, program, package):
        """
        At once, and it is no failure.
        """
        (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
        path = os.pathsep.join([str(EXAMPLES.parent), str(EXAMPLES), str(tmp_path)])

        done = run(program, url, PYTHONPATH=path)

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("left out: ")
        assert f"pip install {package}" in done.stdout.replace("'", "")


@pytest.mark.parametrize("program", PROGRAMS)
class TestWithoutAServer:
    def test_a_server_that_is_not_there_is_named_with_ways_to_get_one(self, run, program):
        """
        No traceback: what was tried, what to do, and exit status 69.
        """
        (port,) = loopback.free_ports(1)

        done = run(program, f"etcd://127.0.0.1:{port}/nobody", COORDKIT_TIMEOUT="0.5")

        assert (done.returncode, done.stdout) == (69, ""), done.stderr
        assert f"127.0.0.1:{port}" in done.stderr.splitlines()[0]
        assert "make demo" in done.stderr
        assert "coordkit[etcd]" in done.stderr
        assert "Traceback" not in done.stderr

    def test_without_a_url_nothing_is_started(self, run, program):
        """
        The message names the variable, and the three steps to a server.
        """
        done = run(program)

        assert (done.returncode, done.stdout) == (69, ""), done.stderr
        assert "COORDKIT_URL is not set" in done.stderr
        assert f"{program} etcd://127.0.0.1:2379/examples" in done.stderr
