"""Whether a base's weights, and what training all of them takes, fit into memory, known before anything is loaded.

1 GB is 10⁹ bytes. ``tests/models/needed_memory.py`` computes what adapters, activations and logits take besides, for
the table in docs/performance.md.

Full fine-tuning of n weights of d bytes takes 12 n bytes more on the device (gradients and AdamW's two moments in
float32), 4 n more again where d is not 4 (the float32 weights that are moved), and 2 d n in the machine's memory (the
base's own weights and the best epoch's): for 8 billion in bf16 16 + 128 GB and 32 GB, in fp32 32 + 96 GB and 64 GB.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

from registry.config.types import Placement, Quantization
from registry.errors import Refused
from registry.models.projections import body_weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = [
    "HEADROOM",
    "full_bytes",
    "is_out_of_memory",
    "release_freed",
    "require_full_memory",
    "require_memory",
    "weight_bytes",
]

#: Free memory that loading asks for, in multiples of the weights: buffers, the allocator's rounding, a first batch.
HEADROOM = 1.1

#: Bytes per quantised weight. 4 bits: half a byte, an 8-bit scale per 64 weights, and a float32 one per 256 scales.
_QUANTISED: dict[Quantization, float] = {"8bit": 1.0, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}

# glibc's own, absent from musl, macOS and Windows.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def release_freed() -> None:
    """Give memory that was freed back to the system, where the C library keeps it.

    glibc keeps blocks of up to 32 MB for later use: the copies, activations and logits of one job after another would
    stay with the process beside the weights. Elsewhere nothing is done.
    """
    if _trim is not None:
        _trim(0)


def weight_bytes(base: PreTrainedModel, dtype: torch.dtype, quantization: Quantization | None = None) -> int:
    """Return the bytes of a base's weights; quantised are those of its projections, not embeddings and LM head."""
    total = sum(weight.numel() for weight in base.parameters())  # tied weights once
    quantised = 0 if quantization is None else body_weights(base)
    return round((total - quantised) * dtype.itemsize + (quantised * _QUANTISED[quantization] if quantization else 0))


def full_bytes(width: int) -> int:
    """Return the bytes that full fine-tuning takes beside each weight of ``width`` bytes that the passes run on."""
    return 12 if width == 4 else 16


def require_memory(
    base: PreTrainedModel,
    name: str,
    *,
    dtype: torch.dtype,
    device: str,
    placement: Placement = "one",
    quantization: Quantization | None = None,
) -> None:
    """Refuse a base whose weights do not fit where they are to go.

    Parameters
    ----------
    base : PreTrainedModel
        On ``meta``: nothing is loaded yet.

    Raises
    ------
    Refused
        With the arithmetic and what can be done.
    """
    free, where = _free(device, placement, quantization)
    needed = weight_bytes(base, dtype, quantization)
    if free is None or HEADROOM * needed <= free:
        return
    parameters = sum(weight.numel() for weight in base.parameters())
    remedies = []
    if dtype.itemsize > 2:
        remedies.append("set recipe.precision to bf16")
    if quantization != "4bit":
        remedies.append("set quantization to 4bit" + (" or 8bit" if quantization is None else ""))
    if placement == "one":
        remedies.append("set placement to spread, which adds the machine's other devices")
    raise Refused(
        f"model {name!r} does not fit into {where}: {parameters / 1e9:.3g} B parameters × "
        f"{needed / parameters:.3g} bytes × {HEADROOM:g} headroom = {HEADROOM * needed / 1e9:.3g} GB, free are "
        f"{free / 1e9:.3g} GB; {', or '.join(remedies) or 'take a smaller model'}"
    )


def require_full_memory(base: PreTrainedModel, name: str, *, device: str, placement: Placement = "one") -> None:
    """Refuse to train every weight of a loaded base where what that takes besides its weights does not fit.

    Activations are not counted: batches are halved until they fit.

    Raises
    ------
    Refused
        With the arithmetic and what can be done.
    """
    import torch

    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()  # what a former training left is free
    count, width = sum(weight.numel() for weight in base.parameters()), base.dtype.itemsize
    trained, aside = full_bytes(width), 2 * width
    demands = [(trained, True), (aside, False)] if on_gpu else [(trained + aside, False)]
    for each, there in demands:
        # Like quantised weights, what an optimiser moves is never held in the machine's memory.
        free, where = _free(device if there else "cpu", placement if there else "one", "8bit" if there else None)
        if free is not None and HEADROOM * each * count > free:
            raise Refused(
                f"every weight of model {name!r} cannot be trained in {where}: {count / 1e9:.3g} B parameters × {each} "
                f"bytes × {HEADROOM:g} headroom = {HEADROOM * each * count / 1e9:.3g} GB beside the weights, free are "
                f"{free / 1e9:.3g} GB; set recipe.method to lora, or take a smaller model"
            )


def _free(device: str, placement: Placement, quantization: Quantization | None) -> tuple[int | None, str]:
    """Return the bytes free where weights are to go, None where nobody can tell, and the place in words."""
    import psutil
    import torch

    kind, main = torch.device(device).type, psutil.virtual_memory().available
    gpus = range(torch.cuda.device_count())
    if placement == "spread" and gpus:
        on_gpus = sum(torch.cuda.mem_get_info(number)[0] for number in gpus)
        if quantization is None:
            return on_gpus + main, f"the memory of {len(gpus)} GPUs and of the machine"
        return on_gpus, f"the memory of {len(gpus)} GPUs (such weights are never held in the machine's)"
    if kind == "cpu" or placement == "spread":
        return main, "the machine's memory"
    return (torch.cuda.mem_get_info(device)[0], f"the memory of {device}") if kind == "cuda" else (None, device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: torch has a class for that on GPUs alone."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
