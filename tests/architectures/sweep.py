"""Score through a folder and the loading code, beside plain transformers: ``python -m tests.architectures.sweep``.

Every architecture is saved as a checkpoint, found, loaded and scored as a study does it, in several batch sizes, orders
and with shared beginnings, up to inputs longer than the model takes. The measure is one sequence a pass of the same
checkpoint loaded by transformers alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from registry.config.study import BaseSpec
from registry.errors import Refused
from registry.lora.encoding import Continuations
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.trial import batching_of
from registry.models.architecture import UNLIMITED
from registry.models.base import resolve_base
from registry.models.loading import load_base
from tests.architectures.tiny import CAUSAL, VARIANTS, tiny_config, tiny_model

TOLERANCE = 1e-4  # nats, of sums over an option's tokens
_LARGEST = 120_000_000  # parameters of what still counts as tiny


class Verdict(StrEnum):
    """What came of an architecture."""

    EQUAL = "equal"
    REFUSED = "refused"
    DIFFERENT = "different"
    NOT_MADE = "not made"


@dataclass(frozen=True)
class Finding:
    """What came of an architecture, and why or how exactly."""

    name: str
    verdict: Verdict
    detail: str
    layout: str = ""


def questions(vocabulary: int, longest: int) -> list[Continuations]:
    """Questions short and long, some behind a shared beginning, one longer than the model takes."""
    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(13, vocabulary, count).tolist())

    header, primer = draw(11), draw(40)
    lengths = [1, 3, 17, 30, 58, 62, 90, longest - 8, longest + 20]
    beginnings = [(), header, header + primer]
    contexts = [beginnings[number % 3] + draw(max(1, length)) for number, length in enumerate(lengths)]
    contexts += [header + primer + draw(4), header + draw(3), header + primer + draw(9)]
    return [
        Continuations(context, tuple(draw(int(count)) for count in rng.integers(1, 7, rng.integers(2, 4))))
        for context in contexts
    ]


def one_by_one(model: PreTrainedModel, queries: Sequence[Continuations], *, longest: int) -> list[np.ndarray]:
    """Score each option in a pass of its own, cut from the left as lm-evaluation-harness does."""
    found = []
    fields = {"use_cache": False} if model.config.get_text_config().model_type.startswith("qwen4") else {}
    with torch.inference_mode():
        for query in queries:
            values = []
            for option in query.options:
                inputs = torch.tensor([(query.context + option)[-(longest + 1) :][:-1]])
                logprobs = model(input_ids=inputs, **fields).logits[0].float().log_softmax(dim=-1)[-len(option) :]
                values.append(logprobs.gather(1, torch.tensor(option)[:, None]).sum().item())
            found.append(np.array(values))
    return found


def examine(name: str, folder: Path) -> Finding:
    """Make an architecture tiny, save it, and compare its scores through the loading code with its plain scores."""
    try:
        kind, fields = VARIANTS.get(name, (name, {}))
        config = tiny_config(kind, **fields)
        with torch.device("meta"):
            size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
        if size > _LARGEST:
            return Finding(name, Verdict.NOT_MADE, f"{size / 1e6:.0f} million parameters")
        tiny_model(config).save_pretrained(folder)
    except Exception as error:  # whatever keeps it from being tiny: it is counted and named
        return Finding(name, Verdict.NOT_MADE, _line(error))
    try:
        return _scored(name, config, folder)
    except Refused as error:
        return Finding(name, Verdict.REFUSED, str(error))
    except Exception as error:
        return Finding(name, Verdict.DIFFERENT, f"a traceback: {_line(error)}")


def _scored(name: str, config: PreTrainedConfig, folder: Path) -> Finding:
    base = resolve_base(BaseSpec(name="tiny", path=str(folder)))
    model = load_base(base, dtype=torch.float32, device="cpu")
    longest = base.max_positions if base.max_positions < UNLIMITED else 300
    queries = questions(config.get_text_config().vocab_size, min(longest, 300))
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    try:
        expected = one_by_one(plain, queries, longest=longest)
    except Exception as error:
        return Finding(name, Verdict.NOT_MADE, f"plain transformers cannot run it: {_line(error)}")
    if np.ptp(np.concatenate(expected)) < 1:
        return Finding(name, Verdict.NOT_MADE, "its scores hardly differ, so equal ones would prove nothing")
    order = np.random.default_rng(1).permutation(len(queries)).tolist()
    differences = []
    for tokens, worth, permuted in ((4096, 1, False), (150, None, True), (1, 30, False), (700, float("inf"), True)):
        places = order if permuted else list(range(len(queries)))
        questions_ = ScoringSet(
            [queries[place] for place in places], tokens_per_batch=tokens, max_length=longest, worth=worth
        )
        for place, values in zip(places, loglikelihoods(model, questions_), strict=True):
            differences.append(float(np.abs(values - expected[place]).max()))
    largest = max(differences)
    batching = batching_of(model)
    layout = "flat, shared" if batching.shared else "flat" if batching.flat else "rows" if batching.padded else "single"
    verdict = Verdict.EQUAL if largest <= TOLERANCE else Verdict.DIFFERENT
    return Finding(name, verdict, f"largest difference {largest:.1e} nats, longest input {longest}", layout)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def sweep(names: Sequence[str]) -> list[Finding]:
    """Examine architectures, printing a line for each."""
    found = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            finding = examine(name, Path(folder))
        print(f"{finding.name:<28} {finding.verdict:<10} {finding.layout:<13} {finding.detail}", flush=True)
        found.append(finding)
    return found


def main() -> int:
    """Sweep all or the named architectures; return 1 if any scores otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures; all by default")
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    logging.getLogger("registry").setLevel(logging.ERROR)
    found = sweep(parser.parse_args().names or [*CAUSAL, *VARIANTS])
    counts = Counter(finding.verdict for finding in found)
    print(", ".join(f"{verdict}: {counts[verdict]}" for verdict in Verdict))
    layouts = Counter(finding.layout for finding in found if finding.verdict is Verdict.EQUAL)
    print("layouts of the equal ones:", ", ".join(f"{layout}: {count}" for layout, count in layouts.most_common()))
    return int(counts[Verdict.DIFFERENT] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
