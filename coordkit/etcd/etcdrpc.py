"""What stands in for `etcd3.etcdrpc`: our messages under its names, and stubs for any channel.

The etcd3 package carries generated code that protobuf 4 and newer refuse to load.  When `sys.modules` holds
another module of that name before etcd3 is imported, etcd3 takes that one, and runs on every protobuf from
3.20 on.  The stubs fit grpcio's channels too, so `etcd3.client()` works as ever.  Servicers, which only a
server needs, are left out.

Cost: 1 ms at import; neither etcd3 nor grpc is imported.
"""

from __future__ import annotations

import sys
import typing

from coordkit.wire import messages

NAME = "etcd3.etcdrpc"

#: The modules of the generated code; each stands for the whole.
PARTS = ("rpc_pb2", "kv_pb2", "auth_pb2", "rpc_pb2_grpc")

#: Each service's calls, by the kind of call as grpc.Channel names it.  Where the messages are not named after
#: the call, their name follows it.
SERVICES: dict[str, dict[str, str]] = {
    "KV": {"unary_unary": "Range Put DeleteRange Txn Compact=Compaction"},
    "Watch": {"stream_stream": "Watch"},
    "Lease": {
        "unary_unary": "LeaseGrant LeaseRevoke LeaseTimeToLive LeaseLeases",
        "stream_stream": "LeaseKeepAlive",
    },
    "Cluster": {"unary_unary": "MemberAdd MemberRemove MemberUpdate MemberList MemberPromote"},
    "Maintenance": {
        "unary_unary": "Alarm Status Defragment Hash HashKV MoveLeader Downgrade",
        "unary_stream": "Snapshot",
    },
    "Auth": {
        "unary_unary": (
            "AuthEnable AuthDisable Authenticate"
            " UserAdd=AuthUserAdd UserGet=AuthUserGet UserList=AuthUserList UserDelete=AuthUserDelete"
            " UserChangePassword=AuthUserChangePassword UserGrantRole=AuthUserGrantRole"
            " UserRevokeRole=AuthUserRevokeRole RoleAdd=AuthRoleAdd RoleGet=AuthRoleGet"
            " RoleList=AuthRoleList RoleDelete=AuthRoleDelete"
            " RoleGrantPermission=AuthRoleGrantPermission RoleRevokePermission=AuthRoleRevokePermission"
        )
    },
}


def install() -> None:
    """Take the place, unless etcd3 or its own messages are there already."""
    if "etcd3" in sys.modules or NAME in sys.modules:
        return
    ours = sys.modules[__name__]
    sys.modules.update({NAME: ours, **{f"{NAME}.{part}": ours for part in PARTS}})


def _stub(service: str, calls_by_kind: dict[str, str]) -> type:
    """A stub class: an instance has a callable for each call, made by the channel that it is given."""

    def __init__(self: typing.Any, channel: typing.Any) -> None:
        for kind, calls in calls_by_kind.items():
            for name, _, stem in (call.partition("=") for call in calls.split()):
                make_callable = getattr(channel, kind)
                callable_ = make_callable(
                    f"/etcdserverpb.{service}/{name}",
                    request_serializer=getattr(messages, f"{stem or name}Request").SerializeToString,
                    response_deserializer=getattr(messages, f"{stem or name}Response").FromString,
                )
                setattr(self, name, callable_)

    return type(f"{service}Stub", (), {"__init__": __init__, "__module__": NAME})


def _exports() -> dict[str, typing.Any]:
    """What the generated modules export: messages, enums and their values, stubs; and those modules."""
    file = messages.DESCRIPTOR
    names = [*file.message_types_by_name, *file.enum_types_by_name]
    names += [value for enum in file.enum_types_by_name.values() for value in enum.values_by_name]
    exports: dict[str, typing.Any] = {name: getattr(messages, name) for name in ("DESCRIPTOR", *names)}
    exports.update({f"{service}Stub": _stub(service, calls) for service, calls in SERVICES.items()})
    exports.update(dict.fromkeys(PARTS, sys.modules[__name__]))
    return {**exports, "__all__": list(exports)}


globals().update(_exports())
