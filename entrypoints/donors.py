"""The console script ``donors``: every entry point as a command, with the parameters of ``mlflow run -e``.

``donors study demo --dry-run`` is ``python -m entrypoints.study --study demo --dry-run true``.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

from entrypoints.commands import COMMANDS, load_command

__all__ = ["main"]

#: Parameter that the word after the command is for, where it is not the study.
_FIRST_PARAMETER = {"import": "source"}


def main() -> None:
    """Run the command that the first word names."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help", "help"):
        print(_overview())
    elif command == "--version":
        print(f"donors {version('donors-recipients')}")
    elif command in COMMANDS:
        load_command(command).main(_with_first_parameter(command, words))
    else:
        from registry.errors import unknown

        print(f"error: {unknown('command', command, COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def _with_first_parameter(command: str, words: list[str]) -> list[str]:
    """Return the words with the name of the first parameter written out."""
    if not words or words[0].startswith("-") or command in ("list", "completion"):
        return words
    return [f"--{_FIRST_PARAMETER.get(command, 'study')}", *words]


def _overview() -> str:
    lines = [f"  {name:<11} {_summary(name)}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: donors COMMAND [STUDY] [--name value ...]      donors COMMAND --help explains the parameters",
            "",
            *lines,
            "",
            "example: donors study demo --dry-run",
        ]
    )


def _summary(name: str) -> str:
    """Return the first line of a command's description."""
    return str(load_command(name).command_line().description).strip().splitlines()[0]


if __name__ == "__main__":
    main()
