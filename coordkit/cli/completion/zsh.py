"""Completion for zsh: to be autoloaded from fpath, or sourced.  Pure."""

from __future__ import annotations

from coordkit.cli import grammar
from coordkit.cli.completion import quoting

# `path` is zsh's PATH, and must not be a variable of ours.
_SCRIPT = """\
#compdef {name}
# Completion of {name} for zsh; made by: {name} completion zsh

_{name}() {{
    local cur=${{words[CURRENT]}} prev=${{words[CURRENT-1]}} at={name} word i
    local -a found
    for ((i = 2; i < CURRENT; i++)); do
        word=${{words[i]}}
        if [[ $word == -- ]]; then  # what follows is the command line of a child
            shift $i words
            ((CURRENT -= i))
            _normal
            return
        fi
        case "$at $word" in
            {paths}) at="$at $word" ;;
        esac
    done
    if [[ $cur == --*=* ]]; then
        prev=${{cur%%=*}}
        compset -P '*='
        cur=${{cur#*=}}
    fi
    case $at in
{cases}
    esac
}}

if [[ ${{funcstack[1]}} == _{name} ]]; then _{name} "$@"; else compdef _{name} {name}; fi
"""


def script(top: grammar.Command) -> str:
    """The script."""
    paths = "|".join(f"({quoting.single(each.name)})" for each in top.walk() if each.path != top.path)
    return _SCRIPT.format(
        name=top.name, paths=paths, cases="\n".join(line for each in top.walk() for line in _case(each))
    )


def _case(command: grammar.Command) -> list[str]:
    lines = [f"        ({quoting.single(command.name)})"]
    values = [f"                {_value(option)}" for option in command.options if option.value]
    if values:
        lines += ["            case $prev in", *values, "            esac"]
    flags = [_described(flag, option.help) for option in command.options for flag in option.flags]
    lines += [
        "            if [[ $cur == -* ]]; then",
        f"                found=({' '.join(flags)})",
        "                _describe -o option found",
        "                return",
        "            fi",
    ]
    if command.commands:
        below = [_described(each.path[-1], each.help) for each in command.commands]
        lines += [f"            found=({' '.join(below)})", "            _describe command found"]
    for argument in command.arguments:
        if argument.choices:
            lines.append(f"            compadd -- {' '.join(map(quoting.single, argument.choices))}")
        elif quoting.is_file(argument):
            lines.append("            _files")
    return [*lines, "            ;;"]


def _described(word: str, text: str) -> str:
    return quoting.single(f"{word.replace(':', chr(92) + ':')}:{text}")


def _value(option: grammar.Option) -> str:
    flags = "|".join(option.flags)
    if option.choices:
        return f"({flags}) compadd -- {' '.join(map(quoting.single, option.choices))}; return ;;"
    return f"({flags}) _files; return ;;" if quoting.is_file(option) else f"({flags}) return ;;"
