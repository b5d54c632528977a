"""What the shells' scripts share.  Pure."""

from __future__ import annotations

from coordkit.cli import grammar

_FILES = ("FILE", "DIR")


def single(text: str) -> str:
    """In single quotes, for bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def names(command: grammar.Command) -> str:
    """Of what is below a group."""
    return " ".join(each.path[-1] for each in command.commands)


def is_file(option: grammar.Option) -> bool:
    """Whether its value is the path of a file or folder."""
    return option.value in _FILES
