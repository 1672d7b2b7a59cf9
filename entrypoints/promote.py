"""Set an alias on a registered adapter if the study's policy allows it; or with demote=true take it away."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from entrypoints.command import STUDY, boolean, parser, run_command, seed_number, where_to_look

if TYPE_CHECKING:  # slow to import, and --help has no need of them
    from mlflow import MlflowClient

    from registry.cells import Cell, Grid
    from registry.config.study import Study
    from registry.deploy.policy import Evidence, Terms
    from registry.deploy.resolve import Chosen

_WHICH = ("name", "version", "model", "task", "language", "seed", "best_for")
_HISTORY = 5  # how many moves are shown


def main() -> None:
    """Parse, judge, record, set or take the alias; say why."""
    example = "mlflow run . -e promote --env-manager local -P study=demo -P model=demo-wide -P best_for=kind/tr"
    arguments = parser(__doc__, example)
    _add_arguments(arguments)
    given = arguments.parse_args()

    def promote() -> int:
        from registry.benchmarks import load_benchmark
        from registry.config.files import load_study
        from registry.tracking.runs import launching_run
        from registry.tracking.store import open_store

        launch = launching_run()
        study = load_study(given.study, data=given.data or None)
        if given.demote:
            return _demote(open_store(), study, given, launch)
        grid = load_benchmark(study.benchmark).select(study.tasks, study.languages)
        return _promote(study, grid, given, launch)

    run_command(promote)


def _add_arguments(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument("--study", default="demo", help=f"study whose policy holds: {STUDY}")
    arguments.add_argument("--data", default="", help="folder of a files benchmark, in place of the study's own path")
    arguments.add_argument(
        "--alias", default="", help="alias; empty takes champion, or with best_for best-<task>-<language>"
    )
    arguments.add_argument("--name", default="", help="registered name of the adapter")
    arguments.add_argument("--version", default="", help="version's number or alias; empty takes the study's newest")
    arguments.add_argument("--model", default="", help="in place of name: base of the adapter")
    arguments.add_argument("--task", default="", help="in place of name: source task")
    arguments.add_argument("--language", default="", help="in place of name: source language")
    arguments.add_argument("--seed", default="", type=seed_number, help="seed; empty takes the newest that fits")
    arguments.add_argument(
        "--best-for", default="", help="in place of name: target task/language that the adapter gained most on"
    )
    arguments.add_argument(
        "--demote", nargs="?", const=True, default=False, type=boolean, help="take the alias away; its history stays"
    )
    arguments.add_argument(
        "--dry-run", nargs="?", const=True, default=False, type=boolean, help="judge, and change and record nothing"
    )


def _promote(study: Study, grid: Grid, given: argparse.Namespace, launch: str | None) -> int:
    from registry.deploy.policy import judge, terms_of
    from registry.deploy.promotion import as_text, carriers, promote
    from registry.deploy.resolve import Asked, choose
    from registry.errors import Refused
    from registry.tracking.names import Tag
    from registry.tracking.runs import annotate_launch
    from registry.tracking.store import experiment_id, open_store

    terms = terms_of(study.promotion, _alias(given, grid), grid.cells, study=study.name)
    client = open_store()
    chosen = choose(client, Asked(study=study.name, **{part: getattr(given, part) for part in _WHICH}))
    adapter, of_study = chosen.adapter, chosen.tags.get(Tag.STUDY)
    if of_study != study.name:
        raise Refused(f"{adapter.uri} is of study {of_study}, not {study.name}, whose policy was asked")
    base = chosen.tags[Tag.BASE_MODEL] if terms.shared else ""
    before = carriers(client, terms.alias, name=adapter.name, base=base)
    verdict = judge(terms, _evidence(client, study, chosen, terms))
    for note in chosen.notes:
        print(f"  {note}")
    decided = "allowed" if verdict.passed else "refused"
    print(f"{terms.alias}: {decided} for {adapter.uri}; carried now by {before if before.versions else 'none'}")
    print(as_text(verdict))
    if given.dry_run:
        print("dry run: nothing was changed or recorded")
        return 0 if verdict.passed else 1
    experiment = experiment_id(client, study.name, writing=True)
    run_id = promote(client, experiment, chosen, verdict, before)
    print(f"{'set' if verdict.passed else 'not set'}: alias {terms.alias} on {adapter.uri}, recorded in run {run_id}")
    _say_history(client, experiment, adapter.name, terms.alias)
    annotate_launch(client, launch, f"Alias `{terms.alias}` {decided} for `{adapter.uri}`, run `{run_id}`.")
    return 0 if verdict.passed else 1


def _demote(client: MlflowClient, study: Study, given: argparse.Namespace, launch: str | None) -> int:
    from registry.deploy.promotion import carriers, demote
    from registry.deploy.resolve import Asked, choose
    from registry.errors import Refused
    from registry.tracking.runs import annotate_launch
    from registry.tracking.store import experiment_id

    if given.best_for:
        raise Refused("demote takes an alias from one adapter: name it, with alias=, in place of best_for")
    asked = {part: getattr(given, part) for part in _WHICH} | _carrying(given)
    chosen = choose(client, Asked(**asked))
    alias, adapter = given.alias or "champion", chosen.adapter
    before = carriers(client, alias, name=adapter.name)
    if given.dry_run:
        there = before.versions.get(adapter.name) == adapter.version
        print(f"dry run: {alias} {'would be' if there else 'is not there to be'} taken from {adapter.uri}")
        return 0 if there else 1
    experiment = experiment_id(client, study.name)
    run_id = demote(client, experiment, chosen, before)
    print(f"taken: alias {alias} from {adapter.uri}, recorded in run {run_id}")
    _say_history(client, experiment, adapter.name, alias)
    annotate_launch(client, launch, f"Alias `{alias}` taken from `{adapter.uri}`, run `{run_id}`.")
    return 0


def _carrying(given: argparse.Namespace) -> dict[str, object]:
    """Without a version or seed, the version that carries the alias is meant."""
    if given.version or given.seed is not None:
        return {}
    if given.name:
        return {} if given.name.startswith("models:") else {"version": given.alias or "champion"}
    if not (given.model and given.task and given.language):
        return {}
    from registry.cells import Cell
    from registry.tracking.names import registered_model

    name = registered_model(given.model, Cell(given.task, given.language))
    return {"name": name, "version": given.alias or "champion", "model": "", "task": "", "language": ""}


def _alias(given: argparse.Namespace, grid: Grid) -> str:
    """Return the alias that is meant; a target to be best for must exist."""
    from registry.cells import chosen_targets
    from registry.deploy.policy import best_alias

    if not given.best_for:
        return given.alias or "champion"
    (target, *others) = chosen_targets([given.best_for], grid.cells, where="best_for")
    if others:
        from registry.errors import Refused

        raise Refused(f"best_for: {given.best_for} is {len(others) + 1} targets; name one")
    return given.alias or best_alias(target)


def _evidence(client: MlflowClient, study: Study, chosen: Chosen, terms: Terms) -> Evidence:
    """Gather what is known of a version."""
    import math

    from analysis.corrected.by_cell import QUESTIONS
    from analysis.reading.cache import cache_root
    from analysis.reading.study import StudyStore
    from analysis.recommend.evidence import version_evidence
    from registry.cells import Cell, Regime
    from registry.deploy.policy import Evidence, Measured
    from registry.deploy.promotion import weights_problem
    from registry.tracking.names import Tag

    store = StudyStore(client, study.name, cache_root())
    frame = store.frame()
    for note in frame.left_out:
        print(f"  {note}")
    found = version_evidence(
        store,
        frame,
        f"{chosen.adapter.name}/{chosen.adapter.version}",
        family=terms.protect,
        shrunken=terms.policy.gain_by == "shrunken",
        questions={cell.task: study.split.count("test", cell.task) or QUESTIONS for cell in terms.every},
    )
    targets: dict[Cell, Measured] = {}
    for name, row in found.table.to_dict("index").items():
        numbers = {key: math.nan if value is None else float(value) for key, value in row.items() if key != "regime"}
        targets[Cell.parse(str(name))] = Measured(regime=Regime(row["regime"]), **numbers)
    weights = weights_problem(client, chosen.adapter)
    return Evidence(found.run_id, targets, found.noise, chosen.tags.get(Tag.DIGEST, ""), weights)


def _say_history(client: MlflowClient, experiment: str, name: str, alias: str) -> None:
    from registry.deploy.alias_history import history
    from registry.tracking.store import shown_uri

    moves = history(client, experiment, name, alias)
    print("history, the newest first:")
    for line in moves[:_HISTORY]:
        print(f"  {line}")
    if len(moves) > _HISTORY:
        print(f"  and {len(moves) - _HISTORY} more")
    print(f"look: {where_to_look(shown_uri(client.tracking_uri), experiment)}")


if __name__ == "__main__":
    main()
