"""Completion for bash, 3.2 and newer, with or without the bash-completion package.  Pure.

Bash splits a line at `=` and `:`, so `--kind=lock` comes as three words.
"""

from __future__ import annotations

from coordkit.cli import grammar
from coordkit.cli.completion import quoting

_SCRIPT = """\
# Completion of {name} for bash; made by: {name} completion bash

_{name}_words() {{ COMPREPLY=($(compgen -W "$1" -- "$cur")); }}
_{name}_files() {{ COMPREPLY=($(compgen -f -- "$cur")); compopt -o filenames 2>/dev/null; }}

_{name}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} at={name} word i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        if [[ $word == -- ]]; then  # what follows is the command line of a child
            if ((COMP_CWORD == i + 1)); then COMPREPLY=($(compgen -c -- "$cur")); else _{name}_files; fi
            return
        fi
        case "$at $word" in
            {paths}) at="$at $word" ;;
        esac
    done
    if [[ $cur == = ]]; then cur=
    elif [[ $prev == = ]]; then prev=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    case $at in
{cases}
    esac
}}

complete -F _{name} {name}
"""


def script(top: grammar.Command) -> str:
    """The script."""
    paths = "|".join(quoting.single(each.name) for each in top.walk() if each.path != top.path)
    return _SCRIPT.format(
        name=top.name, paths=paths, cases="\n".join(line for each in top.walk() for line in _case(each))
    )


def _case(command: grammar.Command) -> list[str]:
    name = "_" + command.path[0]
    flags = " ".join(flag for option in command.options for flag in option.flags)
    lines = [f"        {quoting.single(command.name)})"]
    values = [f"                {_value(option, name)}" for option in command.options if option.value]
    if values:
        lines += ["            case $prev in", *values, "            esac"]
    lines += [f"            if [[ $cur == -* ]]; then {name}_words {quoting.single(flags)}; return; fi"]
    if command.commands:
        lines.append(f"            {name}_words {quoting.single(quoting.names(command))}")
    for argument in command.arguments:
        if argument.choices:
            lines.append(f"            {name}_words {quoting.single(' '.join(argument.choices))}")
        elif quoting.is_file(argument):
            lines.append(f"            {name}_files")
    return [*lines, "            ;;"]


def _value(option: grammar.Option, name: str) -> str:
    flags = "|".join(option.flags)
    if option.choices:
        return f"{flags}) {name}_words {quoting.single(' '.join(option.choices))}; return ;;"
    return f"{flags}) {name}_files; return ;;" if quoting.is_file(option) else f"{flags}) return ;;"
