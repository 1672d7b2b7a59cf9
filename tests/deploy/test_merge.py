"""A merged folder is a model of its own, with PEFT's logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from registry.config.study import BaseSpec, LoraSpec
from registry.deploy.merge import DTYPES, merge_into, write_merged
from registry.deploy.pull import pull, usage
from registry.errors import Refused
from registry.lora.adapter import Adapter, fresh_adapter, save_adapter
from registry.models.base import resolve_base, trained_base
from registry.models.loading import load_base
from tests.deploy.conftest import logits

NAME = "tiny--pair--tr"


@pytest.fixture
def there(register, chosen):
    register()
    return chosen(name=NAME)


def test_a_merged_folder_has_pefts_logits_and_the_bases_tokenizer(
    client, there, base: Path, make_llama, tokenizer, tmp_path: Path
) -> None:
    adapter = pull(client, there, tmp_path / "adapter").folder
    expected = logits(PeftModel.from_pretrained(make_llama(), str(adapter)))
    folder = pull(client, there, tmp_path / "whole", merged="float32", base=str(base)).folder
    needed = {"README.md", "config.json", "model.safetensors", "pulled.json", "tokenizer.json", "tokenizer_config.json"}
    assert needed <= {path.name for path in folder.iterdir()} <= needed | {"generation_config.json"}
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert whole.dtype == torch.float32
    torch.testing.assert_close(logits(whole), expected, rtol=0, atol=1e-4)
    text = "question: ev"
    assert AutoTokenizer.from_pretrained(folder)(text).input_ids == tokenizer(text).input_ids
    assert "merged in (weights in float32" in (folder / "README.md").read_text()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_merged_weights_are_the_float32_sum_rounded_once(make_llama, make_adapter, dtype: str) -> None:
    adapter, exact, rounded = make_adapter(), make_llama(), make_llama()
    merge_into(exact, adapter, torch.float32)
    merge_into(rounded, adapter, DTYPES[dtype])
    kept = rounded.state_dict()
    for name, weight in exact.state_dict().items():
        assert kept[name].dtype == DTYPES[dtype]
        assert torch.equal(kept[name], weight.to(DTYPES[dtype]))


def test_a_half_precision_base_is_not_rounded_before_the_sum(make_llama, make_adapter) -> None:
    adapter, half, single = make_adapter(), make_llama().half(), make_llama().half().float()
    merge_into(half, adapter, torch.float32)
    merge_into(single, adapter, torch.float32)
    for name, weight in single.state_dict().items():
        assert torch.equal(half.state_dict()[name], weight)


def test_the_adapter_and_its_merged_model_are_different_folders(client, there, base: Path, tmp_path: Path) -> None:
    pull(client, there, tmp_path / "a", merged="float32", base=str(base))
    assert pull(client, there, tmp_path / "a", merged="float32", base=str(base)).kept
    with pytest.raises(Refused, match="holds something else"):
        pull(client, there, tmp_path / "a", merged="bfloat16", base=str(base))
    with pytest.raises(Refused, match="holds something else"):
        pull(client, there, tmp_path / "a")


def test_a_base_that_is_not_here_or_another_is_told(client, there, make_base, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"'tiny' of this adapter is a folder, and which one is not recorded.*-P base="):
        pull(client, there, tmp_path / "a", merged="float32")
    with pytest.raises(Refused, match=r"holds no config.json.*-P base="):
        pull(client, there, tmp_path / "a", merged="float32", base=str(tmp_path))
    with pytest.raises(Refused, match="this adapter was trained on sha256:"):
        pull(client, there, tmp_path / "a", merged="float32", base=str(make_base(1)))
    assert list(tmp_path.iterdir()) == []


def test_a_base_in_a_folder_is_found_where_it_was(client, register, chosen, make_base, base, tmp_path: Path) -> None:
    register(base_path=base)
    there = chosen(name=NAME)
    whole = pull(client, there, tmp_path / "whole", merged="float32").folder
    named = pull(client, there, tmp_path / "named", merged="float32", base=str(base)).folder
    assert (whole / "model.safetensors").read_bytes() == (named / "model.safetensors").read_bytes()
    # A folder that the user names goes first, right or wrong.
    with pytest.raises(Refused, match="this adapter was trained on sha256:"):
        pull(client, there, tmp_path / "other", merged="float32", base=str(make_base(1)))


def test_another_base_where_the_base_was_is_not_used(client, register, chosen, make_base, tmp_path: Path) -> None:
    register(base_path=make_base(1))
    with pytest.raises(Refused, match=r"is sha256:.*was trained on sha256:.*-P base="):
        pull(client, chosen(name=NAME), tmp_path / "whole", merged="float32")
    assert not (tmp_path / "whole").exists()


def test_a_base_that_was_moved_is_asked_for(client, register, chosen, tmp_path: Path) -> None:
    register(base_path=tmp_path / "gone")
    with pytest.raises(Refused, match=rf"'tiny' .* was in {tmp_path / 'gone'}, where no model is now: .*-P base="):
        pull(client, chosen(name=NAME), tmp_path / "whole", merged="float32")


@pytest.mark.parametrize("place", ["the base", "another base", "gone", "a name of the hub"])
def test_the_lines_name_the_base_where_it_is(
    client, register, chosen, make_base, base, tmp_path: Path, place: str
) -> None:
    hint = {"the base": base, "another base": make_base(1)}.get(place, tmp_path / "gone")
    model = "owner/tiny" if place == "a name of the hub" else "tiny"  # trained on a folder, so the hub is not asked
    register(base_path=hint, model=model)
    pulled = pull(client, chosen(name=NAME if model == "tiny" else "owner-tiny--pair--tr"), tmp_path / "adapter")
    text = "\n".join(usage(pulled))
    assert (str(base) in text) == (place == "the base") == (pulled.base_missing == "")
    assert (f"<folder of {model}>" in text) == (place != "the base")
    # Neither the folder nor its card, which may be published, says where anything is on this machine.
    assert not [path for path in pulled.folder.iterdir() if str(hint).encode() in path.read_bytes()]


def test_lines_for_another_base_are_refused(client, there, make_base, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"was trained on sha256:.*-P base="):
        pull(client, there, tmp_path / "adapter", base=str(make_base(1)))
    assert list(tmp_path.iterdir()) == []


def test_a_copy_of_the_hubs_commit_in_a_folder_will_do(base: Path) -> None:
    found = trained_base("owner/tiny", "c0ffee", str(base), remedy="")
    assert found.location == str(base)
    assert found.revision == resolve_base(BaseSpec(name="tiny", path=str(base))).revision


def test_sums_that_the_data_type_cannot_hold_are_refused(llama, make_adapter) -> None:
    adapter = make_adapter()
    name, (a, b) = next(iter(adapter.weights.items()))
    large = Adapter(adapter.spec, {**adapter.weights, name: (a, b * 1e8)})
    with pytest.raises(Refused, match=f"{name} has sums that torch.float16 cannot hold; take bfloat16"):
        merge_into(llama, large, torch.float16)


def test_tied_weights_are_not_merged_into(llama) -> None:
    llama.lm_head.weight = llama.model.embed_tokens.weight
    adapter = fresh_adapter(llama, LoraSpec(rank=2, targets=("lm_head",)), seed=0)
    with pytest.raises(Refused, match=r"lm_head shares its weights with model\.embed_tokens"):
        merge_into(llama, adapter, torch.float32)


def test_merging_keeps_what_a_base_has_for_images(tokenizer, tmp_path: Path) -> None:
    text = LlamaConfig(
        vocab_size=80, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
    )  # fmt: skip
    torch.manual_seed(0)
    whole = LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=79))
    for part in (whole, tokenizer):
        part.save_pretrained(tmp_path / "base")
    base = resolve_base(BaseSpec(name="seeing", path=str(tmp_path / "base")))
    adapter = fresh_adapter(load_base(base, dtype=torch.float32, device="cpu"), LoraSpec(rank=2), seed=0)
    adapter = Adapter(adapter.spec, {name: (a, torch.ones_like(b)) for name, (a, b) in adapter.weights.items()})
    save_adapter(adapter, tmp_path / "adapter", base_reference="seeing", base_revision=None)
    write_merged(base, tmp_path / "adapter", tmp_path / "merged", "float32")
    found = LlavaForConditionalGeneration.from_pretrained(tmp_path / "merged").state_dict()
    for name, weight in whole.state_dict().items():
        module = name.removesuffix(".weight")
        assert torch.equal(found[name], weight) == (module not in adapter.weights), name
    assert base.loader().__name__ == "AutoModelForImageTextToText"
