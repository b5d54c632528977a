"""The command line's grammar, read from its parsers, and what is made of it: the manual."""

from __future__ import annotations

import argparse
import pathlib

import pytest

from coordkit.cli import grammar, main, manual

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "docs" / "commands"


@pytest.fixture
def command() -> grammar.Command:
    """One of each."""
    parser = argparse.ArgumentParser(prog="try", epilog="example:\n  try it")
    parser.add_argument("--level", choices=("low", "high"), default="low", help="by default %(default)s")
    parser.add_argument("-f", "--force", action="store_true")
    parser.add_argument("--secret", help=argparse.SUPPRESS)
    parser.add_argument("file", metavar="FILE", nargs="*")
    return grammar.read(parser)


class TestGrammar:
    def test_options_are_told_with_their_values(self, command):
        """
        Choices, flags without a value, and several positional arguments; nothing of what is hidden.
        """
        told = {option.flags[-1]: option for option in command.options}

        assert told.keys() == {"--help", "--level", "--force"}
        assert told["--level"].choices == ("low", "high")
        assert told["--level"].help == "by default low"
        assert (told["--level"].value, told["--force"].value) == ("low|high", "")
        assert command.arguments[0].repeated

    def test_every_leaf_of_the_command_line_is_found(self):
        """
        With its whole path.
        """
        names = {each.name for each in grammar.read(main.parser()).leaves()}

        assert {"coordkit demo", "coordkit bench lock", "coordkit lock ls", "coordkit status"} <= names
        assert "coordkit lock" not in names


class TestManual:
    def test_the_pages_are_current(self):
        """
        After a change of a command: python tools/build_command_pages.py.
        """
        expected = manual.pages(grammar.read(main.parser()))

        there = {path.name: path.read_text() for path in FOLDER.glob("*.md")}

        assert there.keys() == expected.keys(), "run tools/build_command_pages.py"
        assert [name for name in there if there[name] != expected[name]] == [], (
            "run tools/build_command_pages.py"
        )

    def test_a_synopsis_tells_what_may_be_left_out(self, command):
        """
        In brackets; dots for what may come again.
        """
        assert manual.synopsis(command) == "try [-h] [--level low|high] [-f] [FILE...]"

    def test_every_command_has_an_example(self):
        """
        At the end of its help.
        """
        without = [
            each.name for each in grammar.read(main.parser()).leaves() if f"  {each.name}" not in each.epilog
        ]

        assert without == []
