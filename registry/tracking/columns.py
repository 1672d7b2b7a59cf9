"""Columns of the tables that a study's results are read into, whether measured here or imported."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ADAPTER",
    "ANSWER_COLUMNS",
    "AVERAGED",
    "AVERAGED_COLUMNS",
    "BASELINE_COLUMNS",
    "BLOCK",
    "CELL_KEY",
    "CHECKED",
    "INDISTINCT",
    "OBSERVATION_COLUMNS",
    "OUTCOME_COLUMNS",
    "RUN_COLUMNS",
    "SOURCE",
    "STORED_COLUMNS",
    "TARGET",
    "TEST_COLUMNS",
    "WITH_CHECKSUMS",
]

SOURCE = ["source_task", "source_language"]
TARGET = ["target_task", "target_language"]

#: An adapter with its seeds averaged, and what shares its sampling noise: all adapters of a model on one target.
ADAPTER = ["model", *SOURCE]
BLOCK = ["model", *TARGET]

#: What identifies a cell of the frame.
CELL_KEY = ["model", *SOURCE, *TARGET]

#: What the run that holds an observation says of it.
RUN_COLUMNS = ["run_id", "model_version"]

#: Columns of the observations: scores and baseline are proportions in [0, 1], delta is in percentage points.
OBSERVATION_COLUMNS = [
    "model",
    "model_family",
    "model_size_b",
    *SOURCE,
    *TARGET,
    "regime",
    "seed",
    "score",
    "acc",
    "acc_norm",
    "baseline",
    "delta",
    *RUN_COLUMNS,
    "protocol",
]

#: What an import stores of them: the run that holds it says the others.
STORED_COLUMNS = [column for column in OBSERVATION_COLUMNS if column not in RUN_COLUMNS]

#: Columns besides, of an import whose rows are means over seeds: standard deviation of delta over seeds in pp, and how
#: many seeds there were. ``seed`` is then `AVERAGED` throughout, and says nothing.
AVERAGED_COLUMNS = ["delta_sd", "n_seeds"]

#: In the place of a seed where a row is a mean over seeds. A number, because rows without one drop out of groups.
AVERAGED = -1

#: Of baselines that were measured here besides: share of questions with options that are the same tokens.
INDISTINCT = "indistinct"

BASELINE_COLUMNS = ["model", "task", "language", "score", "chance", "below_chance"]

#: Columns besides, where baselines were tested against chance: the exact one-sided p-value, and adjusted over all.
TEST_COLUMNS = ["chance_p", "chance_q"]


#: Columns of ``outcomes.parquet``, one row per question and option, and those of them that say what was answered right.
OUTCOME_COLUMNS = (
    "task", "language", "question", "option", "loglikelihood", "length", "right", "chosen", "chosen_norm",
)  # fmt: skip
ANSWER_COLUMNS = ("task", "language", "question", "right", "chosen", "chosen_norm")


# --- how Parquet files are written and read: with a checksum of every page, so that a flipped bit gives no other number


#: For whatever writes through `pyarrow.parquet.write_table`, pandas too.
WITH_CHECKSUMS: Final = {"write_page_checksum": True}

#: For whatever reads through `pyarrow.parquet.read_table`; a page that does not fit its checksum raises OSError.
CHECKED: Final = {"page_checksum_verification": True}
