"""What of the questions is computed together: which beginnings of contexts are shared, and which rows a batch takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from registry.lora.tokens import Continuations

__all__ = ["SAVED_TOKENS", "Row", "question_rows", "split"]

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
    """

    question: int
    prefix: tuple[int, ...]
    context: tuple[int, ...]
    options: tuple[tuple[int, tuple[int, ...]], ...]

    def __len__(self) -> int:
        # An option's last token is only predicted, never an input.
        return len(self.context) + sum(len(tokens) - 1 for _, tokens in self.options)


def question_rows(
    queries: Sequence[Continuations], *, max_length: int, siblings: bool = True, worth: int | None = None
) -> list[Row]:
    """Choose what is computed together: one row per question, behind the beginning that many questions share.

    Parameters
    ----------
    max_length : int
        Longest input in tokens. A question with a longer option is split into a row per option, each cut from the
        left as lm-evaluation-harness does.
    siblings : bool
        Whether the options of a question share its context, and questions a beginning; else each option has a row.
    worth : int, optional
        Tokens that a shared beginning must save to be computed apart; by default `SAVED_TOKENS`.

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
        longest = len(query.context) + max(len(option) for option in query.options) - 1
        if siblings and longest <= max_length:
            whole.append(index)
            continue
        for number, option in enumerate(query.options):
            keep = max_length + 1 - len(option)
            if keep < 1:
                raise ValueError(f"an option of {len(option)} tokens does not fit a model of {max_length} positions")
            rows.append(Row(index, (), query.context[-keep:], ((number, option),)))
    whole.sort(key=lambda index: queries[index].context)
    for indices, shared in _sharing([queries[index].context for index in whole], worth or SAVED_TOKENS):
        for index in (whole[place] for place in indices):
            query = queries[index]
            rows.append(Row(index, query.context[:shared], query.context[shared:], tuple(enumerate(query.options))))
    return sorted(rows, key=lambda row: (len(row.prefix), row.prefix, -len(row), row.question))


def _sharing(contexts: Sequence[tuple[int, ...]], least: int) -> list[tuple[list[int], int]]:
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
    """Divide rows into batches of one prefix each and at most ``tokens_per_batch`` tokens, but at least one row."""
    batches: list[list[Row]] = []
    tokens = 0
    for row in rows:
        if not batches or batches[-1][-1].prefix != row.prefix or tokens + len(row) > tokens_per_batch:
            batches.append([])
            tokens = 0
        batches[-1].append(row)
        tokens += len(row)
    return batches
