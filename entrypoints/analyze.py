"""Query the tracking server for a study's finished runs and build its tables, figures and report."""

from __future__ import annotations

from pathlib import Path

from entrypoints.command import parser, run_command, where_to_look


def main() -> None:
    """Parse, analyse, record the result as a run, show the regime table."""
    arguments = parser(__doc__, "mlflow run . -e analyze --env-manager local -P study=demo")
    arguments.add_argument(
        "--study", default="demo", help="name of the study, which is its experiment's in the tracking server"
    )
    arguments.add_argument("--output", default="", help="folder for the files; empty takes reports/<study>")
    given = arguments.parse_args()

    def analyze() -> int:
        from analysis import record_analysis, regimes_as_text
        from registry.tracking.launch import annotate_launch, launching_run
        from registry.tracking.store import open_store, shown_uri

        launch, client = launching_run(), open_store()
        study = Path(given.study).stem if given.study.endswith((".yaml", ".yml")) else given.study
        result, run_id = record_analysis(client, study, Path(given.output or Path("reports") / study))
        print(regimes_as_text(result.regimes))
        for part in result.left_out:
            print(f"left out: {part}")
        print(f"report:  {result.report}")
        print(f"run:     {run_id} in experiment {study!r} of {shown_uri(client.tracking_uri)}")
        experiment = client.get_run(run_id).info.experiment_id
        print(f"look:    {where_to_look(shown_uri(client.tracking_uri), experiment)}")
        annotate_launch(client, launch, f"Analysis run `{run_id}`.")
        return 0

    run_command(analyze)


if __name__ == "__main__":
    main()
