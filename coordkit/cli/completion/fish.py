"""Completion for fish.  Pure."""

from __future__ import annotations

from coordkit.cli import grammar
from coordkit.cli.completion import quoting

_SCRIPT = """\
# Completion of {name} for fish; made by: {name} completion fish

function __{name}_at --description 'Whether the command so far is this one'
    set -l at {name}
    for word in (commandline -opc)[2..-1]
        test "$word" = -- && return 1
        switch "$at $word"
            case {paths}
                set at "$at $word"
        end
    end
    test "$at" = "$argv"
end

function __{name}_child --description 'Whether a -- came, and with it the command line of a child'
    contains -- -- (commandline -opc)
end

function __{name}_complete_child
    set -l words (commandline -opc)
    set -e words[1..(contains -i -- -- $words)]
    complete -C (string join ' ' -- (string escape -- $words) (commandline -ct))
end

complete -c {name} -f
complete -c {name} -n __{name}_child -a '(__{name}_complete_child)'
{lines}
"""


def script(top: grammar.Command) -> str:
    """The script."""
    paths = " ".join(_quoted(each.name) for each in top.walk() if each.path != top.path)
    lines = [line for each in top.walk() for line in _lines(each)]
    return _SCRIPT.format(name=top.name, paths=paths, lines="\n".join(lines))


def _lines(command: grammar.Command) -> list[str]:
    name = command.path[0]
    here = f"complete -c {name} -n {_quoted(f'__{name}_at {command.name}')}"
    lines = [f"{here} -a {each.path[-1]} -d {_quoted(each.help)}" for each in command.commands]
    for argument in command.arguments:
        if argument.choices:
            lines.append(f"{here} -a {_quoted(' '.join(argument.choices))} -d {_quoted(argument.help)}")
        elif quoting.is_file(argument):
            lines.append(f"{here} -F -d {_quoted(argument.help)}")
    return lines + [f"{here} {_option(option)}" for option in command.options]


def _option(option: grammar.Option) -> str:
    words = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags]
    if option.choices:
        words.append(f"-x -a {_quoted(' '.join(option.choices))}")
    elif option.value:
        words.append("-r -F" if quoting.is_file(option) else "-x")
    return " ".join([*words, f"-d {_quoted(option.help)}"])


def _quoted(text: str) -> str:
    """In single quotes, where fish knows two escapes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
