"""Names of tags, kinds of runs, files and registered models: the contract between running a study and analysing it.

Every such name that MLflow stores is spelled here and nowhere else; those of metrics in `metric_names.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from registry.cells import Cell
from registry.sources import SOURCE, SOURCE_LANGUAGE, SOURCE_TASK, Source

__all__ = [
    "Artifact",
    "Kind",
    "Tag",
    "headlines_of",
    "headlines_tag",
    "outcomes_file",
    "promotion",
    "registered_model",
    "run_name",
]


class Kind(StrEnum):
    """What a run did; the value of its tag ``kind``."""

    BASELINE = "baseline"
    FINETUNE = "finetune"
    EVALUATE = "evaluate"
    STUDY = "study"
    ANALYZE = "analyze"
    IMPORT = "import"
    TUNE = "tune"
    PROMOTE = "promote"  # an alias set on a version, refused to it or taken from it
    TRIAL = "trial"  # one recipe tried, nested in its `tune`
    LAUNCH = "launch"  # the run that `mlflow run` itself opens around an entry point


class Tag:
    """Tags of runs and model versions."""

    KIND: Final = "kind"
    STUDY: Final = "study"
    PROTOCOL: Final = "protocol"
    BASE_MODEL: Final = "base_model"
    BASE_REVISION: Final = "base_revision"
    MODEL_FAMILY: Final = "model_family"
    MODEL_SIZE_B: Final = "model_size_b"
    SEED: Final = "seed"
    FINGERPRINT: Final = "fingerprint"
    #: What an adapter was made from, and of a single cell its task and language.
    SOURCE: Final = SOURCE
    SOURCE_TASK: Final = SOURCE_TASK
    SOURCE_LANGUAGE: Final = SOURCE_LANGUAGE
    #: Headline accuracy of each task as ``task=acc_norm`` pairs, separated by spaces; of a version, that of its last
    #: evaluation.
    HEADLINES: Final = "headlines"
    #: Targets whose baseline is significantly below chance (`chance.py`), separated by spaces; absent where none is.
    BELOW_CHANCE: Final = "below_chance"
    #: Targets of which some questions did not fit the base's longest input and were scored without their left side, as
    #: ``task/language=count``, the largest counts first; absent where there is none.
    CUT: Final = "cut"
    #: Groups of cells that have the same items to train on, and to test on, as ``cell=cell`` separated by spaces.
    COPIED_SOURCES: Final = "copied_sources"
    COPIED_TARGETS: Final = "copied_targets"
    #: Targets where the base's tokenizer makes the same tokens of different options, as ``task/language=share`` of the
    #: questions in [0, 1], separated by spaces, the largest shares first; absent where there is none.
    INDISTINCT: Final = "indistinct_options"
    #: Run that trained the adapter, on an evaluation; run that scored the base, on an evaluation.
    FINETUNE_RUN: Final = "finetune_run"
    BASELINE_RUN: Final = "baseline_run"
    #: Registered model and version of the adapter, as ``name/version``.
    MODEL_VERSION: Final = "model_version"
    #: LoggedModel behind that version; MLflow's own field for it comes back empty from a SQLite store.
    MODEL_ID: Final = "model_id"
    #: Of a version: whether it was last evaluated in its base's chat template; it is served in the same way.
    CHAT_TEMPLATE: Final = "chat_template"
    #: Of a version beside it: what the chat template took for today, as ``YYYY-MM-DD``.
    CHAT_DATE: Final = "chat_template_date"
    #: Of a scoring: SHA-256 of a fixed question as the base's chat template puts it, or ``plain`` without one. Scores
    #: are compared only where it is the same.
    CHAT_HEADER: Final = "chat_header"
    #: Of a version whose base is a folder: where that was when the adapter was trained. A hint, checked before use.
    BASE_PATH: Final = "base_path"
    #: SHA-256 of the adapter's weights file, and over all files of its folder; of the training run and of the version.
    DIGEST: Final = "adapter_sha256"
    FILES_DIGEST: Final = "adapter_files_sha256"
    #: SHA-256 of a scoring's file of outcomes.
    OUTCOMES_DIGEST: Final = "outcomes_sha256"
    #: Seconds since the epoch at which the process doing the run was last alive, and that process, see `liveness.py`.
    HEARTBEAT: Final = "heartbeat"
    WORKER: Final = "worker"
    #: Of a claim: which of a process's sets of claims it belongs to.
    CLAIMANT: Final = "claimant"
    #: Of a search for a recipe: its name in Optuna's storage, what it looks for, and how a trial ended.
    TUNING: Final = "tuning"
    OBJECTIVE: Final = "objective"
    TRIAL_STATE: Final = "trial_state"
    PRUNED_BECAUSE: Final = "pruned_because"
    BEST_TRIAL: Final = "best_trial"
    BEST_RUN: Final = "best_run"
    #: Of an import: format, name of the file it was made from, and the SHA-256 of what was read.
    IMPORT_FORMAT: Final = "import_format"
    IMPORT_SOURCE: Final = "import_source"
    IMPORT_DIGEST: Final = "import_sha256"
    #: Of a promotion: the alias, what was decided, and the version that carried the alias before (empty for none).
    ALIAS: Final = "alias"
    VERDICT: Final = "verdict"
    ALIAS_BEFORE: Final = "alias_before"
    #: Of an analysis: how its sampling noise is known.
    NOISE: Final = "noise"
    #: Of an analysis: which runs of the study do not count, and why; absent where all do.
    RUNS_LEFT_OUT: Final = "runs_left_out"
    #: Of a set of items that a run read: the regime, or "baseline" or "training".
    REGIME: Final = "regime"


class Artifact:
    """Files of runs that are read back."""

    #: Of a scoring: how every option of every question did.
    SCORING: Final = "outcomes.parquet"
    #: Of an import: its frame, the scores of the bases, and what a reader must know about both.
    OBSERVATIONS: Final = "observations.parquet"
    BASELINES: Final = "baselines.parquet"
    ABOUT: Final = "import.json"
    #: Of an import: folder of the questions' outcomes, see :func:`outcomes_file`.
    OUTCOMES: Final = "outcomes"


def headlines_tag(headlines: Mapping[str, str]) -> str:
    """Value of the tag `Tag.HEADLINES`, from task → ``acc`` or ``acc_norm``."""
    return " ".join(f"{task}={name}" for task, name in headlines.items())


def headlines_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Read the headline accuracy of each task back from a run's or a version's tags; empty where they say none."""
    return dict(pair.split("=", 1) for pair in tags.get(Tag.HEADLINES, "").split() if "=" in pair)


def promotion(alias: str) -> str:
    """Tag of a version that says what was last decided of an alias."""
    return f"promotion/{alias}"


def run_name(kind: Kind, model: str, source: Source | Cell | None = None, seed: int | None = None) -> str:
    """Readable name of a run, such as ``finetune qwen2.5-0.5b arc_challenge/de seed 17``."""
    parts = [kind, model, source, None if seed is None else f"seed {seed}"]
    return " ".join(str(part) for part in parts if part is not None)


def outcomes_file(model: str, source: Cell | None, seed: int | None) -> str:
    """Artifact of an import that holds the outcomes of a base (no source), or of an adapter, as Parquet.

    A digest distinguishes names that hold the separator ``--`` themselves.
    """
    cell = () if source is None else (source.task, source.language)
    name = "baseline" if source is None else f"{source.task}--{source.language}--seed-{seed}"
    return f"{Artifact.OUTCOMES}/{model.replace('/', '--')}{_digest_of(model)}/{name}{_digest_of(*cell)}.parquet"


def _digest_of(*names: str) -> str:
    """Return a suffix for names that could be mistaken once they are joined; empty for the usual ones."""
    if not any("--" in name for name in names):
        return ""
    return "-" + hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]


def registered_model(model: str, source: Source | Cell) -> str:
    """Name of the registered model that holds every version of a base model and source."""
    # MLflow refuses "/" and ":" in registered names; hub ids carry a slash between owner and name.
    return f"{model.replace('/', '-').replace(':', '-')}--{str(source).replace('/', '--')}"
