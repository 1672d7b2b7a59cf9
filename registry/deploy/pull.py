"""A registered adapter in a folder of its own: checked, with its card, merged into its base if that is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from registry.cards.base_model import Dtype, auto_class, base_dtype, find_base, imports, load_arguments
from registry.cards.card import Facts, card
from registry.cards.results import results_of
from registry.cards.vllm import cautions, objections, serve_adapter, serve_merged
from registry.deploy.folder import (
    CARD,
    Identity,
    check_target,
    is_ours,
    is_same,
    refresh_card,
    remove_leftovers,
    replacing_folder,
    write_manifest,
)
from registry.deploy.resolve import ChosenVersion
from registry.deploy.versions import alias_target
from registry.errors import Refused
from registry.files.adapter import CONFIG, WEIGHTS, config_text, read_config
from registry.files.disks import disk_problem
from registry.tracking.adapters import RESTORE, RegisteredAdapter, download_adapter
from registry.tracking.client import existing, first_line
from registry.tracking.folders import read_description
from registry.tracking.verification import AdapterRecord, check_recipe, version_record

__all__ = ["PulledFolder", "default_folder", "pull", "usage"]


@dataclass(frozen=True)
class PulledFolder:
    """A folder with an adapter, or with a merged model.

    Attributes
    ----------
    kept
        Whether it was there already, as it is.
    refreshed
        Whether its card was brought up to date.
    base, base_revision
        What ``from_pretrained`` is given for the base of an adapter: a hub id and its commit, or a folder and None.
    base_missing
        Why it is not known where the base is; ``base`` is then a placeholder. Empty where it is known.
    """

    folder: Path
    facts: Facts
    kept: bool
    refreshed: bool = False
    base: str = ""
    base_revision: str | None = None
    base_missing: str = ""


def default_folder(chosen: ChosenVersion, merged: Dtype | None) -> Path:
    """Return where a version is put if nothing else is said: ``adapters/<name>/<version>``, merged beside it."""
    adapter = chosen.adapter
    return Path("adapters") / adapter.name / (f"{adapter.version}-{merged}" if merged else adapter.version)


def pull(
    client: MlflowClient,
    chosen: ChosenVersion,
    target: Path,
    *,
    merged: Dtype | None = None,
    base: str = "",
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> PulledFolder:
    """Put a registered adapter into a folder that PEFT and vLLM load as it is, or merged into one of its own.

    Parameters
    ----------
    merged
        Data type to write base + adapter in; None for the adapter alone.
    base
        Folder of the base; by default one that is neither built in nor on the hub is where it was when the adapter
        was trained.
    overwrite
        Whether another pulled folder at the target is replaced. What was not pulled never is.
    say
        Called with each step that may take a while.

    Raises
    ------
    Refused
        If what arrives is not what was recorded, or something stands in the way; the target is then as it was.
    """
    target = target.expanduser().absolute()
    check_target(target)
    run = existing(client.get_run, chosen.run_id)
    identity = Identity(chosen.adapter.uri, _recorded(client, chosen).weights, merged or "")
    if _stands(target):
        if is_same(target, identity) and _is_as_recorded(client, chosen, target, identity):
            return _with_base(_kept(client, chosen, run, target, identity, say), chosen, base, say)
        _refuse_replacing(target, identity, overwrite=overwrite)
    try:
        with replacing_folder(target) as new:
            facts = _made(client, chosen, run, new, merged=merged, base=base, say=say)
            found = _with_base(PulledFolder(target, facts, kept=False), chosen, base, say)
            (new / CARD).write_text(_card(client, chosen, facts, say), encoding="utf-8")
            write_manifest(new, identity)
            _check_alias(client, chosen)
    except OSError as error:
        raise _failure(error, chosen.adapter, target) from error
    return found


def _with_base(pulled: PulledFolder, chosen: ChosenVersion, folder: str, say: Callable[[str], None]) -> PulledFolder:
    """Add where the base of an adapter is; a folder is held against the digest that was trained on.

    Raises
    ------
    Refused
        If the user named a folder and it is another base's. A place that was only remembered may be wrong.
    """
    facts = pulled.facts
    if facts.merged:
        return pulled
    if facts.hub_revision and not folder:
        return replace(pulled, base=facts.base, base_revision=facts.hub_revision)
    say(f"checking the files of the base {facts.base}")
    try:
        found = find_base(facts.serving, chosen.tags, folder)
    except Refused as error:
        if folder:
            raise
        return replace(pulled, base=f"<folder of {facts.base}>", base_missing=str(error))
    return replace(pulled, base=str(Path(found.location).absolute()))


def _stands(target: Path) -> bool:
    return target.is_dir() and any(target.iterdir())


def _refuse_replacing(target: Path, identity: Identity, *, overwrite: bool) -> None:
    if not is_ours(target):
        raise Refused(f"{target} holds something that was not pulled; name another folder with -P output=")
    if not overwrite:
        raise Refused(
            f"{target} holds something else than {identity.uri}{f' in {identity.merged}' if identity.merged else ''}, "
            "or was changed; replace it with -P overwrite=true, or name another folder with -P output="
        )


def _recorded(client: MlflowClient, chosen: ChosenVersion) -> AdapterRecord:
    """Look up what is recorded of the version; one that was deleted since it was chosen is refused."""
    try:
        return version_record(client, chosen.adapter.name, chosen.adapter.version)
    except MlflowException as error:
        raise _failure(error, chosen.adapter, Path()) from error


def _is_as_recorded(client: MlflowClient, chosen: ChosenVersion, target: Path, identity: Identity) -> bool:
    """Whether an adapter's configuration, in a folder that an earlier version may have pulled, is the recorded one."""
    if identity.merged:
        return True
    try:
        check_recipe(read_config(target), _recorded(client, chosen))
    except Refused:
        return False
    return True


def _kept(
    client: MlflowClient,
    chosen: ChosenVersion,
    run: Run | None,
    target: Path,
    identity: Identity,
    say: Callable[[str], None],
) -> PulledFolder:
    """Leave a folder as it is, but for results that its card does not tell yet."""
    facts = _facts(chosen, run, _serving(chosen), identity.merged)
    remove_leftovers(target)
    try:
        refreshed = refresh_card(target, _card(client, chosen, facts, say))
    except OSError as error:  # the adapter is there all the same
        say(f"its card could not be brought up to date: {first_line(error)[:300]}")
        refreshed = False
    return PulledFolder(target, facts, kept=True, refreshed=refreshed)


def _made(
    client: MlflowClient,
    chosen: ChosenVersion,
    run: Run | None,
    new: Path,
    *,
    merged: Dtype | None,
    base: str,
    say: Callable[[str], None],
) -> Facts:
    """Fill a new folder, and return what is recorded of the adapter in it."""
    say(f"downloading {chosen.adapter.uri}")
    (new / "download").mkdir()
    adapter = _fetched(client, chosen.adapter, new / "download")
    serving = read_description(adapter)
    facts = _facts(chosen, run, serving, merged or "")
    if merged:
        from registry.deploy.merge import write_merged  # it brings torch

        found = find_base(serving, chosen.tags, base)
        say(f"merging into {found.name} in {merged}")
        quantised = facts.parameters.get("quantization", "None")
        if quantised != "None":
            say(f"trained and scored on the base in {quantised}; merged into its full weights it may do otherwise")
        write_merged(found, adapter, new, merged)
    else:
        (new / CONFIG).write_text(config_text(read_config(adapter)), encoding="utf-8")
        (adapter / WEIGHTS).rename(new / WEIGHTS)
    shutil.rmtree(new / "download")
    return facts


def _fetched(client: MlflowClient, adapter: RegisteredAdapter, folder: Path) -> Path:
    """Download what is stored, held against what was recorded."""
    try:
        return download_adapter(client, adapter, folder)
    except MlflowException as error:
        raise _failure(error, adapter, folder) from error


def _failure(error: Exception, adapter: RegisteredAdapter, place: Path) -> Refused:
    """Say what a failed download or a full disk means."""
    if problem := disk_problem(error, place):
        return Refused(f"{adapter.uri} could not be pulled, and nothing was kept: {problem}")
    if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST" or isinstance(error, FileNotFoundError):
        return Refused(
            f"{adapter.uri}: the version or its files are gone from the store ({first_line(error)[:300]}); {RESTORE}"
        )
    return Refused(f"{adapter.uri} could not be pulled, and nothing was kept: {first_line(error)[:300]}")


def _check_alias(client: MlflowClient, chosen: ChosenVersion) -> None:
    """Refuse what was pulled for an alias that stands for another version by now."""
    if not chosen.alias:
        return
    now = alias_target(client, chosen.adapter.name, chosen.alias).version
    if str(now) != chosen.adapter.version:
        moved = f"alias {chosen.alias!r} of {chosen.adapter.name} moved from version {chosen.adapter.version} to {now}"
        raise Refused(f"{moved} meanwhile; nothing was kept, pull again")


def _card(client: MlflowClient, chosen: ChosenVersion, facts: Facts, say: Callable[[str], None]) -> str:
    results = results_of(client, f"{chosen.adapter.name}/{chosen.adapter.version}")
    for note in results.notes if results else ():
        say(f"not on its card: {note}")
    return card(facts, results)


def _facts(chosen: ChosenVersion, run: Run | None, serving: Mapping[str, Any], merged: str) -> Facts:
    parameters = run.data.params if run else {}
    inputs = run.inputs.dataset_inputs if run and run.inputs else []
    # Its training set is named by the kind of benchmark: `hub training`.
    benchmark = inputs[0].dataset.name.partition(" ")[0] if inputs else ""
    return Facts(chosen.tags, parameters, serving, benchmark, merged)


def _serving(chosen: ChosenVersion) -> Mapping[str, Any]:
    """Read the metadata of the stored MLmodel alone."""
    import tempfile

    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = mlflow.artifacts.download_artifacts(f"{chosen.adapter.uri}/MLmodel", dst_path=folder)
        except (MlflowException, OSError) as error:
            raise _failure(error, chosen.adapter, Path(folder)) from error
        try:
            return read_description(Path(path).parent)
        except Refused as error:
            raise Refused(f"{chosen.adapter.uri}: {error}") from None


# --- the lines that use a pulled folder: with transformers and PEFT, and with vLLM


def usage(pulled: PulledFolder) -> list[str]:
    """Return lines of Python and of the shell."""
    folder, facts = str(pulled.folder), pulled.facts
    if facts.merged:
        python = [
            f"from transformers import {auto_class(facts.serving)}, AutoTokenizer",
            f'model = {auto_class(facts.serving)}.from_pretrained({folder!r}, dtype="{facts.merged}")',
            f"tokenizer = AutoTokenizer.from_pretrained({folder!r})",
        ]
        return _both(python, serve_merged(folder, facts.name, facts.merged))
    place, revision = pulled.base, pulled.base_revision
    pinned = f", revision={revision!r}" if revision else ""
    python = [
        "from peft import PeftModel",
        imports(facts.serving),
        f"base = {auto_class(facts.serving)}.from_pretrained({place!r}{load_arguments(facts.serving, revision)})",
        f"model = PeftModel.from_pretrained(base, {folder!r})",
        f"tokenizer = AutoTokenizer.from_pretrained({place!r}{pinned})",
    ]
    why_not = objections(pulled.folder)
    if why_not:
        return _both(python, f"does not load it: {'; '.join(why_not)}. Pull it with -P merged=true")
    config = json.loads((pulled.folder / "adapter_config.json").read_text(encoding="utf-8"))
    dtype = base_dtype(facts.serving)
    lines = _both(python, serve_adapter(place, revision, facts.name, folder, config["r"], dtype))
    return [*lines, *(f"    # {caution}" for caution in cautions(dtype))]


def _both(python: list[str], shell: str) -> list[str]:
    return ["  Python:", *(f"    {line}" for line in python), "  vLLM:", f"    {shell}"]
