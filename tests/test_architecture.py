"""The arrows between the layers, and the rules of style that a parser can check."""

from __future__ import annotations

import ast
import functools
import pathlib
import re
import runpy
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

#: Each may import what stands on its own line or above it.
LAYERS = (
    {"early", "errors", "deadline", "keys", "codecs", "fencing", "forks", "interrupts", "worker"},
    {"wire"},
    {"etcd"},
    {"attendant", "coalescer", "groups", "leased", "outages", "session", "terms"},
    {
        "attention",
        "calls",
        "cell",
        "intake",
        "linewatch",
        "sharedline",
        "observation",
        "ticket",
        "vigil",
        "waitlist",
    },
    {"recipes"},
    {"inspection"},
    {"coordinator", "settings"},
    {"__init__"},
    {"__main__", "cli", "dashboard"},
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}

#: gevent replaces what these hold, so a name taken from one before the patch stays unpatched for ever.
PATCHED = {"os", "queue", "select", "signal", "socket", "ssl", "subprocess", "threading", "time"}

SLEEPS = ("gevent.sleep", "sleep", "time.sleep")
LONGEST_MODULE_LINES = 480
LONGEST_FUNCTION_LINES = 60


def sources(folder: str) -> list[pathlib.Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def layer(module: str) -> str:
    """The part of coordkit that a dotted name belongs to; "__init__" for the package itself."""
    return [*module.split("."), "__init__"][1]


def dotted(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def imports(path: pathlib.Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, as dotted names."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, path)
            for alias in node.names:
                yield f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base


def absolute(node: ast.ImportFrom, path: pathlib.Path) -> str:
    if not node.level:
        return node.module or ""
    package = dotted(path).split(".") if path.name == "__init__.py" else dotted(path).split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *(node.module or "").split(".")]).rstrip(".")


@functools.cache
def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def where(path: pathlib.Path, node: ast.AST | None = None) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def wrong_arrow(importer: str, imported: str) -> bool:
    """Whether a layer may not import another."""
    if imported == "testing":
        return importer not in ("cli", "testing")
    if importer == "testing":
        return imported in ("__main__", "cli", "dashboard")
    # A part without a place is the other test's to report.
    return RANKS.get(imported, 0) > RANKS.get(importer, len(LAYERS))


class TestArrows:
    def test_every_module_has_its_place(self):
        """
        A new part of the package is put into the table of layers, or this fails.
        """
        parts = {layer(dotted(path)) for path in sources("coordkit")}

        assert parts - RANKS.keys() - {"testing"} == set()

    def test_imports_only_go_down(self):
        """
        No module imports a higher layer, not even for a type or in a function; only the CLI imports testing.
        """
        wrong = [
            f"{where(path)} imports {name}"
            for path in sources("coordkit")
            for name in imports(path)
            if name.split(".")[0] == "coordkit" and wrong_arrow(layer(dotted(path)), layer(name))
        ]

        assert not wrong, "\n".join(wrong)

    def test_recipes_do_not_see_the_wire(self):
        """
        A recipe speaks to sessions, lines and transactions; never to bytes or to the client's insides.
        """
        hidden = ("coordkit.wire", "coordkit.etcd.client", "coordkit.etcd.heart")
        wrong = [
            f"{where(path)} imports {name}"
            for path in sources("coordkit/recipes")
            for name in imports(path)
            if name.startswith(hidden)
        ]

        assert not wrong, "\n".join(wrong)

    def test_two_modules_know_gevent(self):
        """
        Outside of the CLI, testing and the dashboard no other imports gevent or asks for it by its name.
        """
        free = ("__main__", "cli", "dashboard", "testing")
        knowing = [
            where(path)
            for path in sources("coordkit")
            if knows_gevent(path) and layer(dotted(path)) not in free
        ]

        assert knowing == ["coordkit/etcd/heart.py:1", "coordkit/interrupts.py:1"]

    def test_every_folder_is_a_package(self):
        """
        A folder without an __init__.py would be left out of what is installed.
        """
        folders = {path.parent for path in sources("coordkit")}
        left_out = [where(folder) for folder in folders if not (folder / "__init__.py").exists()]

        assert not left_out, "\n".join(left_out)


def knows_gevent(path: pathlib.Path) -> bool:
    if any(name.split(".")[0] == "gevent" for name in imports(path)):
        return True
    texts = (node.value for node in ast.walk(parse(path)) if isinstance(node, ast.Constant))
    return any(isinstance(text, str) and re.fullmatch(r"gevent(\.\w+)*\.?", text) for text in texts)


class TestImportTime:
    def test_nothing_that_gevent_patches_is_imported_by_name(self):
        """
        `import socket`, never `from socket import socket`: patching later must still reach us.
        """
        wrong = [
            f"{where(path, node)} from {node.module}"
            for path in sources("coordkit")
            for node in ast.walk(parse(path))
            if isinstance(node, ast.ImportFrom) and not node.level and node.module in PATCHED
        ]

        assert not wrong, "\n".join(wrong)

    def test_no_lock_thread_or_socket_is_made_by_an_import(self):
        """
        What is made before the patch would be shared between native threads and greenlets.
        """
        wrong = [
            f"{where(path, call)} {ast.unparse(call)}"
            for path in sources("coordkit")
            for call in calls_at_import(parse(path))
            if ast.unparse(call.func).split(".")[0] in ("queue", "socket", "ssl", "subprocess", "threading")
        ]

        assert not wrong, "\n".join(wrong)


def calls_at_import(node: ast.AST) -> Iterator[ast.Call]:
    """The calls that run when the module is imported: all but those in functions."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(inner, ast.Call):
            yield inner
        yield from calls_at_import(inner)


class TestStyle:
    @pytest.mark.parametrize("folder", ["coordkit", "tests", "tools", "examples", "benchmarks"])
    def test_every_module_says_what_it_is(self, folder):
        """
        A module starts with a docstring.
        """
        silent = [where(path) for path in sources(folder) if not ast.get_docstring(parse(path))]

        assert not silent, "\n".join(silent)

    def test_modules_and_functions_are_short(self):
        """
        About 250 lines for a module and 30 for a function are aimed at; this is where patience ends.
        """
        lengths = [
            (f"{where(path)} has {lines} lines", lines, LONGEST_MODULE_LINES)
            for path in sources("coordkit")
            if (lines := len(path.read_text().splitlines()))
        ]
        lengths += [
            (f"{where(path, node)} {node.name} has {lines} lines", lines, LONGEST_FUNCTION_LINES)
            for path in sources("coordkit")
            for node in ast.walk(parse(path))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (lines := body_lines(node))
        ]

        too_long = [text for text, lines, most in lengths if lines > most]
        assert not too_long, "\n".join(too_long)

    def test_only_the_cli_prints(self):
        """
        A library does not write to its user's terminal.
        """
        wrong = [
            where(path, call)
            for path, call in calls("coordkit")
            if ast.unparse(call.func) == "print" and layer(dotted(path)) != "cli"
        ]

        assert not wrong, "\n".join(wrong)

    def test_no_error_is_swallowed_whole(self):
        """
        `except Exception: pass` and its relatives hide our own mistakes.
        """
        wrong = [
            where(path, node)
            for folder in ("coordkit", "tests", "tools", "examples", "benchmarks")
            for path in sources(folder)
            for node in ast.walk(parse(path))
            if isinstance(node, ast.ExceptHandler) and catches_all(node) and does_nothing(node.body)
        ]

        assert not wrong, "\n".join(wrong)

    @pytest.mark.parametrize("folder", ["coordkit", "tests", "tools", "benchmarks"])
    def test_nobody_asks_the_wall_clock(self, folder):
        """
        Durations and deadlines are monotonic; an administrator may set the clock at any time.
        """
        asking = [where(path, call) for path, call in calls(folder) if ast.unparse(call.func) == "time.time"]

        assert not asking, "\n".join(asking)

    def test_no_test_sleeps(self):
        """
        A test waits for a state, with a deadline: the fixture `eventually`.
        """
        asleep = [where(path, call) for path, call in calls("tests") if ast.unparse(call.func) in SLEEPS]

        assert not asleep, "\n".join(asleep)


class TestMutations:
    def test_each_rule_stands_where_the_sensitivity_table_takes_it_out(self):
        """
        Exactly once: who rewrites the source of a rule rewrites its mutation, too.
        """
        table = runpy.run_path(str(ROOT / "tools" / "mutations.py"))["MUTATIONS"]

        found = {each.name: (ROOT / "coordkit" / each.module).read_text().count(each.rule) for each in table}
        assert found == dict.fromkeys(found, 1)


def calls(folder: str) -> Iterator[tuple[pathlib.Path, ast.Call]]:
    for path in sources(folder):
        yield from ((path, node) for node in ast.walk(parse(path)) if isinstance(node, ast.Call))


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the end."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def catches_all(node: ast.ExceptHandler) -> bool:
    return node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")


def does_nothing(body: list[ast.stmt]) -> bool:
    return all(isinstance(statement, (ast.Pass, ast.Continue)) for statement in body)
