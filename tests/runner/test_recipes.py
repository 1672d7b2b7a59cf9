"""Which texts a recipe trains on, how long they are, which of their tokens carry a loss, and what of that is hashed."""

from __future__ import annotations

import dataclasses

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from registry.benchmarks.items import Item
from registry.benchmarks.prompts import PROMPTS, Prompt
from registry.cells import Cell
from registry.config.files import load_study
from registry.config.study import Recipe, Study
from registry.errors import Refused
from registry.lora.encoding import encode_examples
from registry.models.loading import load_tokenizer
from registry.planning import design_files
from registry.planning.experiment import Experiment, prepare
from registry.runner import engine_inputs

CELL = Cell("kind", "en")

#: An item, and the text that "Donors and Recipients" trains on for it: style → item, prompt, target.
LITERAL = {
    "arc": (
        Item("1", "What do bees make?", ("milk", "honey", "wool", "silk"), answer=1),
        "Question: What do bees make?\nA) milk\nB) honey\nC) wool\nD) silk\nAnswer:",
        " B",
    ),
    "hellaswag": (
        Item("1", "Baking: A man opens the oven. He", ("sings", "takes the cake", "swims", "sleeps"), answer=1),
        "Baking: A man opens the oven. He\nA) sings\nB) takes the cake\nC) swims\nD) sleeps\nAnswer:",
        " B",
    ),
    "mmlu": (
        Item("1", "What do bees make?", ("milk", "honey", "wool", "silk"), answer=1),
        "What do bees make?\nA. milk\nB. honey\nC. wool\nD. silk\nAnswer:",
        " B",
    ),
    "truthfulqa": (
        Item("1", "What do bees make?", ("Honey and wax", "Milk"), answer=0),
        "",
        "Question: What do bees make?\nAnswer: Honey and wax",
    ),
}


@pytest.fixture(scope="module")
def study(small_study) -> Study:
    return small_study()


def with_recipe(study: Study, **fields: object) -> Study:
    return dataclasses.replace(study, recipe=dataclasses.replace(study.recipe, **fields))


def with_prompt(experiment: Experiment, prompt: Prompt, item: Item | None = None, **recipe: object) -> Experiment:
    """An experiment whose task `kind` has a prompt style and, if given, one item to train on."""

    class Items:
        prompts = dict(experiment.items.prompts) | {"kind": prompt}

        def __getattr__(self, name: str) -> object:
            return getattr(experiment.items, name)

        def train(self, cell: Cell) -> tuple[Item, ...]:
            return (item,) if item is not None else experiment.items.train(cell)

    return dataclasses.replace(experiment, study=with_recipe(experiment.study, **recipe), items=Items())


@pytest.fixture(scope="module")
def beginning(tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer, beginning every text with a special token, as Llama's and Gemma's do and Qwen's does not."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("loss", ["as_prompted", "whole_text"])
@pytest.mark.parametrize("style", LITERAL)
def test_the_loss_stands_on_the_answer_or_on_the_whole_text(study, tokenizer, beginning, style: str, loss: str) -> None:
    item, prompt, target = LITERAL[style]
    (text,) = with_prompt(prepare(study), PROMPTS[style], item, loss=loss).training_texts(CELL)
    assert text.prompt + text.target == prompt + target
    whole = loss == "whole_text" or style == "truthfulqa"
    for chosen in (tokenizer, beginning):
        (example,) = encode_examples(chosen, [(text.prompt, text.target)], max_length=512)
        assert chosen.decode(example.tokens, skip_special_tokens=True) == prompt + target
        carrying = chosen.decode(example.tokens[example.supervised_from :])
        if not whole:
            assert carrying == target
        elif chosen is beginning:
            assert carrying == prompt + target, "its first token follows the beginning of text"
        else:
            first = chosen.decode(example.tokens[:1])
            assert first + carrying == prompt + target
            assert example.supervised_from == 1, "nothing comes before the first"


@pytest.mark.parametrize("loss", ["as_prompted", "whole_text"])
def test_a_cut_text_has_lost_its_left_side_and_keeps_its_answer(study, tokenizer, loss: str) -> None:
    item, prompt, target = LITERAL["arc"]
    (text,) = with_prompt(prepare(study), PROMPTS["arc"], item, loss=loss).training_texts(CELL)
    (example,) = encode_examples(tokenizer, [(text.prompt, text.target)], max_length=10)
    assert len(example.tokens) == 10
    assert (prompt + target).endswith(tokenizer.decode(example.tokens))
    assert example.supervised_from == (1 if loss == "whole_text" else 10 - len(tokenizer(target)["input_ids"]))


class TestLengths:
    """One length for all tasks, or one for each."""

    def test_each_task_has_its_own(self, study) -> None:
        recipe = with_recipe(study, max_length={"kind": 20, "pair": 30}).recipe
        assert (recipe.length("kind"), recipe.length("pair")) == (20, 30)
        assert Recipe(max_length=77).length("kind") == 77

    def test_long_texts_are_cut_on_the_left_to_their_tasks_length(self, study) -> None:
        whole, cut = (prepare(with_recipe(study, max_length=length)) for length in (512, {"kind": 12, "pair": 18}))
        tokenizer = load_tokenizer(whole.bases["tiny"])
        for task, length in (("kind", 12), ("pair", 18)):
            texts, short = (
                engine_inputs.examples_of(one, one.bases["tiny"], tokenizer, Cell(task, "en")) for one in (whole, cut)
            )
            assert max(len(text.tokens) for text in texts) > length
            assert [text.tokens for text in short] == [text.tokens[-length:] for text in texts]

    def test_a_fingerprint_depends_on_the_length_of_its_own_task_alone(self, study) -> None:
        def prints(max_length: object) -> tuple[str | None, ...]:
            experiment = prepare(with_recipe(study, max_length=max_length))
            return tuple(experiment.job("tiny", Cell(task, "en"), 17).finetune for task in ("kind", "pair"))

        one = prints(512)
        assert prints({"kind": 512, "pair": 512}) == one
        kind, pair = prints({"kind": 256, "pair": 512})
        assert (kind != one[0], pair == one[1]) == (True, True)

    def test_a_study_file_names_them_and_the_resolved_study_loads_back(self, study_file, tmp_path) -> None:
        path = study_file(("  epochs: 1\n", "  epochs: 1\n  max_length: {kind: 40, pair: 50}\n"))
        study = load_study(str(path))
        assert study.recipe.max_length == {"kind": 40, "pair": 50}
        again = tmp_path / "again.yaml"
        again.write_text(design_files.study_yaml(study))
        assert load_study(str(again)) == study
        assert design_files.parameters(study)["max_length.kind"] == 40

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ("0", r"small\.yaml:\d+: recipe\.max_length: tokens are a whole number above 0"),
            ("{kind: -3}", "tokens are a whole number above 0"),
            ("{kind: 9.5}", "tokens are a whole number above 0"),
            ("true", "tokens are a whole number above 0"),
            ("{}", "tokens are a whole number above 0"),
            ("long", r"tokens are a whole number above 0.*\(got 'long'\)"),
            ("{kind: 9, no: 9}", "tasks are named by texts"),
        ],
    )
    def test_what_is_no_length_is_refused_with_its_line(self, study_file, given: str, told: str) -> None:
        path = study_file(("  epochs: 1\n", f"  epochs: 1\n  max_length: {given}\n"))
        with pytest.raises(Refused, match=told) as caught:
            load_study(str(path))
        assert len(str(caught.value).splitlines()) == 1

    def test_a_task_that_does_not_exist_is_refused_with_the_nearest(self, study) -> None:
        with pytest.raises(Refused, match=r"recipe\.max_length: there is no task 'knd'; nearest: kind"):
            prepare(with_recipe(study, max_length={"knd": 20, "pair": 30}))

    def test_a_source_without_a_length_is_refused_and_a_target_needs_none(self, study) -> None:
        lacking = with_recipe(study, max_length={"kind": 20})
        with pytest.raises(Refused, match=r"recipe\.max_length has no length for pair, which the study trains on"):
            prepare(lacking)
        assert prepare(dataclasses.replace(lacking, sources=("kind/en",))).sources == (CELL,)

    def test_a_narrower_study_may_keep_lengths_it_has_no_use_for(self, study) -> None:
        prepare(dataclasses.replace(with_recipe(study, max_length={"kind": 20, "pair": 30}), tasks=("kind",)))


class TestFingerprints:
    """What of a recipe makes another result."""

    @staticmethod
    def print(experiment: Experiment) -> str | None:
        return experiment.job("tiny", CELL, 17).finetune

    def test_the_whole_text_is_another_result_unless_the_style_has_it_already(self, study) -> None:
        experiment = prepare(study)
        for style, differs in (("arc", True), ("truthfulqa", False)):
            prompts = (with_prompt(experiment, PROMPTS[style], loss=loss) for loss in ("as_prompted", "whole_text"))
            one, other = map(self.print, prompts)
            assert (one != other) is differs

    def test_full_fine_tuning_is_another_result_that_no_setting_of_lora_decides(self, study) -> None:
        lora, full = (prepare(with_recipe(study, method=method)) for method in ("lora", "full"))
        assert self.print(lora) != self.print(full)
        other = dataclasses.replace(study.recipe.lora, rank=77)
        assert self.print(prepare(with_recipe(study, method="full", lora=other))) == self.print(full)
        assert lora.baseline("tiny") == full.baseline("tiny")

    def test_every_precision_is_a_result_of_its_own(self, study) -> None:
        experiments = [prepare(with_recipe(study, precision=name)) for name in ("fp32", "bf16", "fp16")]
        assert len({self.print(experiment) for experiment in experiments}) == 3
        assert len({experiment.baseline("tiny").evaluate for experiment in experiments}) == 3

    def test_a_recipe_is_hashed_as_before_there_was_the_choice(self) -> None:
        recipe = Recipe()
        before = {"method", "loss"}
        expected = {field.name for field in dataclasses.fields(Recipe)} - before
        assert set(recipe.deciding("kind", masked=True)) == expected
        assert recipe.deciding("kind", masked=True)["max_length"] == 512


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantised_base_cannot_be_trained_whole(study, monkeypatch, bits: str) -> None:
    monkeypatch.setattr("registry.models.loading.find_spec", lambda name: object())
    with pytest.raises(Refused, match=rf"quantization: {bits}.*set quantization: null, or recipe\.method: lora"):
        prepare(dataclasses.replace(with_recipe(study, method="full"), quantization=bits))
