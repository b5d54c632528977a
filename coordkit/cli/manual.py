"""A page of the manual for each command, made from the parsers.  Pure.

`tools/build_command_pages.py` writes them to docs/commands.
"""

from __future__ import annotations

from coordkit.cli import grammar

#: The section of options that many commands share: told once.
CONNECTION = "connection"

_CONNECTION = """\
# Connection

Where etcd is, and how to speak to it: the same for all commands. What is not given is taken from
`COORDKIT_URL` and the other variables of the environment, as `coordkit.connect()` does. A password is no
option, for everybody can read the list of processes: it is taken from the URL or from `COORDKIT_PASSWORD`.
"""


def pages(top: grammar.Command) -> dict[str, str]:
    """The pages' names and texts: one for each command, and one with all of them."""
    leaves = list(top.leaves())
    shared = [section for each in leaves for section in each.sections if section[0] == CONNECTION]
    return {
        "index.md": _index(leaves),
        f"{CONNECTION}.md": f"{_CONNECTION}{_table('options', shared[0][1])}" if shared else _CONNECTION,
        **{_file(each): _page(each) for each in leaves},
    }


def _file(command: grammar.Command) -> str:
    return f"{'-'.join(command.path[1:])}.md"


def _index(leaves: list[grammar.Command]) -> str:
    rows = [f"| [`{each.name}`]({_file(each)}) | {each.help} |" for each in leaves]
    return "\n".join(
        [
            "# Commands",
            "",
            "Made from the program's own help, as `coordkit COMMAND --help` shows it. "
            f"What many have in common: [{CONNECTION}]({CONNECTION}.md).",
            "",
            "| | |",
            "| --- | --- |",
            *rows,
            "",
            "```{toctree}",
            ":hidden:",
            ":glob:",
            "",
            "*",
            "```",
            "",
        ]
    )


def _page(command: grammar.Command) -> str:
    parts = [f"# {command.name}", f"`{command.name}`: {command.help}.", "```text", synopsis(command), "```"]
    text = "\n\n".join(parts[:2]) + "\n\n" + "\n".join(parts[2:]) + "\n"
    for option in command.arguments:
        text += _table("arguments", command.arguments) if option is command.arguments[0] else ""
    for title, options in command.sections:
        if title == CONNECTION:
            text += f"\nWhere etcd is: [{CONNECTION}]({CONNECTION}.md).\n"
        else:
            text += _table(title, options)
    if command.epilog:
        text += f"\n```text\n{command.epilog}\n```\n"
    return text


def synopsis(command: grammar.Command) -> str:
    """How it is called, on lines of about 100 characters."""
    own = [each for title, options in command.sections if title != CONNECTION for each in options]
    shared = ["[CONNECTION]"] if len(own) < len(command.options) else []
    words = [*map(_usage, own), *shared, *map(_usage, command.arguments)]
    lines = [command.name]
    for word in words:
        if len(lines[-1]) + len(word) > 100:
            lines.append(" " * 8)
        lines[-1] = f"{lines[-1].rstrip() if lines[-1].strip() else '       '} {word}"
    return "\n".join(lines)


def _usage(option: grammar.Option) -> str:
    dots = "..." if option.repeated else ""
    if not option.flags:
        return f"[{option.value}{dots}]" if option.optional else f"{option.value}{dots}"
    text = f"{option.flags[0]} {option.value}{dots}".rstrip()
    return text if option.required else f"[{text}]"


def _table(title: str, options: tuple[grammar.Option, ...]) -> str:
    rows = [f"| {_cell(option)} | {_escaped(option.help)} |" for option in options]
    return "\n".join(["", f"| {title} | |", "| --- | --- |", *rows, ""])


def _cell(option: grammar.Option) -> str:
    if not option.flags:
        return f"`{_escaped(option.value)}`"
    value = f" {option.value}" if option.value else ""
    return ", ".join(f"`{flag}{_escaped(value)}`" for flag in option.flags)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
