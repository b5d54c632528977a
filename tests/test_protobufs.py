"""The message classes, and the etcd3 package on them, on every supported protobuf, compiled and in Python.

This needs a package index, so it runs on request only, on one Python or on all that are found:

    COORDKIT_TEST_PROTOBUFS=1 make test TESTS="-s tests/test_protobufs.py"
    COORDKIT_TEST_PROTOBUFS=1 make test-all TESTS="-s tests/test_protobufs.py"
"""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROTOBUFS = ("3.20", "4.21", "4.25", "5", "6", "7")
TESTS = ("tests/test_messages.py", "tests/test_etcdrpc.py", "tests/contract/test_etcd3.py")
ON_REQUEST = "COORDKIT_TEST_PROTOBUFS"

PROBE = """
import google.protobuf
from google.protobuf.internal import api_implementation
print(api_implementation.Type(), google.protobuf.__version__, google.protobuf.__file__)
"""


@pytest.fixture(scope="module", params=PROTOBUFS)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with nothing but one protobuf; its name is the version."""
    if not os.environ.get(ON_REQUEST):
        pytest.skip(f"{ON_REQUEST} is not set: this installs six versions of protobuf from the package index")
    folder: pathlib.Path = tmp_path_factory.mktemp("protobuf") / request.param
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    wanted = ["--target", str(folder), f"protobuf=={request.param}.*"]
    subprocess.run([*pip, *wanted], check=True, env={**os.environ, "PIP_USER": "0"})
    return folder


def _environment(installed: pathlib.Path, implementation: str) -> dict[str, str]:
    """Variables with which a child finds that protobuf before any other."""
    inherited = {name: value for name, value in os.environ.items() if name != ON_REQUEST}
    chosen = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"} if implementation == "python" else {}
    path = os.pathsep.join([str(installed), str(ROOT)])
    return {**inherited, **chosen, "PYTHONPATH": path, "COORDKIT_TEST_MODE": "threads"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("implementation", ["compiled", "python"])
def test_the_messages_work_on(installed: pathlib.Path, implementation: str) -> None:
    """
    All tests of the messages and of etcd3's client pass on this protobuf.
    """
    environment = _environment(installed, implementation)
    probed = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True)
    kind, exact, path = probed.stdout.split()
    where = f"Python {platform.python_version()}, protobuf {exact}"

    assert path.startswith(str(installed)) and exact.startswith(f"{installed.name}.")

    if implementation == "compiled" and kind == "python" and exact.startswith("3."):
        pytest.skip(f"{where}: the index has no compiled implementation")

    assert (kind == "python") == (implementation == "python")

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(f"{where}, {kind}: {done.stdout.splitlines()[-1]}")

    assert done.returncode == 0, done.stdout + done.stderr
