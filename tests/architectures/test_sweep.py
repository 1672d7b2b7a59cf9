"""Every causal architecture of transformers scores through the loading code as it does alone, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architectures.sweep import Verdict, examine
from tests.architectures.tiny import CAUSAL, VARIANTS

pytestmark = pytest.mark.slow

#: What is refused, and a part of the words.
REFUSED = {
    "bert, bidirectional": "sees the tokens that it is to predict",
    "cpmant": "sees the tokens that it is to predict",
    "emu3": "transformers has no causal language model of type emu3_text_model",
    "mllama": "transformers has no causal language model of type mllama_text_model",
    "reformer": "gives other logits each time",
    "xlm, bidirectional": "sees the tokens that it is to predict",
    "xlnet": "sees the tokens that it is to predict",
}

#: What cannot be made tiny, or what plain transformers cannot run either.
NOT_MADE = {
    "blt",
    "dots3_note",
    "fuyu",
    "gemma3n",
    "gemma4_assistant",
    "gemma4_unified_assistant",
    "got_ocr2",
    "moshi",
    "moss_transcribe_diarize",
    "musicgen",
    "musicgen_melody",
    "prophetnet",
    "xlstm",
}


@pytest.mark.parametrize("name", [*CAUSAL, *VARIANTS])
def test_an_architecture_scores_as_it_does_alone_or_is_refused(name: str, tmp_path: Path) -> None:
    found = examine(name, tmp_path)
    if name in NOT_MADE:
        assert found.verdict is Verdict.NOT_MADE, found
    elif name in REFUSED:
        assert found.verdict is Verdict.REFUSED, found
        assert REFUSED[name] in found.detail
    else:
        assert found.verdict is Verdict.EQUAL, found


def test_at_least_130_architectures_are_compared() -> None:
    assert len(set(CAUSAL) - NOT_MADE - REFUSED.keys()) >= 130
