"""What a search for a recipe varies, and what it looks for: the ``tune`` section of a study file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from registry.config.types import STRICT, Positive

__all__ = ["Dimension", "TuneSpace", "TuneSpec"]

# What a recipe takes: type, smallest value, and the value it must stay below.
_NUMBERS: dict[str, tuple[type, float, float]] = {
    "learning_rate": (float, 1e-12, float("inf")),
    "rank": (int, 1, float("inf")),
    "alpha": (float, 1e-12, float("inf")),
    "epochs": (int, 1, float("inf")),
    "batch_size": (int, 1, float("inf")),
    "dropout": (float, 0.0, 1.0),
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Dimension:
    """The values that one name of a recipe may take: a range from ``low`` to ``high``, or ``choices``.

    A study file writes choices as a list alone: ``rank: [4, 8, 16]``. One choice keeps the name fixed.

    Attributes
    ----------
    low
        Smallest value of a range.
    high
        Largest value of a range.
    log
        Whether a range is searched by orders of magnitude.
    choices
        The values, in place of a range.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.choices and (self.low is not None or self.high is not None or self.log):
            raise ValueError("give either a list of choices, or low and high")
        if self.choices:
            return
        if self.low is None or self.high is None:
            raise ValueError("a range needs low and high, such as {low: 1.0e-5, high: 1.0e-2, log: true}")
        if self.low >= self.high:
            raise ValueError(
                f"low {self.low:g} is not below high {self.high:g}; one value alone is a list: [{self.low:g}]"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range cannot begin at {self.low:g}; begin above 0, or leave log out")

    @property
    def values(self) -> tuple[Any, ...]:
        """The choices, or the ends of the range."""
        return self.choices or (self.low, self.high)


def _range(low: float, high: float, *, log: bool = False) -> Any:
    return Field(default_factory=lambda: Dimension(low=low, high=high, log=log))


def _choices(*values: object) -> Any:
    return Field(default_factory=lambda: Dimension(choices=values))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TuneSpace:
    """What is searched, each name a range or a list of choices; a name that a file leaves out is searched as here.

    Attributes
    ----------
    learning_rate, rank, alpha, epochs, batch_size, dropout
        As in ``recipe`` and ``recipe.lora``.
    targets
        The projections adapted, each choice a list of names.
    """

    learning_rate: Dimension = _range(1e-5, 1e-2, log=True)
    rank: Dimension = _choices(4, 8, 16, 32)
    alpha: Dimension = _choices(8.0, 16.0, 32.0, 64.0)
    epochs: Dimension = _range(1, 5)
    batch_size: Dimension = _choices(4, 8, 16)
    dropout: Dimension = _choices(0.0, 0.05, 0.1)
    targets: Dimension = _choices(
        ("q_proj", "v_proj"),
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    )

    def __post_init__(self) -> None:
        for name, (kind, least, below) in _NUMBERS.items():
            for value in getattr(self, name).values:
                _check_number(name, value, kind, least, below)
        for choice in self.targets.choices:
            named = isinstance(choice, list | tuple) and choice and all(isinstance(part, str) for part in choice)
            if not named:
                raise ValueError(f"targets: {choice!r} is no list of projections, such as [q_proj, v_proj]")
        if not self.targets.choices:
            raise ValueError("targets: projections have no range; give a list of lists, such as [[q_proj, v_proj]]")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TuneSpec:
    """How a recipe is searched for.

    Attributes
    ----------
    objective
        ``validation_loss`` minimises the mean over the sources. ``transfer`` maximises the gain on the source's task in
        other languages minus the harm to other tasks. See ``registry/tuning/objective.py``.
    harm_weight
        In ``transfer``: how much one point of harm to other tasks weighs against one point of gain.
    validation
        Share of each cell's *training* items on which trials are judged; test items are never read.
    sources
        Cells ``task/language`` that trials are trained on; empty takes the first source of each task.
    trials
        Trials in all, including those of earlier and of other processes.
    timeout
        Seconds after which a command starts no further trial; 0 for no limit.
    startup
        Trials drawn at random before Optuna's sampler takes over; also the finished trials that its pruner waits for.
    pruner
        ``median`` stops a trial that is worse than the median of the others at the same point; ``none`` stops none.
    space
        The values searched.
    """

    objective: Literal["validation_loss", "transfer"] = "validation_loss"
    harm_weight: Annotated[float, Field(ge=0)] = 1.0
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.25
    sources: tuple[str, ...] = ()
    trials: Positive = 20
    timeout: Annotated[float, Field(ge=0)] = 0.0
    startup: Annotated[int, Field(ge=0)] = 5
    pruner: Literal["median", "none"] = "median"
    space: TuneSpace = Field(default_factory=TuneSpace)


def _check_number(name: str, value: object, kind: type, least: float, below: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "; YAML reads 1e-5 as text: write 1.0e-5" if isinstance(value, str) else ""
        raise ValueError(f"{name}: {value!r} is not a number{hint}")
    if kind is int and value != int(value):
        raise ValueError(f"{name}: {value:g} is not a whole number")
    if not least <= value < below:
        limits = f"at least {least:g}" if below == float("inf") else f"at least {least:g} and below {below:g}"
        raise ValueError(f"{name}: {value:g} is out of what a recipe takes: {limits}")
