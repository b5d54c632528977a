"""The command line as data, read from the argparse parsers: for completion and for the manual.  Pure.

argparse tells its grammar through objects without a public interface; all that is known of their insides is
known here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import attrs


@attrs.frozen
class Option:
    """An option, or a positional argument, which has no flags."""

    flags: tuple[str, ...]
    value: str  # what stands for its value; "" when it takes none
    choices: tuple[str, ...]
    help: str
    required: bool
    optional: bool  # of a positional: it may be left out
    repeated: bool  # it takes several values


@attrs.frozen
class Command:
    """A command, or a group of them."""

    path: tuple[str, ...]  # from the program's name on
    help: str
    description: str
    epilog: str
    sections: tuple[tuple[str, tuple[Option, ...]], ...]  # titles and options, in order
    arguments: tuple[Option, ...]
    commands: tuple[Command, ...]

    @property
    def name(self) -> str:
        return " ".join(self.path)

    @property
    def options(self) -> tuple[Option, ...]:
        return tuple(option for _, options in self.sections for option in options)

    def walk(self) -> Iterator[Command]:
        """This one, and all below it."""
        yield self
        for each in self.commands:
            yield from each.walk()

    def leaves(self) -> Iterator[Command]:
        """Those that do something."""
        return (each for each in self.walk() if not each.commands)


def read(parser: argparse.ArgumentParser) -> Command:
    """The grammar of a parser and all below it."""
    return _read(parser, (parser.prog,), "")


def _read(parser: argparse.ArgumentParser, path: tuple[str, ...], summary: str) -> Command:
    sections = []
    arguments: list[Option] = []
    commands: list[Command] = []
    for section in parser._action_groups:
        options: list[Option] = []
        for action in section._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                helps = {each.dest: each.help or "" for each in action._choices_actions}
                commands += [
                    _read(inner, (*path, name), helps.get(name, "")) for name, inner in action.choices.items()
                ]
            elif action.help != argparse.SUPPRESS:
                (options if action.option_strings else arguments).append(_option(parser, action))
        if options:
            sections.append((section.title or "options", tuple(options)))
    return Command(
        path,
        summary,
        parser.description or "",
        parser.epilog or "",
        tuple(sections),
        tuple(arguments),
        tuple(commands),
    )


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    choices = tuple(map(str, action.choices or ()))
    takes_value = action.nargs != 0
    return Option(
        tuple(action.option_strings),
        _metavar(action, choices) if takes_value else "",
        choices,
        parser._get_formatter()._expand_help(action) if action.help else "",
        action.required,
        action.nargs in ("?", "*"),
        action.nargs in ("*", "+", argparse.REMAINDER) or (action.nargs or 0) not in ("?", 0, 1),
    )


def _metavar(action: argparse.Action, choices: tuple[str, ...]) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(choices) if choices else action.dest.upper()
