"""Tiny random models of every causal architecture that transformers has, made from its own configuration classes."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig

__all__ = ["CAUSAL", "VARIANTS", "tiny_config", "tiny_model"]

#: Longest input of those that have a limit.
POSITIONS = 256

VOCABULARY = 500

#: Fields of configuration classes, whatever each calls them, and values that make a model tiny.
_WIDTH = dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "n_embed", "dim_model"), 64)
_INNER = dict.fromkeys(
    (
        "intermediate_size",
        "n_inner",
        "ffn_dim",
        "d_ff",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "ffn_hidden_size",
        "dim_ff",
        "shared_intermediate_size",
    ),
    128,
)
_LAYERS = dict.fromkeys(
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "depth"), 2
)
_HEADS = dict.fromkeys(
    (
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "attention_heads",
    ),
    4,
)
_POSITIONS = dict.fromkeys(
    ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), POSITIONS
)
_EXPERTS = {
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "qk_head_dim": 16,
    "index_head_dim": 16,
    "index_n_heads": 4,
    "index_topk": 24,
}
_RECURRENT = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "mamba_d_state": 16,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_num_heads": 4,
    "mamba_head_dim": 32,
    "state_size": 16,
    "ssm_state_size": 16,
}
_PICTURES = {"image_size": 32, "patch_size": 16, "num_channels": 3, "projection_dim": 64, "out_hidden_size": 64}
_SMALL: dict[str, Any] = {
    **_WIDTH,
    **_INNER,
    **_LAYERS,
    **_HEADS,
    **_POSITIONS,
    **_EXPERTS,
    **_LATENT,
    **_RECURRENT,
    **_PICTURES,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "sliding_window": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 16,
    # Large enough for every layer, and for the context, to matter in the logits.
    "initializer_range": 0.15,
    "init_std": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

#: What single architectures need besides, since their own checks or their arithmetic ask for it.
_ATTENTION = ("full_attention", "sliding_attention")
_MIXED = {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2}
_INDEXED = {"qk_rope_head_dim": 8, "head_dim": 8, "num_key_value_heads": 4}
_OWN: dict[str, dict[str, Any]] = {
    "axk2": _INDEXED,
    "bailing_hybrid": {"num_hidden_layers": 4, "layer_group_size": 2, "linear_num_heads": 4, "linear_head_dim": 16}
    | {"model_max_length": POSITIONS, "num_expert_group": 1, "topk_group": 1, "num_experts_per_token": 2}
    | {"layer_types": _MIXED["layer_types"], "num_key_value_heads": 4},
    "bamba": {"num_hidden_layers": 4, "attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": 64, "vocab_size": 260},
    "blt_local_encoder": {"vocab_size": 260},
    "blt_local_decoder": {"vocab_size": 260},
    "blt_patcher": {"vocab_size": 260},
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {"layer_types": ["full_attention", "sliding_attention"]}
    | {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in _ATTENTION}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}}
    | {"ffn_config": {"hidden_size": 64, "ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}},
    "deepseek_v32": _INDEXED,
    "dots3_note_text": _INDEXED,
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "intermediate_size": [128] * 4}
    | {"layer_types": ["sliding_attention", "full_attention"] * 2, "activation_sparsity_pattern": [0.0] * 4},
    "gemma4_text": {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma4_unified_text": {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "glm_moe_dsa": _INDEXED,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"num_hidden_layers": 4, "layer_types": _MIXED["layer_types"]},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 8},
    "kimi_linear": {
        "num_hidden_layers": 4,
        "linear_num_heads": 4,
        "linear_head_dim": 16,
        "layer_types": _MIXED["layer_types"],
    }
    | {"model_max_length": POSITIONS, "num_expert_group": 1, "num_experts_per_token": 2, "num_key_value_heads": 4}
    | {"mlp_layer_types": ["dense", "sparse"] * 2, "q_lora_rank": None},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "lfm3": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"expert_ffn_hidden_size": 32, "zero_expert_num": 2, "moe_topk": 2, "head_dim": 8},
    "llama4_text": {"attention_chunk_size": 16, "num_hidden_layers": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 32},
    "modernbert-decoder": {"local_attention": 16},
    "doge": {"keep_window_size": 16},
    "inkling_text": {"sliding_window_size": 8},
    "inkling2_text": {"sliding_window_size": 8},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"], "index_block_size": 16}
    | {"index_topk_blocks": 2},
    "deepseek_v4": {"num_hidden_layers": 3}
    | {"layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]}
    | {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 16}},
    "minimax": {"num_hidden_layers": 4, "layer_types": _MIXED["layer_types"], "block_size": 32},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"], "n_groups": 1}
    | {"moe_shared_expert_intermediate_size": 32},
    "qwen3_5_text": _MIXED,
    "qwen3_5_moe_text": _MIXED,
    "qwen3_next": _MIXED,
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 8, "num_key_value_heads": 1},
    "reformer": {"is_decoder": True, "attn_layers": ["local", "lsh"], "attention_head_size": 16}
    | {"axial_pos_shape": [16, 16], "axial_pos_embds_dim": [32, 32], "feed_forward_size": 128},
    "xlm": {"emb_dim": 64, "causal": True},
    "xmod": {"default_language": "en_XX", "is_decoder": True},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2, "n_mamba_heads": 2}
    | {"attention_hidden_size": 128, "attention_head_dim": 32, "num_key_value_heads": 4, "mamba_dt_rank": 8},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2, "n_mamba_heads": 4}
    | {"mamba_headdim": 32, "num_key_value_heads": 4, "attention_hidden_size": 128, "attention_head_dim": 32},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
    # Encoders that become decoders.
    **{
        kind: {"is_decoder": True}
        for kind in (
            *("bert", "bert-generation", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert"),
            *("roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "big_bird"),
        )
    },
}

#: The same architectures in forms that published models have: name → architecture and fields.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"{kind}, LongRoPE": (
            kind,
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 8,
                    "long_factor": [4.0] * 8,
                    "original_max_position_embeddings": 64,
                    **extra,
                },
                "original_max_position_embeddings": 64,
            },
        )
        for kind, extra in (("phi3", {}), ("phimoe", {"short_mscale": 1.1, "long_mscale": 1.3}))
    },
    "llama, dynamic NTK": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}),
    "llama, YaRN": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "falcon, ALiBi": ("falcon", {"alibi": True}),
    "falcon, new decoder": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gpt2, scaled by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),
    "gpt_bigcode, many keys": ("gpt_bigcode", {"multi_query": False}),
    "opt, norm behind": ("opt", {"do_layer_norm_before": False}),
    "qwen2, sliding": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
    "gemma2, soft-capped": ("gemma2", {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    "bert, relative positions": ("bert", {"position_embedding_type": "relative_key"}),
    "bert, bidirectional": ("bert", {"is_decoder": False}),
    "xlm, bidirectional": ("xlm", {"causal": False}),
}

#: Every architecture that transformers loads as a causal language model.
CAUSAL = tuple(sorted(config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING))


def tiny_config(kind: str, **fields: Any) -> PreTrainedConfig:
    """Make a configuration of an architecture that builds a tiny model."""
    return _tiny(CONFIG_MAPPING[kind], **(_OWN.get(kind, {}) | fields))


def _tiny(cls: type[PreTrainedConfig], **fields: Any) -> PreTrainedConfig:
    known = set(inspect.signature(cls.__init__).parameters)
    if dataclasses.is_dataclass(cls):
        known |= {field.name for field in dataclasses.fields(cls)}
    small = {name: value for name, value in _SMALL.items() if name in known}
    for name, part in cls.sub_configs.items():
        if isinstance(part, type) and issubclass(part, PreTrainedConfig) and hasattr(part, "model_type"):
            given = fields.pop(name, {})
            if given is not None:
                small[name] = _tiny(part, **(_OWN.get(part.model_type, {}) | given)).to_dict()
    return cls(**(small | fields))


def tiny_model(config: PreTrainedConfig) -> Any:
    """Make a random model from a configuration, the same each time."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()
