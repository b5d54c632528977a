"""The message classes of etcd's API, as attributes: `PutRequest`, `KeyValue`, `Compare`, ...

Built at import from a checked-in FileDescriptorSet (etcd.binpb, made of etcd.proto by
tools/build_messages.py), not from generated code: such code fits a few versions of protobuf, a descriptor
fits all from 3.20 on. The pool is private: other etcd packages register a `kv.proto` of their own in the
default pool, which takes no second file or message of a name that it has. The types are in messages.pyi.

Cost: 4 ms at import, after some 40 ms for protobuf itself; 60 ms on protobuf's pure Python implementation.
"""

import pkgutil
from collections.abc import Callable, Iterator

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.internal import enum_type_wrapper
from google.protobuf.message import Message

_POOL = descriptor_pool.DescriptorPool()


def _register(descriptor_set: bytes | None) -> FileDescriptor:
    assert descriptor_set, "etcd.binpb is missing from the package"
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file
    _POOL.AddSerializedFile(file.SerializeToString())
    return _POOL.FindFileByName(file.name)


def _class_maker() -> Callable[[Descriptor], type[Message]]:
    if hasattr(message_factory, "GetMessageClass"):  # since protobuf 4.22
        return message_factory.GetMessageClass
    return message_factory.MessageFactory(_POOL).GetPrototype


def _exports(file: FileDescriptor) -> Iterator[tuple[str, object]]:
    """What a generated module has: each message; each enum and, beside it, its values."""
    message_class = _class_maker()
    for name, message in file.message_types_by_name.items():
        yield name, message_class(message)
    for name, enum in file.enum_types_by_name.items():
        yield name, enum_type_wrapper.EnumTypeWrapper(enum)
        yield from ((value.name, value.number) for value in enum.values)


DESCRIPTOR = _register(pkgutil.get_data(__package__, "etcd.binpb"))
globals().update(_exports(DESCRIPTOR))
