"""What of the questions is computed together: which beginnings of contexts are shared, and which rows a batch takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from registry.lora.encoding import Continuations

__all__ = ["SAVED_TOKENS", "Row", "question_rows", "side_of", "split"]

#: A shared beginning costs a pass of its own: on a CPU it is worth that from so many saved tokens on.
SAVED_TOKENS = 256

_LEVELS = 50  # beginnings within beginnings that are looked for


@dataclass(frozen=True, slots=True)
class Row:
    """A question before it is laid out: its context behind a shared beginning, and some of its options.

    Attributes
    ----------
    prefix : tuple of int
        Beginning of the context that other questions share, computed apart.
    context : tuple of int
        The rest of the context, never empty.
    options : tuple of (number, tokens)
    side : int
        How many of the model's switches the sequences are longer than; see
        :func:`registry.models.architecture.rope_switches`. Only rows of one side may be in a batch.
    cut : int
        Tokens that the context lost on its left to fit the model.
    """

    question: int
    prefix: tuple[int, ...]
    context: tuple[int, ...]
    options: tuple[tuple[int, tuple[int, ...]], ...]
    side: int = 0
    cut: int = 0

    def __len__(self) -> int:
        # An option's last token is only predicted, never an input.
        return len(self.context) + sum(len(tokens) - 1 for _, tokens in self.options)


def question_rows(
    queries: Sequence[Continuations],
    *,
    max_length: int,
    siblings: bool = True,
    worth: float | None = None,
    switches: Sequence[int] = (),
) -> list[Row]:
    """Choose what is computed together: one row per question, behind the beginning that many questions share.

    Parameters
    ----------
    max_length : int
        Longest input in tokens. A question with a longer option is split into a row per option, each cut from the
        left as lm-evaluation-harness does.
    siblings : bool
        Whether the options of a question share its context, and questions a beginning; else each option has a row.
    worth : float, optional
        Tokens that a shared beginning must save to be computed apart; by default `SAVED_TOKENS`. Infinity shares none.
    switches : sequence of int
        Lengths above which the model computes all positions of a sequence differently. A question whose options are on
        different sides of one is split into a row per option. A beginning is computed apart on its own, shorter, side,
        so longer sequences share none.

    Returns
    -------
    list of Row
        Those of one prefix together, the longest first, so that too little memory shows at once. A question with an
        option without tokens has none.

    Raises
    ------
    ValueError
        If an option alone is longer than ``max_length``.
    """
    whole: list[int] = []
    rows: list[Row] = []
    for index, query in enumerate(queries):
        if not query.scorable:
            continue
        lengths = [len(query.context) + len(option) - 1 for option in query.options]
        sides = {side_of(length, switches) for length in lengths}
        if siblings and max(lengths) <= max_length and len(sides) == 1:
            if sides == {0}:
                whole.append(index)
            else:
                rows.append(Row(index, (), query.context, tuple(enumerate(query.options)), side=max(sides)))
            continue
        for number, option in enumerate(query.options):
            keep = max_length + 1 - len(option)
            if keep < 1:
                raise ValueError(f"an option of {len(option)} tokens does not fit a model of {max_length} positions")
            context = query.context[-keep:]
            side, cut = side_of(len(context) + len(option) - 1, switches), len(query.context) - len(context)
            rows.append(Row(index, (), context, ((number, option),), side=side, cut=cut))
    whole.sort(key=lambda index: queries[index].context)
    least = SAVED_TOKENS if worth is None else worth
    for indices, shared in _sharing([queries[index].context for index in whole], least):
        for index in (whole[place] for place in indices):
            query = queries[index]
            rows.append(Row(index, query.context[:shared], query.context[shared:], tuple(enumerate(query.options))))
    return sorted(rows, key=lambda row: (row.side, len(row.prefix), row.prefix, -len(row), row.question))


def side_of(length: int, switches: Sequence[int]) -> int:
    """Return how many of a model's switches an input of ``length`` tokens is longer than."""
    return sum(length > switch for switch in switches)


def _sharing(contexts: Sequence[tuple[int, ...]], least: float) -> list[tuple[list[int], int]]:
    """Divide sorted contexts into groups by a common beginning; return each group's places and its length in tokens.

    A group inside another takes its members away where its longer beginning saves enough of their tokens.
    """
    groups: list[tuple[list[int], int]] = []

    def worth(saved: int, members: Sequence[int]) -> bool:
        return saved * (len(members) - 1) >= least

    def divide(places: range, depth: int, shared: int, level: int) -> list[int]:
        """Part contexts that agree up to ``depth``; return those that keep their ``shared`` first tokens."""
        left: list[int] = []
        for _, branch in groupby(places, key=lambda place: contexts[place][depth]):
            members = list(branch)
            # A context that ends here keeps its last token; shorter ones are sorted first.
            ended = [place for place in members if len(contexts[place]) == depth + 1]
            left += ended
            members = members[len(ended) :]
            if not members:
                continue
            common = _common(contexts[members[0]], contexts[members[-1]])
            inner = range(members[0], members[-1] + 1)
            if (
                common <= depth
                or level == _LEVELS
                or not worth(max(map(len, contexts[inner.start : inner.stop])), members)
            ):
                left += members
            elif worth(common - shared, members):
                rest = divide(inner, common, common, level + 1)
                if worth(common - shared, rest):
                    groups.append((rest, common))
                else:
                    left += rest
            else:
                left += divide(inner, common, shared, level + 1)
        return left

    groups.append((divide(range(len(contexts)), 0, 0, 0), 0))
    return groups


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Length of the common beginning of two contexts, short of the last token of either: a row keeps one."""
    limit = min(len(one), len(other)) - 1
    return next((place for place in range(limit) if one[place] != other[place]), limit)


def split(rows: Sequence[Row], tokens_per_batch: int) -> list[list[Row]]:
    """Divide rows into batches of one prefix and side each and at most ``tokens_per_batch`` tokens, but one row."""
    batches: list[list[Row]] = []
    tokens = 0
    for row in rows:
        last = batches[-1][-1] if batches else None
        fits = last is not None and tokens + len(row) <= tokens_per_batch
        if last is None or not fits or (last.side, last.prefix) != (row.side, row.prefix):
            batches.append([])
            tokens = 0
        batches[-1].append(row)
        tokens += len(row)
    return batches
