"""What a base makes of a study beyond its revision: how its tokenizer reads, which of its layers an adapter reaches.

All of it is known before any weights are loaded, and what cannot work is refused here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.config.study import ALL_LINEAR, BaseSpec, LoraSpec, Study
from registry.errors import Refused
from registry.lora.chat import depends_on_date, header_digest, require_chat_template, require_fixed_template
from registry.lora.special_tokens import appended_tokens
from registry.models.base import Base, skeleton_of
from registry.models.hub import HubUnavailable
from registry.models.loading import load_tokenizer
from registry.models.projections import MatchedModules, matched_modules
from registry.planning.fingerprints import changed_scoring, changed_training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["PLAIN", "BaseFacts", "base_facts", "check_targets", "coverage", "few_reached", "reached_layers"]

#: Stands for the header of a chat template where questions are put without one.
PLAIN = "plain"

_MOST = 0.95  # share of the weights from which on the usual targets reach what they are meant to

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What was found of one base.

    Attributes
    ----------
    ends_texts
        Whether its tokenizer appends tokens to every text, which are taken off again.
    chat_header
        SHA-256 of a fixed question as its chat template puts it, or `PLAIN`.
    dated
        Whether the date that the study fixes shows in it.
    matched
        The layers that an adapter of the study goes on; None where every weight is trained.
    training, scoring
        What decides trainings and scores because earlier versions computed it wrongly; see `reading_changes`.
    """

    ends_texts: bool = False
    chat_header: str = PLAIN
    dated: bool = False
    matched: MatchedModules | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    scoring: Mapping[str, Any] = field(default_factory=dict)

    @property
    def deciding_training(self) -> dict[str, Any]:
        """What of this decides the result of a training, and is not the same for nearly every base.

        What goes without saying stays out, so that results recorded before it was looked at are found again.
        """
        return self._ends | dict(self.training)

    @property
    def deciding_scores(self) -> dict[str, Any]:
        """The same for scores."""
        return self._ends | ({"chat_header": self.chat_header} if self.dated else {}) | dict(self.scoring)

    @property
    def _ends(self) -> dict[str, Any]:
        return {"end_tokens": "stripped"} if self.ends_texts else {}

    @property
    def parameters(self) -> dict[str, object]:
        """What a run of an adapter says of the layers that it adapts."""
        if self.matched is None:
            return {}
        return {"adapted_modules": str(self.matched), "adapted_share": f"{self.matched.share:.4g}"}


def base_facts(study: Study, base: Base) -> BaseFacts:
    """Look at a base's tokenizer and modules.

    Raises
    ------
    Refused
        If the study scores in a chat template and the base has none that always says the same, or if it names layers to
        adapt that the base does not have.
    """
    tokenizer, header, dated = load_tokenizer(base), PLAIN, False
    if study.chat_template:
        require_chat_template(tokenizer, base.name)
        require_fixed_template(tokenizer, base.name, day=study.chat_template_date)
        header, dated = header_digest(tokenizer, day=study.chat_template_date), depends_on_date(tokenizer)
    matched, model = None, base.skeleton()
    if study.recipe.method == "lora":
        matched = _reached(model, study.recipe.lora, base.name)
    lengths = study.recipe.max_length
    return BaseFacts(
        bool(appended_tokens(tokenizer)),
        header,
        dated,
        matched,
        training=changed_training(base, model.config, lengths.values() if isinstance(lengths, dict) else [lengths]),
        scoring=changed_scoring(base, model.config),
    )


def reached_layers(study: Study, spec: BaseSpec) -> MatchedModules | None:
    """Find the layers that an adapter goes on from a base's configuration, or the catalogue, without its weights.

    Returns
    -------
    MatchedModules
        None where every weight is trained, or the configuration is not at hand.

    Raises
    ------
    Refused
        If the study names layers that the base does not have.
    """
    if study.recipe.method != "lora":
        return None
    try:
        model = skeleton_of(spec, trust_remote_code=study.trust_remote_code)
    except HubUnavailable:
        return None
    return _reached(model, study.recipe.lora, spec.name)


def _reached(model: PreTrainedModel, spec: LoraSpec, base: str) -> MatchedModules:
    matched = matched_modules(model, spec.targets)
    check_targets(matched, spec, base)
    if warning := few_reached(matched, spec):
        _log.warning("%s: %s", base, warning)
    return matched


def check_targets(matched: MatchedModules, spec: LoraSpec, base: str) -> None:
    """Refuse targets that a study names and a base does not have; of the usual ones, to have none of them.

    Raises
    ------
    Refused
        With those that it has.
    """
    usual = spec.targets == LoraSpec().targets
    if not matched.absent or (usual and len(matched.absent) < len(matched.counts)):
        return
    lacking = "none of the usual targets" if usual else f"no {', '.join(matched.absent)}"
    raise Refused(
        f"recipe.lora.targets: base {base!r} has {lacking} among its linear layers; it has "
        f"{', '.join(matched.offered)}. Name some of these, or [{ALL_LINEAR[0]}]"
    )


def few_reached(matched: MatchedModules, spec: LoraSpec) -> str:
    """Say that the usual targets reach less of a base than they are meant to; empty where they do not."""
    if spec.targets != LoraSpec().targets or (matched.share >= _MOST and not matched.absent):
        return ""
    said = f"the usual recipe.lora.targets reach {matched.share:.0%} of the weights"
    if matched.absent:
        said += f" ({', '.join(matched.absent)} match nothing)"
    if matched.linear_share > matched.share:
        said += f"; for {matched.linear_share:.0%} set targets: [{', '.join(matched.offered)}], or [{ALL_LINEAR[0]}]"
    if matched.linear_share < _MOST:
        said += f"; the other {1 - matched.linear_share:.0%} are in no linear layer, and no adapter here reaches them"
    return said


def coverage(found: Mapping[str, MatchedModules | None]) -> list[str]:
    """Say which layers of each base an adapter goes on, a line for all bases of which the same is true."""
    alike: dict[tuple[str, tuple[str, ...]], dict[str, MatchedModules]] = {}
    for base, matched in found.items():
        if matched is not None:
            names = tuple(name for name, count in matched.counts.items() if count)
            alike.setdefault((f"{matched.share:.0%}", names), {})[base] = matched
    lines = []
    for (share, names), bases in alike.items():
        one, matched = next(iter(bases.items()))
        several = len(bases) > 1
        listed = ", ".join(name if several else f"{name} ×{matched.counts[name]}" for name in names)
        whose = f"each of {len(bases)} bases" if several else one
        lines.append(f"  adapts        {share} of the weights in the layers of {whose}: {listed}")
    return lines
