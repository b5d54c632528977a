"""Rebuild coordkit/wire/etcd.binpb and messages.pyi from etcd.proto.

For development only: it needs protoc, as the program of that name or from the grpcio-tools package. Nothing
that it uses is needed at run time. tests/test_messages.py fails when the three files are out of step.

    python tools/build_messages.py
"""

import hashlib
import importlib.util
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
)

WIRE = pathlib.Path(__file__).resolve().parent.parent / "coordkit" / "wire"
PROTO, BINPB, STUB = WIRE / "etcd.proto", WIRE / "etcd.binpb", WIRE / "messages.pyi"

HEADER = """\
# Made by tools/build_messages.py; do not edit. The etcd.proto that it was made from has the SHA-256
# {digest}

from collections.abc import Iterable
from typing import ClassVar, Final, Literal, final

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor
"""

SCALARS = {
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_ENUM: "int",
    FieldDescriptorProto.TYPE_INT64: "int",
    FieldDescriptorProto.TYPE_STRING: "str",
    FieldDescriptorProto.TYPE_UINT32: "int",
    FieldDescriptorProto.TYPE_UINT64: "int",
}


def protoc() -> list[str] | None:
    """The command that compiles protocol buffers here, if there is one."""
    if program := shutil.which("protoc"):
        return [program]
    if importlib.util.find_spec("grpc_tools"):
        return [sys.executable, "-m", "grpc_tools.protoc"]
    return None


def compiled(command: list[str]) -> bytes:
    """What etcd.binpb should hold."""
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder, BINPB.name)
        subprocess.run([*command, f"-I{WIRE}", f"--descriptor_set_out={output}", PROTO.name], check=True)
        return output.read_bytes()


def stub(descriptor_set: bytes, proto: bytes) -> str:
    """What messages.pyi should hold."""
    (file,) = FileDescriptorSet.FromString(descriptor_set).file
    lines = [HEADER.format(digest=hashlib.sha256(proto).hexdigest())]
    for enum in file.enum_type:
        lines += _enum(enum, f"{enum.name}: EnumTypeWrapper")
    for message in file.message_type:
        lines += ["", *_message(message)]
    return "\n".join(lines) + "\n"


def _enum(enum: EnumDescriptorProto, declaration: str) -> Iterator[str]:
    yield declaration
    for value in enum.value:
        yield f"{value.name}: Final = {value.number}"


def _message(message: DescriptorProto) -> Iterator[str]:
    yield "@final"
    yield f"class {message.name}(Message):"
    yield from (f"    {line}" for line in _body(message))


def _body(message: DescriptorProto) -> Iterator[str]:
    for enum in message.enum_type:
        yield from _enum(enum, f"{enum.name}: ClassVar[EnumTypeWrapper]")
    for field in message.field:
        yield from _attribute(field)
    yield from _constructor(message)
    yield from _presence(message)


def _attribute(field: FieldDescriptorProto) -> Iterator[str]:
    kind = _element(field)
    if field.label == field.LABEL_REPEATED:
        composite = field.type == field.TYPE_MESSAGE
        kind = f"Repeated{'Composite' if composite else 'Scalar'}FieldContainer[{kind}]"
    elif field.type != field.TYPE_MESSAGE:
        yield f"{field.name}: {kind}"
        return
    yield "@property"  # protobuf refuses an assignment to it
    yield f"def {field.name}(self) -> {kind}: ..."


def _constructor(message: DescriptorProto) -> Iterator[str]:
    if not message.field:
        yield "def __init__(self) -> None: ..."
        return
    yield "def __init__("
    yield "    self,"
    yield "    *,"
    for field in message.field:
        element = _element(field)
        accepted = f"Iterable[{element}]" if field.label == field.LABEL_REPEATED else element
        yield f"    {field.name}: {accepted} | None = None,"
    yield ") -> None: ..."


def _presence(message: DescriptorProto) -> Iterator[str]:
    """Protobuf's questions about what is set, with the answers that this message can give."""
    singular = (field for field in message.field if field.label != field.LABEL_REPEATED)
    tracked = [f.name for f in singular if f.type == f.TYPE_MESSAGE or f.HasField("oneof_index")]
    if tracked:
        yield from _question("HasField", f"field_name: {_literal(tracked)}", "bool")
    for index, oneof in enumerate(message.oneof_decl):
        members = [f.name for f in message.field if f.HasField("oneof_index") and f.oneof_index == index]
        group = _literal([oneof.name])
        yield from _question("WhichOneof", f"oneof_group: {group}", f"{_literal(members)} | None")


def _question(name: str, parameter: str, answer: str) -> Iterator[str]:
    yield f"def {name}("
    yield "    self,"
    yield f"    {parameter},"
    yield f") -> {answer}: ..."


def _literal(names: list[str]) -> str:
    return "Literal[" + ", ".join(f'"{name}"' for name in names) + "]"


def _element(field: FieldDescriptorProto) -> str:
    if field.type == field.TYPE_MESSAGE:
        return field.type_name.rpartition(".")[2]
    return SCALARS[field.type]


def main() -> None:
    command = protoc()
    if command is None:
        sys.exit("No protoc: install the system's protobuf compiler or the Python package grpcio-tools.")
    BINPB.write_bytes(compiled(command))
    STUB.write_text(stub(BINPB.read_bytes(), PROTO.read_bytes()), encoding="utf-8")


if __name__ == "__main__":
    main()
