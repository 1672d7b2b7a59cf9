"""Query the tracking server for a study's finished runs and build its tables, figures and report."""

from __future__ import annotations

from pathlib import Path

from entrypoints.command import STUDY, boolean, listed, parser, require_output, run_command, where_to_look


def main() -> None:
    """Parse, analyse, record the result as a run, show the regime table."""
    arguments = parser(__doc__, "mlflow run . -e analyze --env-manager local -P study=demo")
    arguments.add_argument("--study", default="demo", help=STUDY)
    arguments.add_argument("--output", default="", help="folder for the files; empty takes reports/<study>")
    arguments.add_argument("--compare", default="", help="other studies, comma-separated, to compare with cell by cell")
    arguments.add_argument(
        "--mixed-models",
        default=True,
        type=boolean,
        help="false leaves out the published variance decomposition, half a minute on the paper's grid",
    )
    arguments.add_argument(
        "--corrected",
        default=True,
        type=boolean,
        help="false leaves out the corrected statistics: every interval and test but those of the regimes",
    )
    arguments.add_argument(
        "--vectors",
        default="",
        help="CSV of typological vectors: a column language, then features S_…, P_…, INV_…; empty takes URIEL's of "
        "lang2vec where that is installed",
    )
    arguments.add_argument(
        "--heatmap",
        default="raw",
        help="what of the cells the report's heatmaps show: raw, shrunken, or only the significant; files of all three "
        "are written",
    )
    arguments.add_argument(
        "--questions",
        default=400,
        type=int,
        help="test items per target, from which noise is assumed where no outcome of a question is recorded",
    )
    arguments.add_argument(
        "--assume-noise",
        nargs="?",
        const=True,
        default=False,
        type=boolean,
        help="true analyses a study although recorded outcomes of questions cannot be read; false refuses it",
    )
    given = arguments.parse_args()

    def analyze() -> int:
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
            compare=[recorded_name(name) for name in listed(given.compare)],
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

    run_command(analyze)


if __name__ == "__main__":
    main()
