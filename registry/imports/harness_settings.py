"""Under which settings lm-evaluation-harness measured, and whether two measurements may be subtracted.

Everything a file of results says is compared, unless it is known not to change a score: a new setting of the harness is
compared from its first day on. What differs without harm is named in the import's notes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from registry.imports.harness_files import Results

__all__ = ["Difference", "EvaluationSettings", "differences", "settings_of"]

#: What messages call a setting that has a word of its own.
_WORDS = {
    "n-samples": "number of questions",
    "n-shot": "number of examples in the prompt",
    "versions": "version of the task",
    "chat_template_sha": "chat template",
    "system_instruction": "system instruction",
    "task_hashes": "set of questions and prompts",
    "prompts": "text of questions, options and targets, as logged with the samples,",
    "config.model_dtype": "data type of the weights",
    "config.model_sha": "revision of the base model",
}


def _places(top: str = "", config: str = "", task: str = "", model_args: str = "") -> frozenset[str]:
    """Name settings at a file's top, in its ``config``, in a task's ``configs`` and among the model's arguments."""
    parts = (("", top), ("config.", config), ("configs.", task), ("args.", model_args))
    return frozenset(f"{prefix}{name}" for prefix, names in parts for name in names.split())


#: What says who was measured, when and with which outcome, and what is read in another way below.
_NO_SETTINGS = _places(
    top="results groups group_subtasks configs config versions n-shot n-samples task_hashes higher_is_better samples "
    "date git_hash upper_git_hash pretty_env_info start_time end_time total_evaluation_time_seconds model_name "
    "model_name_sanitized system_instruction_sha chat_template",
    config="model_args model_num_parameters peft_revision peft_sha delta_sha",
    task="task task_alias tag group metadata num_fewshot",
    model_args="pretrained peft delta subfolder model path engine model_name base_url lora_local_path lora_path "
    "lora_modules",
)

#: What decides how fast and where a model runs, not what it answers beyond rounding; and the programs' versions.
_HARMLESS = _places(
    top="tokenizer_pad_token lm_eval_version transformers_version",
    config="batch_size batch_sizes device bootstrap_iters gen_kwargs use_cache",
    task="unsafe_code generation_kwargs",
    model_args="batch_size max_batch_size device device_map parallelize max_memory_per_gpu max_cpu_memory "
    "offload_folder tp_plan logits_cache low_cpu_mem_usage cache_dir token tokenizer trust_remote_code enable_lora "
    "max_lora_rank max_loras swap_space tensor_parallel_size data_parallel_size gpu_memory_utilization num_concurrent "
    "max_retries timeout",
)

#: What decides which questions are put how: without effect where the logged prompts are the same.
_PROMPTS = _places(
    config="random_seed numpy_seed torch_seed",
    task="custom_dataset dataset_path dataset_name dataset_kwargs training_split validation_split test_split "
    "process_docs doc_to_text doc_to_target doc_to_choice doc_to_image doc_to_audio use_prompt description "
    "target_delimiter gen_prefix",
)

#: What is without effect where the prompt holds no examples.
_EXAMPLES = _places(
    top="fewshot_as_multiturn", config="fewshot_seed", task="fewshot_split fewshot_delimiter fewshot_config"
)

#: What a base's files say where the adapter is loaded beside it; of a merged model they say something else.
_OF_THE_BASE = frozenset({"config.model_sha", "config.model_revision", "args.revision"})

#: What only files with samples hold.
_FROM_SAMPLES = frozenset({"prompts", "task_hashes"})

#: Arguments that load an adapter beside the base that ``pretrained`` names.
_ADAPTERS = ("peft", "delta", "lora_local_path", "lora_path", "lora_modules")

#: What the harness means where a file does not say; None for all else.
_DEFAULTS: dict[str, Any] = {
    "configs.repeats": 1,
    "configs.description": "",
    "configs.target_delimiter": " ",
    "configs.fewshot_delimiter": "\n\n",
    "configs.should_decontaminate": False,
}

Effect = Literal["deciding", "harmless", "unknown"]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SHOWN = 40  # characters of a value that a message repeats


@dataclass(frozen=True)
class EvaluationSettings:
    """What a file says of a task's evaluation, by place, and whether an adapter was loaded beside its base."""

    values: Mapping[str, Any]
    adapter_beside: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that differs; ``effect`` says whether it forbids a delta, is harmless or known of one side alone."""

    place: str
    ours: Any
    theirs: Any
    effect: Effect

    @property
    def what(self) -> str:
        """What a message calls it."""
        return _WORDS.get(self.place, f"setting {self.name}")

    @property
    def name(self) -> str:
        """Where it stands in a file of results."""
        return re.sub("^args", "config.model_args", self.place)

    @property
    def shown(self) -> str:
        """Both values, where they are short."""
        values = [repr(value) for value in (self.ours, self.theirs)]
        return f" ({' and '.join(values)})" if max(map(len, values)) <= _SHOWN else ""


def settings_of(results: Results, task: str, prompts: str | None) -> EvaluationSettings:
    """Return a task's settings.

    Parameters
    ----------
    prompts
        SHA-256 over the logged contexts, continuations and targets; None without samples.
    """
    content = results.content
    config = content.get("config", {})
    arguments = _arguments(config.get("model_args"))
    found: dict[str, Any] = {
        **content,
        **{f"config.{key}": value for key, value in config.items()},
        **{f"configs.{key}": value for key, value in content["configs"][task].items()},
        **{f"args.{key}": value for key, value in arguments.items()},
    }
    values = {key: _plain(value) for key, value in found.items() if key not in _NO_SETTINGS}
    if content.get("model_source"):
        values.pop("config.model", None)  # the same, or a path where Python called the harness
    if config.get("model_dtype"):
        values.pop("args.dtype", None)  # what came of it
    values |= {
        "filter": results.filter(task),
        "chat_template_sha": content.get("chat_template_sha") or content.get("chat_template") or None,
        "system_instruction": content.get("system_instruction") or content.get("system_instruction_sha") or None,
        "fewshot_as_multiturn": bool(content.get("fewshot_as_multiturn")),
        **_of_task(content, task),
    }
    if prompts is not None:
        values["prompts"] = prompts
    return EvaluationSettings(values, any(arguments.get(key) for key in _ADAPTERS))


def _of_task(content: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return what a file says of its tasks one by one."""
    tables = {key: content.get(key) for key in ("versions", "n-shot", "n-samples", "task_hashes")}
    found = {key: table[task] for key, table in tables.items() if isinstance(table, Mapping) and task in table}
    if isinstance(found.get("n-samples"), Mapping):
        found["n-samples"] = found["n-samples"].get("effective")
    found.setdefault("n-shot", content["configs"][task].get("num_fewshot"))
    return {key: value for key, value in found.items() if value is not None}


def differences(ours: EvaluationSettings, theirs: EvaluationSettings) -> Iterator[Difference]:
    """Yield every setting in which an adapter's evaluation differs from that of its baseline."""
    for place in sorted(ours.values.keys() | theirs.values.keys()):
        one, other = (settings.values.get(place, _DEFAULTS.get(place)) for settings in (ours, theirs))
        if one != other and _compared(place, ours, theirs):
            yield Difference(place, one, other, _effect(place, ours.values, theirs.values))


def _compared(place: str, ours: EvaluationSettings, theirs: EvaluationSettings) -> bool:
    if place in _OF_THE_BASE:
        return ours.adapter_beside
    if place in _FROM_SAMPLES:
        return place in ours.values and place in theirs.values
    return place not in _EXAMPLES or any(settings.values.get("n-shot") != 0 for settings in (ours, theirs))


def _effect(place: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Effect:
    same_prompts = "prompts" in ours and ours["prompts"] == theirs.get("prompts")
    if place in _HARMLESS or (place in _PROMPTS | _EXAMPLES and same_prompts):
        return "harmless"
    if place == "config.limit":
        return "harmless" if "n-samples" in ours and "n-samples" in theirs else "deciding"
    same_program = ours.get("lm_eval_version") == theirs.get("lm_eval_version")
    return "deciding" if same_program or (place in ours and place in theirs) else "unknown"


def _arguments(given: Any) -> dict[str, Any]:
    """Read model arguments, logged as a mapping or as ``key=value,…``, numbers as text."""
    if isinstance(given, Mapping):
        return {key: str(value) if isinstance(value, int | float) else value for key, value in given.items()}
    pairs = (pair.partition("=") for pair in str(given or "").split(","))
    return {key.strip(): value.strip() for key, _, value in pairs if key.strip()}


def _plain(value: Any) -> Any:
    """Return a value without what differs from process to process, or between two ways of writing the same."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and math.isnan(value):
        return None  # equal to nothing, itself included
    text = _ADDRESS.sub("", value).removeprefix("torch.") if isinstance(value, str) else value
    return None if text == "None" else text
