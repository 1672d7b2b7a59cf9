"""Rank the adapters of a base, and sources not yet trained, by expected gain and by risk of harm."""

from __future__ import annotations

from pathlib import Path

from entrypoints.command import parser, run_command


def main() -> None:
    """Parse, read the study, rank, write the table."""
    arguments = parser(__doc__, "mlflow run . -e recommend --env-manager local -P study=demo -P want=kind/tr")
    arguments.add_argument("--study", default="demo", help="name of the study, which is its experiment's in the store")
    arguments.add_argument("--model", default="", help="base; may be left out where the study has one")
    arguments.add_argument(
        "--want", default="", help="targets task/language to gain on, by commas; * for all tasks or languages"
    )
    arguments.add_argument("--protect", default="", help="targets that are not to be harmed, written likewise")
    arguments.add_argument(
        "--vectors", default="", help="CSV of typological vectors, as for analyze; empty takes URIEL's if installed"
    )
    arguments.add_argument("--rows", default=20, type=int, help="rows to show; the file has all")
    arguments.add_argument("--output", default="", help="folder for recommend.csv; empty takes reports/<study>")
    given = arguments.parse_args()

    def recommend() -> int:
        from analysis.frame import load
        from analysis.published.vectors import read_vectors, uriel_vectors
        from analysis.recommend.effects import names_of
        from analysis.recommend.questions import stored_noise
        from analysis.recommend.recommendation import recommend as ranked
        from analysis.stored.cache import cache_folder, cache_root
        from analysis.stored.outcomes import stored_outcomes
        from registry.cells import Cell
        from registry.deploy.policy import chosen_targets
        from registry.tracking.launch import annotate_launch, launching_run
        from registry.tracking.store import experiment_id, open_store

        launch, study = launching_run(), _study(given.study)
        vectors = read_vectors(Path(given.vectors)) if given.vectors else None
        client = open_store()
        frame = load(client, study, cache=cache_root())
        every = sorted({Cell.parse(name) for name in names_of(frame.observations, "target").unique()})
        want, protect = (
            chosen_targets(_listed(getattr(given, part)), every, where=part) for part in ("want", "protect")
        )
        stored = stored_outcomes(client, frame, cache=cache_root())
        kept = cache_folder(cache_root(), client.tracking_uri, experiment_id(client, study))
        languages = sorted({cell.language for cell in every} | set(frame.observations["source_language"]))
        found = ranked(
            frame,
            stored_noise(stored, cache=kept),
            model=given.model,
            want=want,
            protect=protect,
            vectors=vectors or uriel_vectors(languages),
        )
        print(f"{found.model}: wanted {', '.join(map(str, found.want))}")
        print(found.text(given.rows))
        for note in (*frame.notes, *stored.notes):
            print(note)
        files = found.write(Path(given.output or Path("reports") / study))
        print(f"files: {', '.join(map(str, files))}")
        annotate_launch(client, launch, f"Recommended for {', '.join(map(str, found.want))}: `{files[0]}`.")
        return 0

    run_command(recommend)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _study(given: str) -> str:
    """Return the name of a study given by its name or by its file."""
    return Path(given).stem if given.endswith((".yaml", ".yml")) else given


if __name__ == "__main__":
    main()
