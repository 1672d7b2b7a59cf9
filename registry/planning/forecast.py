"""What a study will take while its base models and items are not here yet: from the catalogue and assumed figures.

Assumed are numbers of tokens, a GPU where there is none, and the share of its rate that is reached. All are said with
the estimate. Where base models and items are on this machine, ``estimate.py`` counts and measures instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.config.study import BaseSpec, Study
from registry.models.base import base_folder, skeleton_of
from registry.models.catalogue import PAPER
from registry.models.hub import HubUnavailable, cached_weights
from registry.paths import resolved_path
from registry.planning.estimate import OUTCOME_BYTES, RECORDING_SECONDS, SHARE_OF_GEMM, Estimate, gemm_rate
from registry.planning.outline import NOTHING, Outline
from registry.recipes.maker import maker_of

__all__ = ["GPU", "GPU_RATE", "UTILISATION", "Sizes", "flop_of", "forecast", "sizes_of", "store_bytes"]

#: Tokens of a training text, and of a question with its options where shared beginnings are computed once. Assumed for
#: the paper's four tasks over its tokenizers and languages: 0.07 M tokens in a training, 1.9 M in a scoring.
TOKENS_PER_TEXT = 93
TOKENS_PER_QUESTION = 108

#: ARC has up to five options, TruthfulQA about five, the others four.
OPTIONS = 5

#: Items per cell where neither the study nor its manifest says how many; those of the paper.
ITEMS = {"train": 300, "test": 400}

#: The GPU assumed where there is none, and its dense matrix products in FLOP/s, from NVIDIA's data sheet.
GPU = "NVIDIA A100 80GB"
GPU_RATE = {"bf16": 312e12, "fp16": 312e12, "fp32": 19.5e12}
UTILISATION = 0.4  # a usual share for dense models of this size; not measured here


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a base and what is trained on it, in numbers.

    Attributes
    ----------
    weights : int
        Weights that every token passes, LM head included.
    trained : int
        Parameters of an adapter, or of the base where all of it is trained.
    checkpoint : int
        Parameters of the checkpoint.
    """

    weights: int
    trained: int
    checkpoint: int


def sizes_of(spec: BaseSpec, study: Study) -> Sizes | None:
    """Return a base's sizes from the catalogue, else from its configuration; None if neither is at hand."""
    from registry.lora.cost import Size

    try:
        model = skeleton_of(spec, trust_remote_code=study.trust_remote_code)
    except HubUnavailable:
        return None
    size, known = Size.of(model), PAPER.get(spec.name) if base_folder(spec) is None else None
    parameters = known.parameters if known else sum(weight.numel() for weight in model.parameters())
    return Sizes(size.body + size.head, maker_of(study).trained(model), parameters)


def forecast(outline: Outline) -> Estimate:
    """Expect the cost of what an outline has left, on one GPU: the one that is here, else the one assumed."""
    study = outline.study
    sizes = {spec.name: sizes_of(spec, study) for spec in study.models}
    rate, basis = _rate(study.recipe.precision)
    seconds = 0.0
    for name, size in sizes.items():
        left = outline.left(name)
        seconds += RECORDING_SECONDS * (left.fine_tunes + left.evaluations)
        if size is not None:
            training, scoring = flop_of(outline, size)
            seconds += (left.fine_tunes * training + left.evaluations * scoring) / rate
    unknown = [name for name, size in sizes.items() if size is None]
    basis += f"; {TOKENS_PER_TEXT} tokens a training text and {TOKENS_PER_QUESTION} a question, assumed"
    if unknown:
        basis += f"; without {', '.join(unknown)}, whose configuration is not at hand"
    adapters, outcomes = store_bytes(outline, sizes)
    return Estimate(seconds, adapters, outcomes, _downloads(outline, sizes), basis, gpus=1)


def flop_of(outline: Outline, size: Sizes) -> tuple[float, float]:
    """Return the floating-point operations of one training, the mean over source cells, and of one scoring."""
    return _training_flop(outline, size), 2 * size.weights * TOKENS_PER_QUESTION * _questions(outline)


def store_bytes(outline: Outline, sizes: dict[str, Sizes | None]) -> tuple[int, int]:
    """Return the bytes that adapters and outcomes of what is left will take in the store."""
    adapters, per_weight = 0, maker_of(outline.study).bytes_per_parameter()
    for name, size in sizes.items():
        if size is not None:
            adapters += outline.left(name).fine_tunes * size.trained * per_weight
    return adapters, outline.left_in_all.evaluations * _questions(outline) * OPTIONS * OUTCOME_BYTES


def _rate(precision: str) -> tuple[float, str]:
    """FLOP/s reached, and in words where it is from."""
    import torch

    if torch.cuda.is_available():
        share = f"{SHARE_OF_GEMM:.0%} of its measured matrix-product rate"
        return gemm_rate(precision) * SHARE_OF_GEMM, f"{torch.cuda.get_device_name()} at {share}"
    peak = GPU_RATE[precision]
    basis = f"one {GPU}, assumed: {UTILISATION:.0%} of the {peak / 1e12:g} TFLOP/s of its data sheet in {precision}"
    return peak * UTILISATION, basis


def _training_flop(outline: Outline, size: Sizes) -> float:
    """Floating-point operations of one training, the mean over source cells; held-out texts pass forward only.

    As if every token were predicted, which is too much by the LM head where only the answer's letter is.
    """
    from registry.lora.cost import Size

    recipe, maker, whole = outline.study.recipe, maker_of(outline.study), Size(size.weights, 0)
    texts = sum(_items(outline, "train", cell.task) for cell in outline.sources) / len(outline.sources)
    trained = (1 - recipe.validation) * maker.training_flop(whole, size.trained, tokens=1, predictions=0)
    validated = recipe.validation * maker.forward_flop(whole, size.trained, tokens=1, predictions=0)
    return TOKENS_PER_TEXT * texts * recipe.epochs * (trained + validated)


def _questions(outline: Outline) -> int:
    return sum(_items(outline, "test", cell.task) for cell in outline.grid)


def _items(outline: Outline, split: str, task: str) -> int:
    """Items of a cell: as the study says, else as its manifest has, else as many as the paper's."""
    spec = outline.study.split
    if spec.manifest:
        path = resolved_path(spec.manifest) / f"{task}.csv"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return sum(line.startswith(f"{split},") for line in lines) or ITEMS[split]
    return spec.count("train" if split == "train" else "test", task) or ITEMS[split]


def _downloads(outline: Outline, sizes: dict[str, Sizes | None]) -> int:
    """Bytes of weights, published in bfloat16, that are wanted and that the hub's cache does not hold whole."""
    wanted = [spec for spec in outline.study.models if outline.left(spec.name) != NOTHING]
    lacking = [spec for spec in wanted if base_folder(spec) is None and not cached_weights(spec.name, spec.revision)]
    return sum(2 * size.checkpoint for spec in lacking if (size := sizes[spec.name]) is not None)
