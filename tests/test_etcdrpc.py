"""What stands in for etcd3's generated code: that nothing is missing, and when it takes the place."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from coordkit.etcd import etcdrpc
from coordkit.wire import messages


def generated(name: str) -> str:
    """The source of etcd3's own generated module, which need not be importable."""
    spec = importlib.util.find_spec("etcd3")
    assert spec is not None and spec.origin is not None
    return (pathlib.Path(spec.origin).parent / "etcdrpc" / name).read_text()


class Recorder:
    """A channel that notes what is asked of it: by path, the kind of call and the class of its reply."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[str, str]] = {}

    def __getattr__(self, kind: str) -> Callable[..., object]:
        def make(path: str, request_serializer: Any, response_deserializer: Any) -> object:
            self.calls[path] = (kind, response_deserializer(b"").DESCRIPTOR.name)
            return object()

        return make


class TestNames:
    @pytest.mark.parametrize("module", ["rpc_pb2.py", "kv_pb2.py"])
    def test_every_message_and_constant_is_there(self, module):
        """
        What etcd3's generated modules export has the same name here.
        """
        names = set(re.findall(r"^([A-Z]\w*) = ", generated(module), re.MULTILINE))

        assert len(names) >= 3
        assert {name for name in names if not hasattr(etcdrpc, name)} == set()

    def test_every_call_of_every_stub_is_there(self):
        """
        The stubs have the calls of the generated ones: same paths, same kinds, same replies.
        """
        wanted = {
            path: (kind, reply)
            for kind, path, reply in re.findall(
                r"channel\.(\w+)\(\s+'([^']+)',.*?response_deserializer=rpc__pb2\.(\w+)\.FromString",
                generated("rpc_pb2_grpc.py"),
                re.DOTALL,
            )
        }
        recorder = Recorder()

        for service in etcdrpc.SERVICES:
            stub = getattr(etcdrpc, f"{service}Stub")(recorder)
            assert type(stub).__name__ == f"{service}Stub"

        assert len(wanted) == 38
        assert {path: recorder.calls.get(path) for path in wanted} == wanted

    def test_constants_are_numbers(self):
        """
        Enums are used as etcd3 uses them: values at the top, in messages, and by number.
        """
        assert (etcdrpc.NONE, etcdrpc.NOSPACE) == (0, 1)
        assert etcdrpc.RangeRequest.DESCEND == 2
        assert etcdrpc.Compare.NOT_EQUAL == 3
        assert etcdrpc.Event().EventType.DESCRIPTOR.values_by_number[1].name == "DELETE"

    def test_a_star_import_takes_nothing_else(self):
        """
        `from etcd3.etcdrpc import *` gives messages, constants, stubs and the names of the generated modules.
        """
        others = {name for name in etcdrpc.__all__ if not isinstance(getattr(etcdrpc, name), (type, int))}

        assert others - set(etcdrpc.PARTS) - set(messages.DESCRIPTOR.enum_types_by_name) == {"DESCRIPTOR"}


class TestInstall:
    @pytest.fixture
    def modules(self, monkeypatch) -> dict[str, Any]:
        """`sys.modules` without etcd3, restored afterwards."""
        for name in [name for name in sys.modules if name.split(".")[0] == "etcd3"]:
            monkeypatch.delitem(sys.modules, name)
        return sys.modules

    def test_it_takes_the_place(self, modules, monkeypatch):
        """
        The generated package and its modules are one module of ours.
        """
        monkeypatch.setattr(sys, "modules", dict(modules))

        etcdrpc.install()

        assert sys.modules["etcd3.etcdrpc"] is etcdrpc
        assert sys.modules["etcd3.etcdrpc.kv_pb2"] is etcdrpc

    @pytest.mark.parametrize("loaded", ["etcd3", "etcd3.etcdrpc"])
    def test_it_never_replaces_what_is_loaded(self, modules, monkeypatch, loaded):
        """
        Where etcd3, or its own messages, are loaded already nothing changes.
        """
        theirs = types.ModuleType(loaded)
        monkeypatch.setattr(sys, "modules", {**modules, loaded: theirs})

        etcdrpc.install()

        assert sys.modules[loaded] is theirs
        assert [name for name in sys.modules if name.split(".")[0] == "etcd3"] == [loaded]

    def test_importing_coordkit_imports_neither_etcd3_nor_grpc(self, child):
        """
        `import coordkit` takes the place and leaves the expensive imports for the first `.etcd`.
        """
        program = child(
            """
            import sys

            import coordkit

            print("etcd3" in sys.modules, "grpc" in sys.modules, sys.modules["etcd3.etcdrpc"].__name__)
            import etcd3

            print(etcd3.etcdrpc.__name__, etcd3.etcdrpc.PutRequest(key=b"k").key)
            """
        )

        said, _ = program.communicate(timeout=30)

        assert program.returncode == 0
        assert said.splitlines() == ["False False coordkit.etcd.etcdrpc", "coordkit.etcd.etcdrpc b'k'"]
