"""Check environment, store, hub access, disks and a study's records; name the remedy of each fault."""

from __future__ import annotations

import argparse

from entrypoints.caller import runnable_here
from entrypoints.command import STUDY, CommandParser, add_flag, add_study_parameters, boolean, run_command


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("doctor", __doc__, "-P study=demo")
    add_study_parameters(
        parser, default="", help=f"study whose base models and records are checked too: {STUDY}; empty: none"
    )
    add_flag(
        parser,
        "--repair",
        help="true repairs what can be repaired without data loss: runs of dead processes, duplicate records, "
        "adapters that were never registered",
    )
    parser.add_argument(
        "--digests",
        default="",
        type=_digests,
        help="true compares all weights with their SHA-256, downloading them; false none; empty: those on this machine",
    )
    return parser


def main(words: list[str] | None = None) -> None:
    """Parse, examine, report each fault and its remedy; exit code 1 if there is any."""
    given = command_line().parse_args(words)
    run_command(lambda: _examine(given))


def _examine(given: argparse.Namespace) -> int:
    from registry.doctor.examination import Examination, examine, repaired
    from registry.doctor.findings import Level, format_findings
    from registry.tracking.runs import launching_run

    launching_run()
    faults = repairable = 0
    for section in examine(Examination(given.study, given.data, given.digests)):
        found = repaired(section) if given.repair else section
        print(runnable_here("\n".join([found.title, *format_findings(found.findings)])), flush=True)
        faults += sum(finding.level is Level.WRONG for finding in found.findings)
        repairable += sum(finding.repair is not None for finding in found.findings)
    print(runnable_here(_summary(faults, repairable)))
    return 1 if faults else 0


def _digests(text: str) -> bool | None:
    if text in ("", "auto"):
        return None
    try:
        return boolean(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true, false nor empty") from None


def _summary(faults: int, repairable: int) -> str:
    if not faults:
        return "nothing is wrong"
    text = "one thing is wrong" if faults == 1 else f"{faults} things are wrong"
    return f"{text}; {repairable} of them can be repaired: -P repair=true" if repairable else text


if __name__ == "__main__":
    main()
