"""Set an alias on a registered adapter if the study's policy allows it, or remove it with demote=true."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from entrypoints.command import (
    STUDY,
    CommandParser,
    add_flag,
    add_study_parameters,
    run_command,
    seed_number,
    where_to_look,
)

if TYPE_CHECKING:  # slow to import, and --help does not need them
    from mlflow import MlflowClient

    from registry.cells import Cell, Grid
    from registry.config.study import Study
    from registry.deploy.policy import Evidence, Terms
    from registry.deploy.promotion import Carriers
    from registry.deploy.resolve import ChosenVersion

_SELECTION = ("name", "version", "model", "task", "language", "seed", "best_for")
_HISTORY = 5  # how many moves are listed


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("promote", __doc__, "-P study=demo -P model=demo-wide -P best_for=kind/tr")
    add_study_parameters(parser, help=f"study whose policy decides: {STUDY}")
    parser.add_argument("--alias", default="", help="alias; empty: champion, or with best_for best-<task>-<language>")
    parser.add_argument("--name", default="", help="registered name of the adapter")
    parser.add_argument("--version", default="", help="version number or alias; empty: the study's newest")
    parser.add_argument("--model", default="", help="instead of name: base model of the adapter")
    parser.add_argument("--task", default="", help="instead of name: source task")
    parser.add_argument("--language", default="", help="instead of name: source language")
    parser.add_argument("--seed", default="", type=seed_number, help="seed; empty: of the newest version that fits")
    parser.add_argument(
        "--best-for", default="", help="instead of name: target task/language on which the adapter gained most"
    )
    add_flag(parser, "--demote", help="remove the alias; its history stays")
    add_flag(parser, "--dry-run", help="decide, and change and record nothing")
    return parser


def main(words: list[str] | None = None) -> None:
    """Parse, decide, record, set or remove the alias, print why."""
    given = command_line().parse_args(words)
    run_command(lambda: _decide(given))


def _decide(given: argparse.Namespace) -> int:
    from registry.benchmarks.kinds import load_benchmark
    from registry.config.files import load_study
    from registry.tracking.runs import launching_run
    from registry.tracking.store import open_store

    launch = launching_run()
    study = load_study(given.study, data=given.data or None)
    if given.demote:
        return _demote(open_store(), study, given, launch)
    grid = load_benchmark(study.benchmark).select(study.tasks, study.languages)
    return _promote(study, grid, given, launch)


def _promote(study: Study, grid: Grid, given: argparse.Namespace, launch: str | None) -> int:
    from registry.deploy.policy import judge, terms_of
    from registry.deploy.promotion import as_text, carriers, promote
    from registry.deploy.resolve import VersionQuery, choose
    from registry.errors import Refused
    from registry.tracking.names import Tag
    from registry.tracking.runs import annotate_launch
    from registry.tracking.store import experiment_id, open_store

    terms = terms_of(study.promotion, _alias(given, grid), grid.cells, study=study.name)
    client = open_store()
    chosen = choose(client, VersionQuery(study=study.name, **{part: getattr(given, part) for part in _SELECTION}))
    adapter, of_study = chosen.adapter, chosen.tags.get(Tag.STUDY)
    if of_study != study.name:
        raise Refused(f"{adapter.uri} is of study {of_study}, not {study.name}, whose policy decides")
    base = chosen.tags[Tag.BASE_MODEL] if terms.shared else ""
    before = carriers(client, terms.alias, name=adapter.name, base=base)
    verdict = judge(terms, _evidence(client, study, chosen, terms))
    for note in chosen.notes:
        print(f"  {note}")
    decided = "allowed" if verdict.passed else "refused"
    print(f"{terms.alias}: {decided} for {adapter.uri}; {_holder(before)}")
    print(as_text(verdict))
    if given.dry_run:
        print("dry run: nothing was changed or recorded")
        return 0 if verdict.passed else 1
    experiment = experiment_id(client, study.name, writing=True)
    run_id = promote(client, experiment, chosen, verdict, before)
    print(f"{'set' if verdict.passed else 'not set'}: alias {terms.alias} on {adapter.uri}, recorded in run {run_id}")
    _print_history(client, experiment, adapter.name, terms.alias)
    annotate_launch(client, launch, f"Alias `{terms.alias}` {decided} for `{adapter.uri}`, run `{run_id}`.")
    return 0 if verdict.passed else 1


def _demote(client: MlflowClient, study: Study, given: argparse.Namespace, launch: str | None) -> int:
    from registry.deploy.promotion import carriers, demote
    from registry.deploy.resolve import VersionQuery, choose
    from registry.errors import Refused
    from registry.tracking.runs import annotate_launch
    from registry.tracking.store import experiment_id

    if given.best_for:
        raise Refused("demote removes an alias from one adapter: name the alias with alias=, not best_for")
    selection = {part: getattr(given, part) for part in _SELECTION} | _alias_version(given)
    chosen = choose(client, VersionQuery(**selection))
    alias, adapter = given.alias or "champion", chosen.adapter
    before = carriers(client, alias, name=adapter.name)
    if given.dry_run:
        if before.versions.get(adapter.name) != adapter.version:
            print(f"dry run: {adapter.uri} does not have the alias {alias}")
            return 1
        print(f"dry run: {alias} would be removed from {adapter.uri}")
        return 0
    experiment = experiment_id(client, study.name)
    run_id = demote(client, experiment, chosen, before)
    print(f"removed: alias {alias} from {adapter.uri}, recorded in run {run_id}")
    _print_history(client, experiment, adapter.name, alias)
    annotate_launch(client, launch, f"Alias `{alias}` removed from `{adapter.uri}`, run `{run_id}`.")
    return 0


def _alias_version(given: argparse.Namespace) -> dict[str, object]:
    """Return what selects the version with the alias, if neither a version nor a seed is given."""
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


def _holder(before: Carriers) -> str:
    return f"now on {before}" if before.versions else "no version has this alias yet"


def _alias(given: argparse.Namespace, grid: Grid) -> str:
    """Return the alias; the target of ``best_for`` must exist."""
    from registry.cells import chosen_targets
    from registry.deploy.policy import best_alias

    if not given.best_for:
        return given.alias or "champion"
    (target, *others) = chosen_targets([given.best_for], grid.cells, where="best_for")
    if others:
        from registry.errors import Refused

        raise Refused(f"best_for: {given.best_for} is {len(others) + 1} targets; name one")
    return given.alias or best_alias(target)


def _evidence(client: MlflowClient, study: Study, chosen: ChosenVersion, terms: Terms) -> Evidence:
    """Collect what is recorded and estimated of a version."""
    import math

    from analysis.corrected.by_cell import QUESTIONS
    from analysis.reading.cache import cache_root
    from analysis.reading.study import StudyStore
    from analysis.recommend.evidence import version_evidence
    from registry.cells import Cell, Regime
    from registry.deploy.policy import Evidence, TargetEffect
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
    targets: dict[Cell, TargetEffect] = {}
    for name, row in found.table.to_dict("index").items():
        numbers = {key: math.nan if value is None else float(value) for key, value in row.items() if key != "regime"}
        targets[Cell.parse(str(name))] = TargetEffect(regime=Regime(row["regime"]), **numbers)
    weights = weights_problem(client, chosen.adapter)
    return Evidence(found.run_id, targets, found.noise, chosen.tags.get(Tag.DIGEST, ""), weights)


def _print_history(client: MlflowClient, experiment: str, name: str, alias: str) -> None:
    from registry.deploy.alias_history import history
    from registry.tracking.store import shown_uri

    moves = history(client, experiment, name, alias)
    print("history, newest first:")
    for line in moves[:_HISTORY]:
        print(f"  {line}")
    if len(moves) > _HISTORY:
        print(f"  and {len(moves) - _HISTORY} more")
    print(f"look: {where_to_look(shown_uri(client.tracking_uri), experiment)}")


if __name__ == "__main__":
    main()
