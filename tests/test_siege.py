"""All primitives on a cluster at once, while its members fail: nothing is granted twice, nothing is lost."""

from __future__ import annotations

import json

import pytest

from coordkit.testing import EtcdCluster, etcd_program, siege, soak

QUICK = ("--heartbeat-interval=20", "--election-timeout=200")


@pytest.fixture
def cluster(mode: str, etcd_binary: str):
    if mode == "gevent":
        pytest.skip("a siege is one process of threads; it is run once, in the other mode")
    with EtcdCluster(3, etcd_binary, arguments=QUICK) as cluster:
        yield cluster


def must_agree(report: siege.Report) -> None:
    """Servers that lose their consistency in a crash can be no witness; only those may that are known to."""
    if not report.members_agree and report.version in etcd_program.INCONSISTENT:
        pytest.xfail(f"the members of etcd {report.version} do not agree with each other any more")
    assert report.members_agree


@pytest.mark.timeout(120)
def test_three_faults(cluster):
    """
    Whatever the seed: no rule is broken, nobody hangs, nothing is left behind.
    """
    report = siege.Siege(cluster, seed=3).run(faults=3)

    print(report.as_markdown())
    must_agree(report)
    assert report.violations == {}
    assert sum(report.faults.values()) == 3
    assert json.loads(report.as_json())["operations"] == report.operations > 300


@pytest.mark.timeout(240)
def test_a_soak_goes_on_where_it_was_ended(mode, etcd_binary, tmp_path, monkeypatch, capsys):
    """
    A part that is there counts; what is missing is done with the next seed, and the sum is told.
    """
    if mode == "gevent":
        pytest.skip("a siege is one process of threads; it is run once, in the other mode")
    monkeypatch.setenv("COORDKIT_ETCD", etcd_binary)
    enough = {"lock": 100, "queue": 100, "topic": 40}
    before = siege.Report("3.5.30", 7, 60.0, "elsewhere", {"compaction": 2}, {}, {}, True, enough)
    (tmp_path / "part-001.json").write_text(before.as_json())
    asked = ["--volume", "100", "--seed", "7", "--reports", str(tmp_path)]

    assert soak.main([*asked, "--faults", "2"]) == 0

    part = siege.Report.from_json((tmp_path / "part-002.json").read_text())
    done = siege.Report.from_json((tmp_path / "soak.json").read_text())
    assert part.seed == 8
    assert done.volumes == {name: enough[name] + part.volumes[name] for name in enough}
    assert done.volumes["topic"] >= 100
    assert done.operations == part.operations > 0
    assert "with the seeds 7, 8" in (tmp_path / "soak.md").read_text()
    capsys.readouterr()

    assert soak.main([*asked, "--faults", "2"]) == 0

    assert "with the seeds 7, 8" in capsys.readouterr().out
    assert len(list(tmp_path.glob("part-*.json"))) == 2


def test_a_soak_that_broke_a_rule_says_so_and_goes_no_further(tmp_path, capsys):
    """
    However little was done: what is wrong comes first.
    """
    wrong = {"lock": ["overlap: two holders"]}
    told = {"lock": {"ok": 3}}
    part = siege.Report("3.5.30", 1, 60.0, "elsewhere", {"compaction": 1}, told, wrong, True, {})
    (tmp_path / "part-001.json").write_text(part.as_json())

    assert soak.main(["--reports", str(tmp_path)]) == 1

    assert "lock: seed 1: overlap: two holders" in capsys.readouterr().out
    assert len(list(tmp_path.glob("part-*.json"))) == 1
