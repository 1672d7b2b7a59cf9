"""A registered adapter in a folder of its own: checked, with its card, merged into its base if that is asked for."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from registry.deploy.card import Facts, card
from registry.deploy.dtypes import Dtype
from registry.deploy.folder import CARD, Identity, check_target, is_ours, is_same, placed, refresh_card, seal
from registry.deploy.resolve import Chosen
from registry.deploy.results import results_of
from registry.deploy.versions import alias_target
from registry.models import trained_base
from registry.refusal import Refused
from registry.tracking.adapters import RESTORE, RegisteredAdapter, download_adapter
from registry.tracking.names import Tag

__all__ = ["Pulled", "default_folder", "pull"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Pulled:
    """A folder with an adapter, or with a merged model.

    Attributes
    ----------
    kept
        Whether it was there already, as it is.
    refreshed
        Whether its card was brought up to date.
    """

    folder: Path
    facts: Facts
    kept: bool
    refreshed: bool = False


def default_folder(chosen: Chosen, merged: Dtype | None) -> Path:
    """Return where a version is put if nothing else is said: ``adapters/<name>/<version>``, merged beside it."""
    adapter = chosen.adapter
    return Path("adapters") / adapter.name / (f"{adapter.version}-{merged}" if merged else adapter.version)


def pull(
    client: MlflowClient,
    chosen: Chosen,
    target: Path,
    *,
    merged: Dtype | None = None,
    base: str = "",
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Pulled:
    """Put a registered adapter into a folder that PEFT and vLLM load as it is, or merged into one of its own.

    Parameters
    ----------
    merged
        Data type to write base + adapter in; None for the adapter alone.
    base
        Folder of the base, for one that is neither built in nor on the hub; only merging asks for it.
    overwrite
        Whether another pulled folder at the target is replaced. What was not pulled never is.
    say
        Told each step that may take a while.

    Raises
    ------
    Refused
        If what arrives is not what was recorded, or something stands in the way; the target is then as it was.
    """
    target = target.expanduser().absolute()
    check_target(target)
    run = _training_run(client, chosen)
    identity = Identity(chosen.adapter.uri, chosen.tags.get(Tag.DIGEST, ""), merged or "")
    if _stands(target):
        if is_same(target, identity):
            return _kept(client, chosen, run, target, identity)
        _refuse_replacing(target, identity, overwrite=overwrite)
    try:
        with placed(target) as new:
            facts = _made(client, chosen, run, new, merged=merged, base=base, say=say)
            (new / CARD).write_text(_card(client, chosen, facts), encoding="utf-8")
            seal(new, identity)
            _check_alias(client, chosen)
    except OSError as error:
        raise _told(error, chosen.adapter, target) from error
    return Pulled(target, facts, kept=False)


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


def _kept(client: MlflowClient, chosen: Chosen, run: Run | None, target: Path, identity: Identity) -> Pulled:
    """Leave a folder as it is, but for results that its card does not tell yet."""
    facts = _facts(chosen, run, _serving(chosen), identity.merged)
    return Pulled(target, facts, kept=True, refreshed=refresh_card(target, _card(client, chosen, facts)))


def _made(
    client: MlflowClient,
    chosen: Chosen,
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
    serving = _metadata(adapter)
    facts = _facts(chosen, run, serving, merged or "")
    _check_config(adapter, facts, chosen.adapter)
    if merged:
        from registry.deploy.merge import write_merged  # it brings torch

        told = serving["base"]
        found = trained_base(told["name"], told["revision"], base, remedy="name its folder with -P base=")
        say(f"merging into {found.name} in {merged}")
        quantised = facts.parameters.get("quantization", "None")
        if quantised != "None":
            say(f"trained and scored on the base in {quantised}; merged into its full weights it may do otherwise")
        write_merged(found, adapter, new, merged)
    else:
        for name in (_CONFIG, _WEIGHTS):
            (adapter / name).rename(new / name)
    shutil.rmtree(new / "download")
    return facts


def _fetched(client: MlflowClient, adapter: RegisteredAdapter, folder: Path) -> Path:
    """Download what is stored, checked by digest."""
    try:
        path = download_adapter(client, adapter, folder)
    except MlflowException as error:
        raise _told(error, adapter, folder) from error
    missing = [name for name in (_CONFIG, "MLmodel") if not (path / name).is_file()]
    if missing:
        raise Refused(f"{adapter.uri}: {' and '.join(missing)} are gone from the artifact store; {RESTORE}")
    return path


def _told(error: Exception, adapter: RegisteredAdapter, place: Path) -> Refused:
    """Say what a failed download or a full disk means."""
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error):
        free = shutil.disk_usage(next(parent for parent in (place, *place.parents) if parent.exists())).free
        return Refused(f"{adapter.uri}: the disk of {place} is full ({free / 1e6:.0f} MB free); nothing was kept")
    if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST" or isinstance(error, FileNotFoundError):
        return Refused(f"{adapter.uri}: the version or its files are gone from the store ({_brief(error)}); {RESTORE}")
    return Refused(f"{adapter.uri} could not be pulled, and nothing was kept: {_brief(error)}")


def _brief(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _check_config(folder: Path, facts: Facts, adapter: RegisteredAdapter) -> None:
    """Hold the configuration, which the recorded digest does not cover, against the run's parameters."""
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    for key, parameter in (("r", "lora.rank"), ("lora_alpha", "lora.alpha")):
        wanted = facts.parameters.get(parameter)
        if wanted is not None and float(config.get(key, "nan")) != float(wanted):
            told = f"its adapter_config.json says {key} {config.get(key)}, {wanted} was recorded"
            raise Refused(f"{adapter.uri}: {told}; train it again")


def _check_alias(client: MlflowClient, chosen: Chosen) -> None:
    """Refuse what was pulled for an alias that stands for another version by now."""
    if not chosen.alias:
        return
    now = alias_target(client, chosen.adapter.name, chosen.alias).version
    if str(now) != chosen.adapter.version:
        moved = f"alias {chosen.alias!r} of {chosen.adapter.name} moved from version {chosen.adapter.version} to {now}"
        raise Refused(f"{moved} meanwhile; nothing was kept, pull again")


def _card(client: MlflowClient, chosen: Chosen, facts: Facts) -> str:
    return card(facts, results_of(client, f"{chosen.adapter.name}/{chosen.adapter.version}"))


def _training_run(client: MlflowClient, chosen: Chosen) -> Run | None:
    try:
        return client.get_run(chosen.run_id)
    except MlflowException as error:  # a version outlives its run
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _facts(chosen: Chosen, run: Run | None, serving: Mapping[str, Any], merged: str) -> Facts:
    parameters = run.data.params if run else {}
    inputs = run.inputs.dataset_inputs if run and run.inputs else []
    # Its training set is named by the kind of benchmark: `hub training`.
    benchmark = inputs[0].dataset.name.partition(" ")[0] if inputs else ""
    return Facts(chosen.tags, parameters, serving, benchmark, merged)


def _serving(chosen: Chosen) -> Mapping[str, Any]:
    """Read the metadata of the stored MLmodel alone."""
    import tempfile

    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = mlflow.artifacts.download_artifacts(f"{chosen.adapter.uri}/MLmodel", dst_path=folder)
        except (MlflowException, OSError) as error:
            raise _told(error, chosen.adapter, Path(folder)) from error
        return _metadata(Path(path).parent)


def _metadata(folder: Path) -> Mapping[str, Any]:
    told: Mapping[str, Any] = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["metadata"]
    return told
