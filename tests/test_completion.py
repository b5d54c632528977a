"""Completion in the shells: the scripts, run by the shells themselves where these are installed."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from coordkit.cli import grammar, main
from coordkit.cli.completion import bash, fish, zsh

#: A line up to the cursor, and what completes it; None: nothing of ours does.
LINES = {
    "coordkit lo": "lock",
    "coordkit lock sho": "show",
    "coordkit lock show --ki": "--kind",
    "coordkit lock show --kind sem": "semaphore",
    "coordkit lock show lock --kind rw": "rwlock",
    "coordkit status -o js": "json",
    "coordkit status --output ta": "table",
    "coordkit completion zs": "zsh",
    "coordkit doctor --cacert cert": "certificate.pem",
    "coordkit doctor --url cert": None,
    "coordkit lock run x -- cat cert": "certificate.pem",
    "coordkit lock run x -- cat --ki": None,
}


@pytest.fixture(scope="module")
def top() -> grammar.Command:
    return grammar.read(main.parser())


@pytest.fixture
def shell(mode, tmp_path):
    """Runs a program in a shell, in a folder with one file."""
    if mode != "threads":
        pytest.skip("a shell is no program that gevent patches")
    (tmp_path / "certificate.pem").touch()

    def run(name: str, program: str, *options: str) -> str:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        script = tmp_path / "script"
        script.write_text(program)
        done = subprocess.run(
            [found, *options, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=30
        )
        assert done.stderr == ""
        return done.stdout

    return run


class TestBash:
    def test_it_completes(self, shell, top):
        """
        Commands, options, their choices, files; behind -- whatever the child may want.
        """
        calls = [f"try {line}" for line in LINES] + [
            "try coordkit lock ''",
            "try coordkit status --output = j",
        ]
        program = """
try() {
    COMP_WORDS=("$@")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _coordkit
    echo "${COMPREPLY[*]}"
}
"""
        told = shell("bash", "\n".join([bash.script(top), program, *calls])).splitlines()

        assert told[: len(LINES)] == [found or "" for found in LINES.values()]
        assert {"run", "ls", "show", "break", "history"} <= set(told[-2].split())
        assert told[-1] == "json"


class TestOthers:
    def test_fish_completes(self, shell, top, tmp_path):
        """
        The same lines.
        """
        calls = [f"echo '>' (complete -C '{line}' | string replace -r '\\t.*' '')" for line in LINES]

        told = shell("fish", "\n".join([fish.script(top), *calls]), "--no-config").splitlines()

        assert told == [f"> {found}" if found else ">" for found in LINES.values()]

    def test_zsh_takes_the_script(self, shell, top):
        """
        It is zsh's language.
        """
        assert shell("zsh", zsh.script(top), "-n") == ""

    @pytest.mark.parametrize("script", [bash.script, fish.script, zsh.script])
    def test_every_option_is_in_the_script(self, script, top):
        """
        Of every command.
        """
        text = script(top)

        for command in top.walk():
            assert command.name in text
            for option in command.options:
                assert all(flag.lstrip("-") in text for flag in option.flags)
