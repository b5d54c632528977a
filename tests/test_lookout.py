"""The lookout: every put is written down, and so is that some may be missing."""

from __future__ import annotations

import coordkit
from coordkit.testing import FaultProxy, LocalEtcd, compact, history
from coordkit.testing.lookout import Lookout
from coordkit.testing.recorder import Recorder


def test_it_sees_each_put_and_says_when_it_may_have_missed_some(etcd_binary, tmp_path, eventually):
    """
    What was compacted while its connection was gone is told by nobody.
    """
    path = tmp_path / "history.jsonl"
    with (
        LocalEtcd(etcd_binary) as etcd,
        FaultProxy(etcd.endpoint) as proxy,
        coordkit.connect(etcd.url) as near,
        coordkit.connect(proxy.url, ttl=60) as far,
    ):

        def seen() -> list[tuple[str, str]]:
            return [(each.kind.value, each.subject) for each in history.load(path)]

        with Lookout(far, b"/seen/", Recorder(path).witness("lookout")):
            near.kv.put("/seen/a", b"")
            near.kv.delete("/seen/a")
            near.kv.put("/seen/a", b"")
            eventually(lambda: len(seen()) == 2)

            proxy.refuse()
            proxy.reset()
            near.kv.put("/seen/b", b"")
            near.kv.put("/seen/c", b"")
            compact(near)
            proxy.heal()
            eventually(lambda: len(seen()) == 3, within_s=30)
            near.kv.put("/seen/d", b"")
            eventually(lambda: len(seen()) == 4)

    assert seen() == [("observe", "a"), ("observe", "a"), ("gap", ""), ("observe", "d")]
