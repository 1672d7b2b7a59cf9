"""The commands: the entry points of the MLproject, and what ``donors`` has beside them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:  # it needs the entry points itself
    from entrypoints.command import CommandParser

__all__ = ["COMMANDS", "ENTRY_POINTS", "CommandModule", "load_command"]

#: Entry point of the MLproject → module of this package, in the order in which they are listed.
ENTRY_POINTS = {
    "finetune": "finetune",
    "evaluate": "evaluate",
    "study": "study",
    "import": "import_results",  # `import` cannot name a Python module
    "tune": "tune",
    "pull": "pull",
    "promote": "promote",
    "recommend": "recommend",
    "analyze": "analyze",
    "doctor": "doctor",
    "forget": "forget",
}

#: Command of ``donors`` → module of this package.
COMMANDS = ENTRY_POINTS | {"list": "listing", "completion": "completion"}


class CommandModule(Protocol):
    """A module of this package that is a command."""

    def command_line(self) -> CommandParser:
        """Return the parser of its parameters."""

    def main(self, words: list[str] | None = None) -> None:
        """Parse the words, ``sys.argv`` by default, and run; exits with the command's code."""


def load_command(name: str) -> CommandModule:
    """Import the module of a command; its own imports wait until it runs."""
    return cast(CommandModule, import_module(f"entrypoints.{COMMANDS[name]}"))
