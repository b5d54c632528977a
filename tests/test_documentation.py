"""What the README and the manual show runs, and what they name exists."""

from __future__ import annotations

import argparse
import pathlib
import re
import shlex

import pytest

import coordkit
from coordkit import fencing, settings
from coordkit.cli import main

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EXAMPLE = "127.0.0.1:2379/demo"  # the server and namespace of every page
OWN = "/data/"  # where the pages' programs keep what is their own
LEFT = {
    "barrier",
    "counter",
    "double_barrier",
    "election",
    "gate",
    "latch",
    "once",
    "queue",
    "rwlock",
    "semaphore",
    "topic",
    "value",
}

_BLOCK = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, kind: str) -> list[str]:
    """The page's code blocks of one kind."""
    return [each["text"] for each in all_blocks(page) if each["kind"] == kind]


def all_blocks(page: str) -> list[re.Match[str]]:
    return list(_BLOCK.finditer((ROOT / page).read_text()))


def programs(page: str) -> list[str]:
    """The page's Python: all `python` blocks are one program, each `python alone` block is another."""
    together = "\n".join(blocks(page, "python"))
    return [program for program in [together, *blocks(page, "python alone")] if program]


PROGRAMS = [pytest.param(text, id=f"{page}-{n}") for page in PAGES for n, text in enumerate(programs(page))]


def readme(section: str) -> str:
    """One section of the README."""
    text = (ROOT / "README.md").read_text()
    return re.split(r"^##+ ", text.partition(f"# {section}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def names_in_table(section: str, column: int) -> set[str]:
    """What is set as code in a column of a section's tables."""
    rows = [line.split("|") for line in readme(section).splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row[column])}


class TestCode:
    @pytest.mark.parametrize("program", PROGRAMS)
    def test_every_python_block_runs(self, program, etcd, namespace, coord, child):
        """
        Against a real etcd; no lock and no session is left behind.  What is a program's own is nowhere among
        the recipes' keys.
        """
        own = f"/{namespace}-own/"
        here = program.replace(EXAMPLE, f"{etcd.endpoint}/{namespace}").replace(OWN, own)

        running = child(here)
        running.communicate(timeout=50)

        assert running.returncode == 0
        left = {found.key.split(b"/")[2] for found in coord.kv.range(f"/{namespace}/")}
        coord.kv.delete_prefix(f"/{namespace}/")
        coord.kv.delete_prefix(own)
        assert left <= {kind.encode() for kind in LEFT}

    def test_there_are_programs_to_run(self):
        """
        A block whose kind is misspelt would be passed over in silence.
        """
        kinds = {each["kind"] for page in PAGES for each in all_blocks(page)}

        assert kinds <= {"python", "python alone", "sh", "text", "", "{toctree}"}
        assert len(PROGRAMS) >= 4

    def test_every_shell_command_exists(self):
        """
        Targets are the Makefile's, commands are coordkit's.
        """
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        lines = [line for page in PAGES for text in blocks(page, "sh") for line in text.splitlines()]

        for program, *arguments in (shlex.split(line, comments=True) for line in lines if line):
            if program == "make":
                assert set(arguments) <= targets
            else:
                assert program == "coordkit"
                assert main.parser().parse_args(main.without_child(arguments)[0])

    def test_every_command_is_told_of(self):
        """
        In the README's table or on a page of the manual; and every command of the table can be run.
        """
        leaves = set(leaf_commands(main.parser(), "coordkit"))
        manual = "\n".join((ROOT / page).read_text() for page in PAGES if page.startswith("docs/"))
        told = {leaf for leaf in leaves if f"`{leaf}`" in manual}

        shown = names_in_table("Commands", 1)
        assert shown <= leaves
        assert leaves == shown | told


def leaf_commands(parser: argparse.ArgumentParser, name: str):
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        for word, inner in group.choices.items():
            yield from leaf_commands(inner, f"{name} {word}")
    if not groups:
        yield name


class TestNames:
    def test_every_method_in_the_table_is_the_locks(self):
        """
        And every public one is there, but for what only tells about the object.
        """
        cells = names_in_table("The lock", 1)
        shown = {re.match(r"(?:with lock\.?)?:?(\w*)", cell)[1] for cell in cells} - {""}
        inherited = {name for kind in coordkit.Lock.__mro__ for name in vars(kind)}
        public = {name for name in inherited if not name.startswith("_")}

        assert shown == public - {"at", "key"}

    def test_every_error_in_the_table_exists(self):
        """
        And every error is in the table.
        """
        named = set(re.findall(r"`(?:fencing\.)?([A-Z]\w+)`", readme("Errors")))
        builtin = {"RuntimeError", "ValueError", "TimeoutError", "BrokenBarrierError", "Full"}
        errors = {
            name
            for module in (coordkit.errors, fencing)
            for name, each in vars(module).items()
            if isinstance(each, type) and issubclass(each, coordkit.CoordError)
        }

        assert named - builtin == errors

    def test_every_variable_in_the_table_is_read(self, monkeypatch):
        """
        And every one that is read is in the table.
        """
        read = set()

        class Recorder(dict):
            def __contains__(self, name):
                read.add(name)
                return False

        monkeypatch.setattr(settings.os, "environ", Recorder())
        settings.resolve(None, {})
        monkeypatch.undo()

        shown = set(re.findall(r"`((?:COORDKIT|ETCDCTL)_\w+)`", readme("Configuration"))) - {"COORDKIT_"}
        assert shown - {"ETCDCTL_PASSWORD"} == read - {"ETCDCTL_PASSWORD"}

    @pytest.mark.parametrize("page", PAGES)
    def test_every_link_leads_somewhere(self, page):
        """
        To a file of the project, or to a heading of the same page.
        """
        text = (ROOT / page).read_text()
        headings = {
            re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        }

        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("#"):
                assert target[1:] in headings, target
            elif "://" not in target:
                assert (ROOT / page).parent.joinpath(target.partition("#")[0]).exists(), target
