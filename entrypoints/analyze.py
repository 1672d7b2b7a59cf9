"""Query the tracking server for a study's finished runs and build its tables, figures and report."""

from __future__ import annotations

import argparse
from pathlib import Path

from entrypoints.command import STUDY, CommandParser, add_flag, require_output, run_command, split_names, where_to_look


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("analyze", __doc__, "-P study=demo")
    parser.add_argument("--study", default="demo", help=STUDY)
    parser.add_argument("--output", default="", help="folder for the files; empty: reports/<study>")
    parser.add_argument(
        "--compare", default="", help="other studies, separated by commas, to compare with cell by cell"
    )
    add_flag(
        parser,
        "--mixed-models",
        default=True,
        help="false skips the published variance decomposition, half a minute on the paper's grid",
    )
    add_flag(
        parser,
        "--corrected",
        default=True,
        help="false skips the corrected statistics: every interval and test except those of the regimes",
    )
    parser.add_argument(
        "--vectors",
        default="",
        help="CSV file of typological vectors: a column language, then features S_…, P_…, INV_…; empty: URIEL's, "
        "if lang2vec is installed",
    )
    parser.add_argument(
        "--heatmap",
        default="raw",
        help="values in the report's heatmaps: raw, shrunken or significant (significant cells only); files of all "
        "three are written",
    )
    parser.add_argument(
        "--questions",
        default="400",  # a string in the MLproject
        type=int,
        help="test items per target, used to estimate noise for runs without recorded outcomes",
    )
    add_flag(
        parser,
        "--assume-noise",
        help="true analyzes a study although its recorded outcomes cannot be read; false rejects it",
    )
    return parser


def main(words: list[str] | None = None) -> None:
    """Parse, analyze, record the result as a run, print the regime table."""
    given = command_line().parse_args(words)
    run_command(lambda: _analyze(given))


def _analyze(given: argparse.Namespace) -> int:
    from analysis.corrected.regimes import regimes_as_text
    from analysis.measures.numerals import quantity
    from analysis.record import record_analysis
    from registry.config.names import recorded_name
    from registry.tracking.runs import annotate_launch, launching_run
    from registry.tracking.store import open_store, shown_uri

    launch, study = launching_run(), recorded_name(given.study)
    output = Path(given.output or Path("reports") / study)
    require_output(output)
    client = open_store()
    result, run_id = record_analysis(
        client,
        study,
        output,
        compare=[recorded_name(name) for name in split_names(given.compare)],
        mixed_models=given.mixed_models,
        corrected=given.corrected,
        vectors=Path(given.vectors) if given.vectors else None,
        heatmaps=given.heatmap,
        questions=given.questions,
        assume_noise=given.assume_noise,
    )
    print(regimes_as_text(result.regimes))
    print(f"noise:   {result.noise}")
    for note in result.noise_notes:
        print(f"         {note}")
    for note in result.runs_left_out:
        print(f"note:    {note}")
    print(f"report:  {result.report}")
    if result.left_out:
        print(f"         {quantity(len(result.left_out), 'part')} left out, listed at its end with the reasons")
    print(f"run:     {run_id} in experiment {study!r} of {shown_uri(client.tracking_uri)}")
    experiment = client.get_run(run_id).info.experiment_id
    print(f"look:    {where_to_look(shown_uri(client.tracking_uri), experiment)}")
    annotate_launch(client, launch, f"Analysis run `{run_id}`.")
    return 0


if __name__ == "__main__":
    main()
