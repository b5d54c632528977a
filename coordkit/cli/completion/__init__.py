"""`coordkit completion`: what completes coordkit's commands and options in a shell, made from the parsers."""

from __future__ import annotations

import argparse
from typing import Any

from coordkit.cli import options

SHELLS = ("bash", "zsh", "fish")

_SUMMARY = "print a script that completes commands and options in a shell"
_EXAMPLES = """\
examples:
  eval "$(coordkit completion bash)"      in ~/.bashrc
  coordkit completion bash > ~/.local/share/bash-completion/completions/coordkit
  coordkit completion zsh > ~/.zfunc/_coordkit      with ~/.zfunc in fpath, before compinit
  coordkit completion fish > ~/.config/fish/completions/coordkit.fish

exit status: 0"""


def register(commands: Any) -> None:
    """Add `completion`."""
    parser = options.command(commands, "completion", _SUMMARY, _EXAMPLES, run)
    parser.add_argument("shell", choices=SHELLS, help="which")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from coordkit.cli import grammar, main
    from coordkit.cli.completion import bash, fish, zsh

    script = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}[arguments.shell]
    print(script(grammar.read(main.parser())), end="")
    return 0
