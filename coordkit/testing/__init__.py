"""What tests of programs that use coordkit need: private etcd servers and clusters, and faults.

The fixtures are in the module `pytest_coordkit`, which pytest loads by itself.
"""

from __future__ import annotations

from coordkit.testing.certificates import Certificates
from coordkit.testing.cluster import EtcdCluster
from coordkit.testing.etcd_program import EtcdNotFound
from coordkit.testing.etcd_server import EtcdFailed
from coordkit.testing.faults import compact, expire, partition, pause
from coordkit.testing.local_etcd import LocalEtcd
from coordkit.testing.netns import NetnsCluster, NetworkFailed
from coordkit.testing.proxy import FaultProxy

__all__ = [
    "Certificates",
    "EtcdCluster",
    "EtcdFailed",
    "EtcdNotFound",
    "FaultProxy",
    "LocalEtcd",
    "NetnsCluster",
    "NetworkFailed",
    "compact",
    "expire",
    "partition",
    "pause",
]
