"""Look for what is wrong with the environment, the store, access to the hub, the disks and a study's records."""

from __future__ import annotations

import argparse

from entrypoints.command import STUDY, boolean, parser, run_command


def main() -> None:
    """Parse, examine, say what is wrong and what mends it; exit code 1 if anything is."""
    arguments = parser(__doc__, "mlflow run . -e doctor --env-manager local -P study=demo")
    arguments.add_argument(
        "--study", default="", help=f"study whose bases and records are looked at too: {STUDY}; empty for none"
    )
    arguments.add_argument("--data", default="", help="folder of a files benchmark, in place of the study's own path")
    arguments.add_argument(
        "--repair",
        nargs="?",
        const=True,
        default=False,
        type=boolean,
        help="true mends what can be mended without losing anything: runs of dead processes, what is recorded twice, "
        "adapters that were never registered",
    )
    arguments.add_argument(
        "--digests",
        default="",
        type=_digests,
        help="true compares all weights with their SHA-256, downloading them; false none; empty those on this machine",
    )
    given = arguments.parse_args()

    def doctor() -> int:
        from entrypoints.caller import pasted
        from registry.doctor.examination import Examination, examine, repaired
        from registry.doctor.findings import Level, format_findings
        from registry.tracking.runs import launching_run

        launching_run()
        faults = repairable = 0
        for section in examine(Examination(given.study, given.data, given.digests)):
            found = repaired(section) if given.repair else section
            print(pasted("\n".join([found.title, *format_findings(found.findings)])), flush=True)
            faults += sum(finding.level is Level.WRONG for finding in found.findings)
            repairable += sum(finding.repair is not None for finding in found.findings)
        print(_summary(faults, repairable))
        return 1 if faults else 0

    run_command(doctor)


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
    told = "one thing is wrong" if faults == 1 else f"{faults} things are wrong"
    return f"{told}; {repairable} of them can be mended by -P repair=true" if repairable else told


if __name__ == "__main__":
    main()
