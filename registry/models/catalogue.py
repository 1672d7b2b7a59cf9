"""Models that are known without the hub: the nine of "Donors and Recipients" (arXiv 2511.13368).

Their sizes are published facts, taken from each checkpoint's ``config.json`` and its number of parameters; a test holds
them against the classes of transformers. Family and size in billions are as the paper groups the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.config.study import ALL_LINEAR, LoraSpec

if TYPE_CHECKING:  # it is slow to import, and arithmetic has no need of it
    from transformers import PreTrainedConfig

__all__ = ["PAPER", "KnownModel"]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A decoder with grouped-query attention and a gated MLP, by its numbers.

    Attributes
    ----------
    family, size_b
        As the paper groups it; ``size_b`` in billions.
    model_type
        Of the language model, in transformers.
    parameters
        Of the whole checkpoint: norms, biases, and what the language model does not use (a vision tower).
    layers, width, intermediate, heads, kv_heads, head_width, vocabulary
        Of the language model.
    tied
        Whether the LM head is the embeddings once more.
    gated
        Whether the hub asks for a licence to be accepted first.
    """

    family: str
    size_b: float
    model_type: str
    parameters: int
    layers: int
    width: int
    intermediate: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tied: bool
    gated: bool

    @property
    def projections(self) -> Mapping[str, tuple[int, int]]:
        """Inputs and outputs of each projection of one layer."""
        query, key = self.heads * self.head_width, self.kv_heads * self.head_width
        return {
            "q_proj": (self.width, query),
            "k_proj": (self.width, key),
            "v_proj": (self.width, key),
            "o_proj": (query, self.width),
            "gate_proj": (self.width, self.intermediate),
            "up_proj": (self.width, self.intermediate),
            "down_proj": (self.intermediate, self.width),
        }

    @property
    def body(self) -> int:
        """Weights of the projections, which every token passes."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.projections.values())

    @property
    def head(self) -> int:
        """Weights of the LM head."""
        return self.width * self.vocabulary

    @property
    def download_bytes(self) -> int:
        """Bytes of the checkpoint's weights, which are published in bfloat16."""
        return 2 * self.parameters

    def adapter_parameters(self, spec: LoraSpec) -> int:
        """Parameters of a LoRA adapter: rank x (inputs + outputs) of every projection it adapts, in every layer."""
        every = spec.targets == ALL_LINEAR
        shapes = [shape for name, shape in self.projections.items() if every or name in spec.targets]
        return self.layers * spec.rank * sum(inputs + outputs for inputs, outputs in shapes)

    def config(self) -> PreTrainedConfig:
        """Return the language model's configuration, as far as sizes go."""
        from transformers import AutoConfig

        sizes: dict[str, Any] = {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_width,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
        }
        config: PreTrainedConfig = AutoConfig.for_model(self.model_type, **sizes)
        return config


# fmt: off
_LLAMA, _QWEN, _GEMMA = ("Llama-3", "llama"), ("Qwen2.5", "qwen2"), ("Gemma-3", "gemma3_text")
_TABLE: tuple[tuple[Any, ...], ...] = (
    # hub id, (family, type), size_b, parameters, layers, width, MLP, heads, kv heads, head, vocabulary, tied, gated
    ("meta-llama/Llama-3.2-1B-Instruct", _LLAMA, 1.0, 1_235_814_400, 16, 2048, 8192, 32, 8, 64, 128_256, True, True),
    ("meta-llama/Llama-3.2-3B-Instruct", _LLAMA, 3.0, 3_212_749_824, 28, 3072, 8192, 24, 8, 128, 128_256, True, True),
    ("meta-llama/Llama-3.1-8B-Instruct", _LLAMA, 8.0, 8_030_261_248, 32, 4096, 14336, 32, 8, 128, 128_256, False, True),
    ("Qwen/Qwen2.5-0.5B-Instruct", _QWEN, 0.5, 494_032_768, 24, 896, 4864, 14, 2, 64, 151_936, True, False),
    ("Qwen/Qwen2.5-1.5B-Instruct", _QWEN, 1.5, 1_543_714_304, 28, 1536, 8960, 12, 2, 128, 151_936, True, False),
    ("Qwen/Qwen2.5-3B-Instruct", _QWEN, 3.0, 3_085_938_688, 36, 2048, 11008, 16, 2, 128, 151_936, True, False),
    ("Qwen/Qwen2.5-7B-Instruct", _QWEN, 7.0, 7_615_616_512, 28, 3584, 18944, 28, 4, 128, 152_064, False, False),
    ("google/gemma-3-1b-it", _GEMMA, 1.0, 999_885_952, 26, 1152, 6912, 4, 1, 256, 262_144, True, True),
    # 420 million of its parameters are a vision tower and what joins it on; only the text model is used.
    ("google/gemma-3-4b-it", _GEMMA, 4.0, 4_300_079_472, 34, 2560, 10240, 8, 4, 256, 262_208, True, True),
)
# fmt: on

#: The nine base models of the paper, by hub id.
PAPER: Mapping[str, KnownModel] = {
    name: KnownModel(family, size_b, model_type, *numbers) for name, (family, model_type), size_b, *numbers in _TABLE
}
