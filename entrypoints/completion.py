"""Print the completion of this command for bash or zsh.

``eval "$(donors completion bash)"`` in ``~/.bashrc``, or ``eval "$(donors completion zsh)"`` in ``~/.zshrc``.
"""

from __future__ import annotations

from entrypoints.command import CommandParser
from entrypoints.commands import COMMANDS, load_command
from entrypoints.listing import KINDS
from registry.config.names import study_names

_BASH = """\
_donors() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  [ "$COMP_CWORD" -gt 1 ] && COMPREPLY+=($(compgen -f -- "$word"))
}}
complete -o filenames -F _donors donors"""

_ZSH = """\
_donors() {{
  if (( CURRENT == 2 )); then
    compadd -- {commands}
    return
  fi
  local words_of=""
  case "$words[2]" in
{cases}
  esac
  compadd -- ${{=words_of}}
  _files
}}
compdef _donors donors"""


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("completion", __doc__, "bash")
    parser.add_argument("shell", choices=["bash", "zsh"], help="shell to print the completion for")
    return parser


def main(words: list[str] | None = None) -> None:
    """Print the completion."""
    given = command_line().parse_args(words)
    template, variable = (_BASH, "words") if given.shell == "bash" else (_ZSH, "words_of")
    cases = [f'    {name}) {variable}="{" ".join(_words(name))}" ;;' for name in COMMANDS]
    print(template.format(commands=" ".join(COMMANDS), cases="\n".join(cases)))


def _words(name: str) -> list[str]:
    """Return the words that may follow a command."""
    if name == "completion":
        return ["bash", "zsh"]
    studies = study_names()
    if name == "list":
        return [*KINDS, *studies]
    options = [f"--{parameter.dest.replace('_', '-')}" for parameter in load_command(name).command_line().parameters]
    return [*options, "--help", *studies]


if __name__ == "__main__":
    main()
