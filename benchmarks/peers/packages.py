"""Debian's packages of servers and compilers that peers need: installed only when a person agrees."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

from benchmarks.peers import lineup, servers

#: A package, and whether what it brings is there.
NEEDED = {
    "golang-go": lambda: shutil.which("go") is not None,
    "golang-etcd-server-dev": lambda: pathlib.Path(lineup.GO_PATH, "src/go.etcd.io/etcd/clientv3").exists(),
    "zookeeper": lambda: pathlib.Path(servers.ZOOKEEPER).exists(),
    "redis-server": lambda: shutil.which("redis-server") is not None,
}


def offer() -> None:
    """Say what is missing; install it if apt is here and whoever sits at the terminal says yes."""
    missing = [package for package, is_there in NEEDED.items() if not is_there()]
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid():
        command.insert(0, "sudo")
    print("for more peers:", " ".join(command), file=sys.stderr)
    if shutil.which("apt-get") is None or not sys.stdin.isatty():
        return
    if input("run this now? [y/N] ").strip().lower() == "y":
        subprocess.run(command, check=False)
