"""Rebuild docs/commands: a page for each command, made from the command line's parsers.

tests/test_manual.py fails when they are out of step.  Whoever adds or changes a command runs this again:

    python tools/build_command_pages.py
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "commands"


def main() -> int:
    """Write what is new, remove what is gone."""
    sys.path.insert(0, str(ROOT))
    from coordkit.cli import grammar, main, manual

    pages = manual.pages(grammar.read(main.parser()))
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (FOLDER / name).write_text(text)
    print(f"{len(pages)} pages in {FOLDER.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
