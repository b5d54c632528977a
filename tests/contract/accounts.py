"""A server with accounts: root may all, and ann what lies under /ann/."""

from __future__ import annotations

from typing import Any

import coordkit
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.testing import LocalEtcd
from coordkit.wire import messages

SECRET = "canary-Zx9"  # stands in values and passwords, and must never be seen in an error

ACCOUNTS = [
    ("Auth/UserAdd", messages.AuthUserAddRequest(name="root", password=SECRET)),
    ("Auth/UserGrantRole", messages.AuthUserGrantRoleRequest(user="root", role="root")),
    ("Auth/UserAdd", messages.AuthUserAddRequest(name="ann", password=SECRET)),
    ("Auth/RoleAdd", messages.AuthRoleAddRequest(name="ann")),
    (
        "Auth/RoleGrantPermission",
        messages.AuthRoleGrantPermissionRequest(
            name="ann",
            perm=messages.Permission(
                permType=messages.Permission.READWRITE, key=b"/ann/", range_end=b"/ann0"
            ),
        ),
    ),
    ("Auth/UserGrantRole", messages.AuthUserGrantRoleRequest(user="ann", role="ann")),
    ("Auth/AuthEnable", messages.AuthEnableRequest()),
]


def enable_accounts(server: LocalEtcd) -> None:
    with coordkit.connect(server.url) as coord:
        for method, request in ACCOUNTS:
            ask(coord.client, method, request)


def ask(client: clients.Client, method: str, request: Any) -> Any:
    """One of the calls that coordkit itself never makes."""
    reply = getattr(messages, type(request).__name__.replace("Request", "Response"))
    return client.unary(f"/etcdserverpb.{method}", request, reply, Deadline.after(10))
