"""Base models: name, family, size, revision, and how to load one.

A model's family and size are decided here and nowhere else: given in the study, else from the table below, else read
from the model's own configuration.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.memory import require_memory
from registry.refusal import Refused, unknown
from registry.study import BaseSpec, LoraSpec, Placement, Quantization

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "Base",
    "count_adapter_parameters",
    "known_models",
    "load_base",
    "load_tokenizer",
    "require_quantization",
    "resolve_base",
]

#: What quantised bases are loaded by; the extra ``quantized`` of pyproject.toml.
BITSANDBYTES = "bitsandbytes==0.50.2"

PROJECT = Path(__file__).resolve().parent.parent

#: The two bases of the built-in grid, by folder relative to the project's; see their model cards.
BUILT_IN = {name: f"registry/benchmarks/demo/bases/{name}" for name in ("demo-wide", "demo-deep")}

#: Hub models of "Donors and Recipients": family and size in billions of parameters as the paper groups them.
PAPER = {
    "meta-llama/Llama-3.2-1B-Instruct": ("Llama-3", 1.0),
    "meta-llama/Llama-3.2-3B-Instruct": ("Llama-3", 3.0),
    "meta-llama/Llama-3.1-8B-Instruct": ("Llama-3", 8.0),
    "Qwen/Qwen2.5-0.5B-Instruct": ("Qwen2.5", 0.5),
    "Qwen/Qwen2.5-1.5B-Instruct": ("Qwen2.5", 1.5),
    "Qwen/Qwen2.5-3B-Instruct": ("Qwen2.5", 3.0),
    "Qwen/Qwen2.5-7B-Instruct": ("Qwen2.5", 7.0),
    "google/gemma-3-1b-it": ("Gemma-3", 1.0),
    "google/gemma-3-4b-it": ("Gemma-3", 4.0),
}

#: Family and size of every model whose configuration is not asked for them.
KNOWN = PAPER | {"demo-wide": ("Demo-wide", 0.001096), "demo-deep": ("Demo-deep", 0.001107)}


@dataclass(frozen=True, slots=True)
class Base:
    """A base model that exists.

    Attributes
    ----------
    name : str
        As the study calls it; the tag ``base_model``.
    reference : str
        What an adapter's ``base_model_name_or_path`` says: the hub id, or for the built-in bases a path relative to
        the project's folder, so that no machine's path is frozen in.
    location : str
        What ``from_pretrained`` is given here: the hub id or the folder.
    revision : str
        Commit on the hub; for a folder ``sha256:`` and the digest of its configuration, tokenizer and weights.
    family : str
    size_b : float
        Billions of parameters.
    max_positions : int
        Longest input in tokens.
    """

    name: str
    reference: str
    location: str
    revision: str
    family: str
    size_b: float
    max_positions: int
    trust_remote_code: bool = False

    @property
    def hub_revision(self) -> str | None:
        """The revision to ask the hub for; None for a folder."""
        return None if self.revision.startswith("sha256:") else self.revision


def known_models() -> list[str]:
    """Names that need neither a path nor a hub owner."""
    return sorted(BUILT_IN)


def resolve_base(spec: BaseSpec, *, trust_remote_code: bool = False) -> Base:
    """Find a base model and read its revision, family and size, without loading its weights.

    Raises
    ------
    Refused
        If the name is neither built in, nor a hub id ``owner/name``, nor given with the ``path`` of a model's folder.
    """
    folder = _folder(spec)
    if folder is not None:
        location, revision = str(folder), _folder_digest(folder)
        reference = BUILT_IN[spec.name] if spec.path is None and spec.name in BUILT_IN else spec.name
    elif "/" in spec.name:
        location, reference = spec.name, spec.name
        revision = _hub_commit(spec.name, spec.revision)
    else:
        raise unknown("model", spec.name, KNOWN, where="models")
    family, size_b, positions = _describe(location, None if folder else revision, KNOWN.get(spec.name))
    return Base(
        name=spec.name,
        reference=reference,
        location=location,
        revision=revision,
        family=spec.family or family,
        size_b=spec.size_b or size_b,
        max_positions=positions,
        trust_remote_code=trust_remote_code,
    )


def load_tokenizer(base: Base) -> PreTrainedTokenizerBase:
    """Load a base's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        base.location, revision=base.hub_revision, trust_remote_code=base.trust_remote_code
    )
    return tokenizer


def load_base(
    base: Base,
    *,
    dtype: torch.dtype,
    device: str,
    placement: Placement = "one",
    quantization: Quantization | None = None,
) -> PreTrainedModel:
    """Load a base's weights, frozen and in evaluation mode; safetensors only, so that nothing is unpickled.

    Parameters
    ----------
    dtype
        Of the weights, or of those that are not quantised and of what is computed.
    device
        Where the whole base goes, with placement ``one``.
    placement, quantization
        See :class:`registry.study.Study`.

    Raises
    ------
    Refused
        Before anything is loaded, if the weights do not fit into free memory or bitsandbytes is wanting.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    require_quantization(quantization)
    require_memory(
        _skeleton(base.location, base.hub_revision, base.trust_remote_code),
        base.name,
        dtype=dtype,
        device=device,
        placement=placement,
        quantization=quantization,
    )
    logging.disable_progress_bar()  # it counts tensors, in no time; downloads have a bar of their own
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        base.location,
        revision=base.hub_revision,
        dtype=dtype,
        use_safetensors=True,
        attn_implementation="sdpa",
        trust_remote_code=base.trust_remote_code,
        device_map="auto" if placement == "spread" else {"": device},
        quantization_config=_quantization_config(quantization, dtype),
    )
    if "disk" in getattr(model, "hf_device_map", {}).values():
        raise Refused(f"model {base.name!r} does not fit into memory: layers would be read from disk at every pass")
    if quantization == "4bit":
        _keep_differentiable(model)
    model.eval().requires_grad_(False)
    return model


def require_quantization(quantization: Quantization | None) -> None:
    """Refuse a quantised base where the library that loads it is wanting.

    Raises
    ------
    Refused
        With the command that installs it.
    """
    if quantization is not None and find_spec("bitsandbytes") is None:
        raise Refused(
            f"quantization: {quantization} needs bitsandbytes, which is not installed; "
            f"run: python -m pip install {BITSANDBYTES}"
        )


def _quantization_config(quantization: Quantization | None, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if quantization is None:
        return None
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _keep_differentiable(model: PreTrainedModel) -> None:
    # On some CPUs the first pass without gradients repacks a 4-bit weight for a kernel that has no backward pass, and
    # from then on gradients end at it without a word.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  # typed, modules hold tensors only


def count_adapter_parameters(base: Base, spec: LoraSpec) -> int:
    """Parameters of a LoRA adapter on a base: rank x (inputs + outputs) of every projection it adapts."""
    import torch

    shapes = [
        (module.in_features, module.out_features)
        for name, module in _skeleton(base.location, base.hub_revision, base.trust_remote_code).named_modules()
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in spec.targets
    ]
    return spec.rank * sum(inputs + outputs for inputs, outputs in shapes)


def _folder(spec: BaseSpec) -> Path | None:
    if spec.path is not None:
        folder = Path(spec.path).expanduser()
    elif spec.name in BUILT_IN:
        folder = PROJECT / BUILT_IN[spec.name]
    else:
        return None
    if not (folder / "config.json").is_file():
        raise Refused(f"model {spec.name!r}: {folder} holds no config.json, so it is no model's folder")
    if not any(folder.glob("*.safetensors")):
        raise Refused(
            f"model {spec.name!r}: {folder} holds no *.safetensors; convert its weights with save_pretrained()"
        )
    return folder


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    kinds = ("*.json", "*.safetensors", "*.model", "*.txt")  # .model and .txt: tokenizers of the older kinds
    for path in sorted(path for kind in kinds for path in folder.glob(kind)):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"


def _hub_commit(name: str, revision: str | None) -> str:
    """Return the commit that a revision stands for, from the hub or from its cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["config.json"])).name
    except GatedRepoError:
        raise Refused(f"model {name!r} is gated: accept its licence on the hub, then set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise Refused(
            f"model {name!r} is not on the hub (or is private: set HF_TOKEN); built in: {', '.join(BUILT_IN)}"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise Refused(f"model {name!r}: the hub cannot be reached and its cache does not hold it ({error})") from None


def _describe(location: str, revision: str | None, known: tuple[str, float] | None) -> tuple[str, float, int]:
    """Return family, size in billions and longest input of a model, without loading its weights."""
    from transformers import PreTrainedConfig

    try:
        config, _ = PreTrainedConfig.get_config_dict(location, revision=revision)
    except OSError as error:
        raise Refused(f"the model at {location!r} cannot be read: {error}") from None
    architectures = config.get("architectures") or ["ForCausalLM"]
    if not any(name.endswith(("ForCausalLM", "ForConditionalGeneration")) for name in architectures):
        raise Refused(f"the model at {location!r} is a {architectures[0]}, not a causal language model")
    text = config.get("text_config", config)
    positions = int(text.get("max_position_embeddings", 2048))
    if known is not None:
        return (*known, positions)
    return str(config.get("model_type", "unknown")), _billions(location, revision), positions


def _billions(location: str, revision: str | None) -> float:
    """Count a model's parameters, in billions, without loading them."""
    from huggingface_hub import get_safetensors_metadata
    from safetensors import safe_open

    if revision is not None:
        return round(sum(get_safetensors_metadata(location, revision=revision).parameter_count.values()) / 1e9, 6)
    count = 0
    for file in Path(location).glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return round(count / 1e9, 6)


def _skeleton(location: str, revision: str | None, trust_remote_code: bool) -> PreTrainedModel:
    """Build a model's modules without memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return model
