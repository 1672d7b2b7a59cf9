"""Aliases of registered versions: set if a verdict allows it, taken away, and every move kept as a run.

The alias moves first, and only then does anything say so: a process that dies in between leaves a run whose verdict is
pending, from which `alias_history` tells what happened, and never a promotion that did not take place.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE, MLFLOW_USER

from registry.cells import Cell
from registry.deploy.alias_history import DEMOTED, DEMOTING, PASSED, PENDING, REFUSED
from registry.deploy.policy import TargetEffect, Verdict
from registry.deploy.resolve import ChosenVersion
from registry.errors import Refused
from registry.evaluation.metrics import record_inputs
from registry.files.markdown import markdown_table
from registry.tracking import metric_names, names
from registry.tracking.adapters import RegisteredAdapter, download_adapter
from registry.tracking.names import Kind, Tag
from registry.tracking.recording import Recording
from registry.tracking.runs import recorded
from registry.tracking.store import pages, quoted

__all__ = ["Carriers", "as_markdown", "as_text", "carriers", "demote", "promote", "weights_problem"]

_METRICS = ("score", "baseline", "chance", "delta", "se", "low", "high", "p", "q", "shrunken", "shrunken_sd")


@dataclass(frozen=True)
class Carriers:
    """Who carries an alias: version by registered name, as read at one time.

    Attributes
    ----------
    base
        Base whose adapters share the alias, so that one of them alone carries it; empty where every registered name
        has its own.
    """

    alias: str
    versions: Mapping[str, str]
    base: str = ""

    def __str__(self) -> str:
        return ", ".join(f"{name}/{version}" for name, version in sorted(self.versions.items()))


def carriers(client: MlflowClient, alias: str, *, name: str, base: str = "") -> Carriers:
    """Return who carries an alias: of one registered name, or with ``base`` of all adapters of that base."""
    wanted = f"tags.{Tag.BASE_MODEL} = {quoted(base)}" if base else f"name = {quoted(name)}"
    models = pages(lambda token: client.search_registered_models(wanted, max_results=1000, page_token=token))
    return Carriers(alias, {model.name: str(model.aliases[alias]) for model in models if alias in model.aliases}, base)


def promote(client: MlflowClient, experiment_id: str, chosen: ChosenVersion, verdict: Verdict, before: Carriers) -> str:
    """Record a verdict on a version and, if it passed, give it the alias; return the id of the run.

    Parameters
    ----------
    before
        Who carried the alias when the verdict was made.

    Raises
    ------
    Refused
        If the alias has moved since then. Whatever is raised, alias and version are as they were.
    """
    decided = PASSED if verdict.passed else REFUSED
    table = as_markdown(verdict)
    with _run(client, experiment_id, chosen, before, PENDING) as recording:
        _record(recording, verdict, chosen)
        with ExitStack() as undo:
            if verdict.passed:
                _check_unmoved(client, chosen, before)
                _give(client, chosen, before, undo)
            reasons = f": {'; '.join(verdict.reasons)}" if verdict.reasons else ""
            _note(client, recording, chosen, before.alias, decided + reasons, table, undo)
            _decide(recording, chosen, before, decided, table)
            undo.pop_all()
    return recording.run_id


def demote(client: MlflowClient, experiment_id: str, chosen: ChosenVersion, before: Carriers) -> str:
    """Take an alias from the version that carries it; return the id of the run that says so.

    Raises
    ------
    Refused
        If the version does not carry it, or does not any more. Whatever is raised, alias and version are as they were.
    """
    adapter, alias = chosen.adapter, before.alias
    if before.versions.get(adapter.name) != adapter.version:
        carried = before.versions.get(adapter.name)
        carrier = f"version {carried} does" if carried else "no version of it does"
        raise Refused(f"{adapter.name} version {adapter.version} does not carry the alias {alias!r}; {carrier}")
    with _run(client, experiment_id, chosen, before, DEMOTING) as recording:
        _record_link(recording, chosen)
        with ExitStack() as undo:
            _check_unmoved(client, chosen, before)
            undo.callback(client.set_registered_model_alias, adapter.name, alias, adapter.version)
            client.delete_registered_model_alias(adapter.name, alias)
            _note(client, recording, chosen, alias, DEMOTED, "The alias was taken from this version.", undo)
            _decide(recording, chosen, before, DEMOTED, f"Alias `{alias}` taken from it.")
            undo.pop_all()
    return recording.run_id


def weights_problem(client: MlflowClient, adapter: RegisteredAdapter) -> str:
    """Say how a version's stored files differ from what its training run recorded; empty where they do not."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            download_adapter(client, adapter, Path(folder))
        except Refused as refused:
            return str(refused)
        except (MlflowException, OSError) as error:
            return f"{adapter.uri} cannot be downloaded: {error}"
    return ""


# --- recording


def _run(
    client: MlflowClient, experiment_id: str, chosen: ChosenVersion, before: Carriers, pending: str
) -> AbstractContextManager[Recording]:
    """Open the run of a decision, which says what was decided when that stands."""
    adapter, alias = chosen.adapter, before.alias
    inherited = (
        Tag.STUDY, Tag.PROTOCOL, Tag.BASE_MODEL, Tag.BASE_REVISION, Tag.MODEL_FAMILY, Tag.MODEL_SIZE_B,
        Tag.SOURCE_TASK, Tag.SOURCE_LANGUAGE, Tag.SEED,
    )  # fmt: skip
    tags = {tag: chosen.tags[tag] for tag in inherited if tag in chosen.tags} | adapter.tags
    tags |= {Tag.ALIAS: alias, Tag.VERDICT: pending, Tag.ALIAS_BEFORE: str(before)}
    return recorded(
        client,
        experiment_id,
        kind=Kind.PROMOTE,
        name=_title(chosen, alias, pending),
        tags=tags,
        description=_headline(chosen, before, pending),
    )


def _decide(recording: Recording, chosen: ChosenVersion, before: Carriers, decided: str, table: str) -> None:
    """Say in the run what was decided, all in one write."""
    text = f"{_headline(chosen, before, decided)}\n\n{table}"
    title = _title(chosen, before.alias, decided)
    recording.tags({Tag.VERDICT: decided, MLFLOW_RUN_NAME: title, MLFLOW_RUN_NOTE: text})


def _title(chosen: ChosenVersion, alias: str, decided: str) -> str:
    return f"{Kind.PROMOTE} {chosen.adapter.name}/{chosen.adapter.version} to {alias}: {decided}"


def _headline(chosen: ChosenVersion, before: Carriers, decided: str) -> str:
    carried = f"`{before}`" if before.versions else "none"
    return f"Alias `{before.alias}` of `{chosen.adapter.uri}`: **{decided}**. Carried before by: {carried}."


def _record(recording: Recording, verdict: Verdict, chosen: ChosenVersion) -> None:
    """Record what a verdict rests on: numbers as metrics, and all of it as a file."""
    _record_link(recording, chosen)
    asked = (*verdict.terms.want, *verdict.terms.protect)
    found = [(cell, verdict.evidence.targets[cell]) for cell in asked if cell in verdict.evidence.targets]
    values = {metric_names.promoting(name, cell): getattr(one, name) for cell, one in found for name in _METRICS}
    recording.metrics({name: value for name, value in values.items() if value == value})
    with recording.folder() as folder:
        text = json.dumps(verdict.plain(), indent=1, ensure_ascii=False)
        (folder / "verdict.json").write_text(text, encoding="utf-8")


def _record_link(recording: Recording, chosen: ChosenVersion) -> None:
    """Show the run on the page of the version's model."""
    no_items: dict[str, list[Cell]] = {}
    record_inputs(recording, no_items, benchmark="", digests={}, model_id=chosen.adapter.model_id or None)


def _note(
    client: MlflowClient,
    recording: Recording,
    chosen: ChosenVersion,
    alias: str,
    decided: str,
    table: str,
    undo: ExitStack,
) -> None:
    """Say on the version what was decided: a tag, and a section of its description for each alias."""
    name, version = chosen.adapter.name, chosen.adapter.version
    now = client.get_model_version(name, version)
    run = client.get_run(recording.run_id)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run.info.start_time / 1000))
    origin = f"{when} by {run.data.tags.get(MLFLOW_USER, 'unknown')}, run {recording.run_id}"
    tag = names.promotion(alias)
    _undo_tag(client, name, version, tag, now.tags.get(tag), undo)
    client.set_model_version_tag(name, version, tag, f"{decided} ({origin})")
    section = f"### Alias `{alias}`: {decided.partition(':')[0]}\n\n{origin}.\n\n{table}"
    undo.callback(client.update_model_version, name, version, now.description or "")
    client.update_model_version(name, version, with_section(now.description or "", alias, section))


def _undo_tag(client: MlflowClient, name: str, version: str, tag: str, former: str | None, undo: ExitStack) -> None:
    if former is None:
        undo.callback(client.delete_model_version_tag, name, version, tag)
    else:
        undo.callback(client.set_model_version_tag, name, version, tag, former)


def with_section(description: str, alias: str, section: str) -> str:
    """Return a version's description with an alias's section put in place of its former one, or at the end."""
    former = re.compile(rf"\n*### Alias `{re.escape(alias)}`.*?(?=\n+### Alias `|\Z)", re.DOTALL)
    return f"{former.sub('', description).rstrip()}\n\n{section}".lstrip()


# --- the alias itself


def _check_unmoved(client: MlflowClient, chosen: ChosenVersion, before: Carriers) -> None:
    now = carriers(client, before.alias, name=chosen.adapter.name, base=before.base)
    if now.versions != before.versions:
        raise Refused(
            f"alias {before.alias!r} moved meanwhile, from {before if before.versions else 'no version'} to "
            f"{now if now.versions else 'no version'}; nothing was changed, look at it and promote again"
        )


def _give(client: MlflowClient, chosen: ChosenVersion, before: Carriers, undo: ExitStack) -> None:
    """Set the alias on the version, and take it from adapters of other sources where they share it."""
    name, alias = chosen.adapter.name, before.alias
    undo.callback(_put_back, client, name, alias, before.versions.get(name))
    client.set_registered_model_alias(name, alias, chosen.adapter.version)
    for other, version in before.versions.items():
        if other != name:
            undo.callback(client.set_registered_model_alias, other, alias, version)
            client.delete_registered_model_alias(other, alias)


def _put_back(client: MlflowClient, name: str, alias: str, version: str | None) -> None:
    if version is not None:
        client.set_registered_model_alias(name, alias, version)
        return
    try:
        client.get_model_version_by_alias(name, alias)
    except MlflowException:  # it was never set
        return
    client.delete_registered_model_alias(name, alias)


# --- a verdict as text for a terminal, and as Markdown for MLflow's UI


_HEAD = ("target", "regime", "baseline", "chance", "score", "delta", "95 %", "p", "q", "shrunken")


def as_text(verdict: Verdict) -> str:
    """Write the checks, one to a line, and the targets they rest on."""
    width = max(len(check.name) for check in verdict.checks)
    lines = [f"  {'yes' if check.passed else 'NO '} {check.name:<{width}}  {check.found}" for check in verdict.checks]
    rows = [_HEAD, *(_row(cell, found) for cell, found in _asked(verdict))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    table = [
        "  " + "  ".join(f"{text:<{size}}" for text, size in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, "", *table, f"  Errors of deltas: {verdict.evidence.noise}."])


def as_markdown(verdict: Verdict) -> str:
    """Write the verdict with every number it rests on."""
    policy = verdict.terms.policy
    checks = [(check.name, "yes" if check.passed else "**no**", check.found) for check in verdict.checks]
    asked = f"at least {policy.min_gain:+g} pp by {policy.gain_by}, no harm with q < {policy.harm_q:g}"
    rows = [_row(cell, found, "wanted" * (cell in verdict.terms.want)) for cell, found in _asked(verdict)]
    return "\n\n".join(
        [
            f"Policy: {asked}. Evaluation run `{verdict.evidence.run_id}`.",
            markdown_table(("check", "passed", "found"), checks),
            markdown_table((*_HEAD, ""), rows),
            f"Deltas in pp, q over the {len(verdict.terms.protect)} protected targets (Benjamini–Hochberg). Errors: "
            f"{verdict.evidence.noise}.",
        ]
    )


def _asked(verdict: Verdict) -> list[tuple[Cell, TargetEffect]]:
    """Return the targets that the policy names and that were measured, the wanted first."""
    targets = verdict.evidence.targets
    return [(cell, targets[cell]) for cell in (*verdict.terms.want, *verdict.terms.protect) if cell in targets]


def _row(cell: Cell, found: TargetEffect, *more: str) -> tuple[str, ...]:
    shares = (_share(value) for value in (found.baseline, found.chance, found.score))
    interval = _DASH if math.isnan(found.low) else f"{found.low:+.2f} to {found.high:+.2f}"
    shrunken = _DASH if math.isnan(found.shrunken) else f"{found.shrunken:+.2f} (SD {found.shrunken_sd:.2f})"
    tests = (_DASH if math.isnan(value) else f"{value:.2g}" for value in (found.p, found.q))
    return (str(cell), str(found.regime), *shares, f"{found.delta:+.2f}", interval, *tests, shrunken, *more)


_DASH = "–"


def _share(value: float) -> str:
    return _DASH if math.isnan(value) else f"{100 * value:.1f} %"
