"""The message classes: their bytes, their place beside other packages, and their files in step."""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import re
import subprocess
import sys
from types import ModuleType

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import Message

from coordkit.wire import messages as m

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Messages beside their bytes, written by hand: tag (field number * 8 + wire type), length, content.
WRITTEN = {
    "put": (
        m.PutRequest(key=b"k", value=b"v\x00\xff", lease=300, prev_kv=True),
        "0a 01 6b  12 03 76 00 ff  18 ac 02  20 01",
    ),
    "nothing is sent for zeros": (m.PutRequest(key=b"", value=b"", lease=0, prev_kv=False), ""),
    "a negative number takes ten bytes": (
        m.PutRequest(lease=-1),
        "18 ff ff ff ff ff ff ff ff ff 01",
    ),
    "the greatest and the least lease": (
        m.LeaseGrantRequest(TTL=2**63 - 1, ID=-(2**63)),
        "08 ff ff ff ff ff ff ff ff 7f  10 80 80 80 80 80 80 80 80 80 01",
    ),
    "a member's ID is unsigned": (
        m.ResponseHeader(cluster_id=2**64 - 1, member_id=1, revision=2, raft_term=3),
        "08 ff ff ff ff ff ff ff ff ff 01  10 01  18 02  20 03",
    ),
    "a zero inside a oneof is sent": (
        m.Compare(target=m.Compare.CREATE, key=b"k", create_revision=0),
        "10 01  1a 01 6b  28 00",
    ),
    "a compare over a range": (
        m.Compare(result=m.Compare.LESS, target=m.Compare.MOD, key=b"a", mod_revision=9, range_end=b"b"),
        "08 02  10 02  1a 01 61  30 09  82 04 01 62",
    ),
    "a transaction in a transaction": (
        m.TxnRequest(
            compare=[m.Compare(result=m.Compare.NOT_EQUAL, target=m.Compare.VALUE, key=b"k", value=b"")],
            success=[m.RequestOp(request_put=m.PutRequest(key=b"k"))],
            failure=[
                m.RequestOp(
                    request_txn=m.TxnRequest(
                        compare=[m.Compare(target=m.Compare.LEASE, key=b"k", lease=7)],
                        success=[m.RequestOp(request_delete_range=m.DeleteRangeRequest(key=b"k"))],
                        failure=[m.RequestOp(request_range=m.RangeRequest(key=b"k"))],
                    )
                )
            ],
        ),
        "0a 09  08 03  10 03  1a 01 6b  3a 00"
        "12 05  12 03  0a 01 6b"
        "1a 19  22 17"
        "    0a 07  10 04  1a 01 6b  40 07"
        "    12 05  1a 03  0a 01 6b"
        "    1a 05  0a 03  0a 01 6b",
    ),
    "what a transaction answers": (
        m.TxnResponse(
            header=m.ResponseHeader(revision=5),
            succeeded=True,
            responses=[
                m.ResponseOp(response_put=m.PutResponse()),
                m.ResponseOp(
                    response_range=m.RangeResponse(kvs=[m.KeyValue(key=b"k", create_revision=4)], count=17)
                ),
            ],
        ),
        "0a 02  18 05  10 01  1a 02  12 00  1a 0b  0a 09  12 05  0a 01 6b  10 04  20 11",
    ),
    "a watch": (
        m.WatchRequest(
            create_request=m.WatchCreateRequest(
                key=b"k",
                range_end=b"l",
                start_revision=8,
                progress_notify=True,
                filters=[m.WatchCreateRequest.NOPUT, m.WatchCreateRequest.NODELETE],
                prev_kv=True,
                watch_id=3,
                fragment=True,
            )
        ),
        "0a 14  0a 01 6b  12 01 6c  18 08  20 01  2a 02 00 01  30 01  38 03  40 01",
    ),
    "a watch cancelled": (
        m.WatchRequest(cancel_request=m.WatchCancelRequest(watch_id=-1)),
        "12 0b  08 ff ff ff ff ff ff ff ff ff 01",
    ),
    "progress asked for": (m.WatchRequest(progress_request=m.WatchProgressRequest()), "1a 00"),
    "a watch's events": (
        m.WatchResponse(
            watch_id=1,
            compact_revision=2,
            cancel_reason="é",
            fragment=True,
            events=[m.Event(type=m.Event.DELETE, kv=m.KeyValue(key=b"k", mod_revision=6))],
        ),
        "10 01  28 02  32 02 c3 a9  38 01  5a 09  08 01  12 05  0a 01 6b  18 06",
    ),
}


class TestBytes:
    @pytest.mark.parametrize(("message", "text"), WRITTEN.values(), ids=WRITTEN)
    def test_a_message_has_the_bytes_that_the_encoding_rules_give(self, message: Message, text: str) -> None:
        """
        Messages are written and read as bytes that were worked out by hand.
        """
        expected = bytes.fromhex(text)

        assert message.SerializeToString() == expected
        assert type(message).FromString(expected) == message

    def test_filters_may_come_one_by_one(self) -> None:
        """
        A repeated number is read unpacked, too, as other writers send it.
        """
        request = m.WatchCreateRequest.FromString(bytes.fromhex("28 01 28 00"))

        assert list(request.filters) == [m.WatchCreateRequest.NODELETE, m.WatchCreateRequest.NOPUT]

    def test_a_newer_etcds_fields_do_no_harm(self) -> None:
        """
        Fields that we do not know are passed over.
        """
        status = m.StatusResponse.FromString(bytes.fromhex("18 05  5a 03 33 2e 36  60 80 01  6a 02 08 01"))

        assert status.dbSize == 5

    def test_what_is_not_set_reads_as_zero_and_as_absent(self) -> None:
        """
        A message field is absent, a oneof has no member, all else is zero, until they are set.
        """
        op, response = m.RequestOp(), m.PutResponse()

        assert op.WhichOneof("request") is None
        assert not response.HasField("prev_kv")
        assert response.header.revision == 0

        op.request_txn.compare.add(key=b"k")
        response.prev_kv.CopyFrom(m.KeyValue(key=b"k"))

        assert op.WhichOneof("request") == "request_txn"
        assert response.HasField("prev_kv")


# Registers other messages under our names, and under those that etcd packages use, in the default pool.
OTHERS = """
from google.protobuf import descriptor_pb2, descriptor_pool

def register(file, package, message):
    proto = descriptor_pb2.FileDescriptorProto(name=file, package=package, syntax="proto3")
    proto.message_type.add(name=message).field.add(name="key", number=9, type=12, label=1)
    descriptor_pool.Default().AddSerializedFile(proto.SerializeToString())

register("kv.proto", "mvccpb", "KeyValue")
register("etcd.proto", "etcdserverpb", "PutRequest")
register("rpc.proto", "etcdserverpb", "KeyValue")
"""
OURS = "from coordkit.wire import messages\n"
BOTH_HOLD = """
assert messages.KeyValue(key=b"k").SerializeToString() == bytes.fromhex("0a016b")
pool = descriptor_pool.Default()
for name in "mvccpb.KeyValue", "etcdserverpb.PutRequest":
    assert pool.FindMessageTypeByName(name).fields_by_name["key"].number == 9
"""


class TestCoexistence:
    @pytest.mark.parametrize("script", [OTHERS + OURS, OURS + OTHERS], ids=["theirs first", "ours first"])
    def test_another_packages_messages_of_the_same_names_do_not_collide(self, script: str) -> None:
        """
        Ours and those of another etcd package live in one process, whichever comes first.
        """
        command = [sys.executable, "-c", script + BOTH_HOLD]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """tools/build_messages.py as a module."""
    spec = importlib.util.spec_from_file_location("build_messages", ROOT / "tools" / "build_messages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestFilesInStep:
    def test_the_stub_is_made_of_these_descriptors_and_this_proto(self, build: ModuleType) -> None:
        """
        messages.pyi is what etcd.binpb and the digest of etcd.proto give.
        """
        made = build.stub(build.BINPB.read_bytes(), build.PROTO.read_bytes())

        assert build.STUB.read_text(encoding="utf-8") == made

    def test_the_descriptors_are_made_of_this_proto(self, build: ModuleType) -> None:
        """
        etcd.binpb is what protoc makes of etcd.proto.
        """
        command = build.protoc()
        if command is None:
            pytest.skip("no protoc; the digest of etcd.proto in messages.pyi is compared all the same")

        assert build.compiled(command) == build.BINPB.read_bytes()

    def test_whatever_the_stub_names_is_there(self, build: ModuleType) -> None:
        """
        Each name in messages.pyi, on a class or on the module, exists at run time.
        """
        stub = ast.parse(build.STUB.read_text(encoding="utf-8"))
        classes = [node for node in stub.body if isinstance(node, ast.ClassDef)]

        missing = [name for name in _names(stub) if not hasattr(m, name)]
        missing += [
            f"{node.name}.{name}"
            for node in classes
            for name in _names(node)
            if not hasattr(getattr(m, node.name)(), name)
        ]

        assert len(classes) == len(m.DESCRIPTOR.message_types_by_name)
        assert missing == []


def _names(scope: ast.Module | ast.ClassDef) -> list[str]:
    assigned = [node.target for node in scope.body if isinstance(node, ast.AnnAssign)]
    defined = [node.name for node in scope.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    return [target.id for target in assigned if isinstance(target, ast.Name)] + defined


def _fields(files: list[descriptor_pb2.FileDescriptorProto]) -> dict[str, tuple[object, ...]]:
    """What decides the bytes, by "Message.field"; a text and a bytes field have the same."""
    return {
        f"{message.name}.{field.name}": (
            field.number,
            field.TYPE_BYTES if field.type == field.TYPE_STRING else field.type,
            field.label,
            field.HasField("oneof_index"),
            field.type_name.rpartition(".")[2],
        )
        for file in files
        for message in file.message_type
        for field in message.field
    }


def _enum_values(files: list[descriptor_pb2.FileDescriptorProto]) -> set[tuple[str, str, int]]:
    enums = [("", enum) for file in files for enum in file.enum_type]
    for file in files:
        enums += [(message.name, enum) for message in file.message_type for enum in message.enum_type]
    return {(scope, value.name, value.number) for scope, enum in enums for value in enum.value}


def _files_of_etcd3() -> list[descriptor_pb2.FileDescriptorProto]:
    """The descriptors in the etcd3 package, read as text: its generated code does not run on protobuf 4."""
    spec = importlib.util.find_spec("etcd3")
    assert spec and spec.origin
    found = []
    for name in ("rpc_pb2.py", "kv_pb2.py"):
        source = (pathlib.Path(spec.origin).parent / "etcdrpc" / name).read_text(encoding="utf-8")
        (literal,) = re.findall(r"serialized_pb=_b\(('.*')\)\n", source)
        serialized = ast.literal_eval(literal).encode("latin1")
        found.append(descriptor_pb2.FileDescriptorProto.FromString(serialized))
    return found


class TestAgainstAnotherPackage:
    def test_what_etcd3_knows_of_the_api_is_the_same_here(self) -> None:
        """
        Each field and enum value of the etcd3 package's messages (etcd 3.3) has its number and type here.
        """
        ours = descriptor_pb2.FileDescriptorProto()
        m.DESCRIPTOR.CopyToProto(ours)

        theirs = _files_of_etcd3()

        assert len(_fields(theirs)) > 150
        assert _fields(theirs).items() <= _fields([ours]).items()
        assert _enum_values(theirs) <= _enum_values([ours])
