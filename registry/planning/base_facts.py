"""What a base makes of a study beyond its revision: how its tokenizer reads, which of its layers an adapter reaches.

All of it is known before any weights are loaded, and what cannot work is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.config.study import BaseSpec, Study
from registry.lora.chat import depends_on_date, header_digest, require_chat_template, require_fixed_template
from registry.lora.special_tokens import appended_tokens
from registry.models.architecture import auto_class
from registry.models.base import Base, skeleton_of
from registry.models.hub import HubUnavailable
from registry.models.loading import load_tokenizer
from registry.models.projections import MatchedModules
from registry.planning.fingerprints import changed_scoring, changed_training
from registry.recipes.maker import maker_of

if TYPE_CHECKING:
    pass

__all__ = ["PLAIN", "BaseFacts", "base_facts", "reached_layers"]

#: In place of a chat template's header where questions are asked without one.
PLAIN = "plain"


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
    loader
        Name of the class of transformers that loads it.
    training, scoring
        What decides trainings and scores because earlier versions computed it wrongly; see `fingerprints`.
    """

    ends_texts: bool = False
    chat_header: str = PLAIN
    dated: bool = False
    matched: MatchedModules | None = None
    loader: str = "AutoModelForCausalLM"
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
    model = base.skeleton()
    matched = maker_of(study).matched(model, base.name)
    lengths = study.recipe.max_length
    return BaseFacts(
        bool(appended_tokens(tokenizer)),
        header,
        dated,
        matched,
        auto_class(model.config, base.name).__name__,
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
    try:
        model = skeleton_of(spec, trust_remote_code=study.trust_remote_code)
    except HubUnavailable:
        return None
    return maker_of(study).matched(model, spec.name)
