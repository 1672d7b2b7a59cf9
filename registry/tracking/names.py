"""Names of tags, kinds of runs and metrics: the contract between running a study and analysing it.

Every such name that MLflow stores is spelled here and nowhere else. MLflow's UI groups charts by everything before the
last slash of a metric's name, hence the order ``quantity/regime/task/language``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from registry.cells import Cell, Regime
from registry.sources import SOURCE, SOURCE_LANGUAGE, SOURCE_TASK, Source

__all__ = [
    "BEST_VALUE",
    "FINAL_LOSS",
    "JOBS_FAILED",
    "JOBS_PLANNED",
    "KEPT_EPOCH",
    "LEARNING_RATE",
    "SKIPPED_STEPS",
    "TRAIN_LOSS",
    "TRIAL_OBJECTIVE",
    "TRIAL_VALUE",
    "VALIDATION_LOSS",
    "Artifact",
    "Kind",
    "Tag",
    "acc",
    "acc_norm",
    "analyzed",
    "chance",
    "chance_p",
    "count",
    "delta",
    "delta_mean",
    "harm_rate",
    "headlines_of",
    "headlines_tag",
    "importance",
    "indistinct",
    "is_of",
    "of_search",
    "on_target",
    "outcomes_file",
    "parse_cell",
    "parse_delta",
    "positive_rate",
    "promoting",
    "promotion",
    "registered_model",
    "run_name",
    "score",
    "seconds_of",
    "tokens_of",
    "trials_in_state",
    "tuned",
    "usage_metrics",
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
    #: Seconds since the epoch at which the process doing the run was last alive, and that process, see `processes.py`.
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


def on_target(quantity: str, cell: Cell) -> str:
    """Metric of a quantity on a target, as :func:`parse_cell` reads it."""
    return f"{quantity}/{cell}"


def score(cell: Cell) -> str:
    """Metric of the headline score on a target, a proportion in [0, 1]."""
    return on_target("score", cell)


def acc(cell: Cell) -> str:
    """Metric of plain accuracy on a target."""
    return on_target("acc", cell)


def acc_norm(cell: Cell) -> str:
    """Metric of length-normalised accuracy on a target."""
    return on_target("acc_norm", cell)


def chance(cell: Cell) -> str:
    """Metric of the expected score of guessing, the mean of 1 / number of options over the target's items."""
    return on_target("chance", cell)


def chance_p(cell: Cell) -> str:
    """Metric of a baseline: the exact one-sided p-value of a score so low, or lower, by guessing."""
    return on_target("chance_p", cell)


def cut_questions(cell: Cell) -> str:
    """Metric of how many of a target's questions lost their left side to fit the base's longest input."""
    return on_target("cut_questions", cell)


def indistinct(cell: Cell) -> str:
    """Metric of the share of a target's questions, in [0, 1], with options that no model can tell apart."""
    return on_target("indistinct", cell)


def delta(regime: Regime, cell: Cell) -> str:
    """Metric of score minus baseline on a target, in percentage points."""
    return f"delta/{regime}/{cell}"


def delta_mean(regime: Regime) -> str:
    """Metric of the mean delta over a regime's targets, in percentage points."""
    return f"delta_mean/{regime}"


def positive_rate(regime: Regime) -> str:
    """Metric of the share of a regime's targets with delta > 0, in percent."""
    return f"positive_rate/{regime}"


def harm_rate(regime: Regime) -> str:
    """Metric of the share of a regime's targets with delta <= -1 pp, in percent."""
    return f"harm_rate/{regime}"


#: Metrics of a fine-tune: curves of the loss, the learning rate and the loss on held-out items, the last loss, the
#: epoch whose weights were kept, how many texts lost their left side and, in fp16, how many steps changed nothing.
TRAIN_LOSS: Final = "train/loss"
LEARNING_RATE: Final = "train/learning_rate"
VALIDATION_LOSS: Final = "validation/loss"
FINAL_LOSS: Final = "train/final_loss"
KEPT_EPOCH: Final = "train/kept_epoch"
CUT_TEXTS: Final = "train/cut_texts"
SKIPPED_STEPS: Final = "train/skipped_steps"

#: Metrics of a study's run: how many jobs it had to do, and how many of them failed.
JOBS_PLANNED: Final = "jobs/planned"
JOBS_FAILED: Final = "jobs/failed"

#: Metrics of a trial, the objective as it stood at each step and its value; and of a search, the best value.
TRIAL_OBJECTIVE: Final = "tune/objective"
TRIAL_VALUE: Final = "tune/value"
BEST_VALUE: Final = "tune/best_value"


def importance(name: str) -> str:
    """Metric of the share of the objective's variation that a name of the recipe explains."""
    return f"tune/importance/{name}"


def trials_in_state(state: str) -> str:
    """Metric of how many trials of a search ended in a state."""
    return f"tune/trials/{state}"


def of_search(metric: str) -> bool:
    """Whether a metric is one of a search or of its trials."""
    return is_of(metric, "tune")


def count(what: str) -> str:
    """Metric of how much an import holds: ``observations``, ``models``, ``baselines``, …."""
    return f"count/{what}"


def analyzed(quantity: str, regime: str) -> str:
    """Metric of an analysis: a column of its regime table, in the row of a regime or of several together."""
    return f"{quantity}/{regime}"


def promotion(alias: str) -> str:
    """Tag of a version that says what was last decided of an alias."""
    return f"promotion/{alias}"


def promoting(quantity: str, target: Cell) -> str:
    """Metric of a promotion on one target: ``delta`` or ``shrunken`` in points, ``p``, ``q``, ``baseline``, …."""
    return f"promote/{quantity}/{target}"


def tuned(quantity: str, source: Cell) -> str:
    """Metric of a trial on one source: ``validation_loss`` in nats per token, ``gain`` or ``harm`` in points."""
    return f"tune/{quantity}/{source}"


def usage_metrics(phase: str, *, seconds: float, tokens: int, flop: float, peak_memory_gb: float) -> dict[str, float]:
    """Metrics of what a phase took: ``train``, ``validation`` or ``score``.

    Parameters
    ----------
    seconds : float
        In which its tokens went through the model, and so what tokens and operations are divided by. A run's own
        duration, which MLflow has, also holds loading, recording and waiting.
    """
    took = {
        f"seconds/{phase}": seconds,
        f"tokens/{phase}": tokens,
        f"tflop/{phase}": flop / 1e12,
        f"peak_memory_gb/{phase}": peak_memory_gb,
    }
    if seconds > 0:
        took |= {f"tokens_per_second/{phase}": tokens / seconds, f"tflop_per_second/{phase}": flop / 1e12 / seconds}
    return took


def tokens_of(phase: str) -> str:
    """Metric of how many tokens went through the model in a phase."""
    return f"tokens/{phase}"


def seconds_of(phase: str) -> str:
    """Metric of the seconds in which they did."""
    return f"seconds/{phase}"


def is_of(metric: str, quantity: str) -> bool:
    """Whether a metric is of a quantity, such as ``score`` or ``delta``."""
    return metric.startswith(f"{quantity}/")


def parse_cell(metric: str, quantity: str) -> Cell | None:
    """Return the target of a metric ``quantity/task/language``, or None if the metric is of another quantity."""
    head, _, rest = metric.partition("/")
    return _target(rest) if head == quantity else None


def parse_delta(metric: str) -> tuple[Regime, Cell] | None:
    """Return regime and target of a metric ``delta/regime/task/language``, or None if it is another metric."""
    head, _, rest = metric.partition("/")
    if head != "delta":
        return None
    regime, _, cell = rest.partition("/")
    target = _target(cell)
    return None if target is None or regime not in set(Regime) else (Regime(regime), target)


def _target(text: str) -> Cell | None:
    """Read a target; None for what is none, such as the end of another tool's metric ``score/mean``."""
    try:
        return Cell.parse(text)
    except ValueError:
        return None


def run_name(kind: Kind, model: str, source: Source | Cell | None = None, seed: int | None = None) -> str:
    """Readable name of a run, such as ``finetune qwen2.5-0.5b arc_challenge/de seed 17``."""
    parts = [kind, model, source, None if seed is None else f"seed {seed}"]
    return " ".join(str(part) for part in parts if part is not None)


def outcomes_file(model: str, source: Cell | None, seed: int | None) -> str:
    """Artifact of an import that holds the outcomes of a base (no source), or of an adapter, as Parquet.

    Names that hold the separator ``--`` themselves are told apart by a digest.
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
