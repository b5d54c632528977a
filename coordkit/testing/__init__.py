"""What tests of programs that use coordkit need: a private etcd."""

from __future__ import annotations

from coordkit.testing.etcd_program import EtcdNotFound
from coordkit.testing.local_etcd import EtcdFailed, LocalEtcd

__all__ = ["EtcdFailed", "EtcdNotFound", "LocalEtcd"]
