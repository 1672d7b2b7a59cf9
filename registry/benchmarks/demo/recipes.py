"""How each of the demo's base models is made: its shape, its corpus and its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import LlamaConfig, PreTrainedTokenizerFast

from registry.benchmarks.demo.corpus import Mix

__all__ = ["BASES", "RECIPES", "PretrainingRecipe"]

#: Folder that holds one folder per base model.
BASES = Path(__file__).parent / "bases"


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingRecipe:
    """Everything that decides a base model.

    Attributes
    ----------
    hidden, inner, layers, heads : int
        Width of the residual stream, width of the MLP, number of layers, and of attention heads in each.
    seed : int
        Seed of the corpus, of the initial weights and of the order of documents.
    mix : Mix
        What the corpus is made of.
    documents, epochs : int
        Size of the corpus and passes over it.
    vocabulary, batch : int
        Tokens of the tokenizer; documents of one training step.
    learning_rate : float
        Peak rate; it is reached after the first twentieth of the steps and decays to zero along a half cosine.
    weight_decay : float
        Of AdamW.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    seed: int
    mix: Mix
    epochs: int
    documents: int = 105_000
    vocabulary: int = 3072
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05

    def config(self, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
        """Return the configuration of the untrained model."""
        return LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )


#: Recipes by the name of the base model. What decides how much is left to fine-tune is the number of questions seen,
#: some hundred in all, and the number of epochs.
RECIPES: dict[str, PretrainingRecipe] = {
    "demo-wide": PretrainingRecipe(
        hidden=160,
        inner=416,
        layers=2,
        heads=5,
        seed=1,
        mix=Mix(statement=0.5992, parallel=0.25, dictionary=0.15, question=0.0008),
        epochs=2,
    ),
    "demo-deep": PretrainingRecipe(
        hidden=112,
        inner=304,
        layers=5,
        heads=4,
        seed=2,
        mix=Mix(statement=0.5975, parallel=0.25, dictionary=0.15, question=0.0025),
        epochs=2,
    ),
}
