"""Whether items that share an id are translations of one another, and whether two ids are one question.

The former as far as answers and numbers of options tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from registry.benchmarks.items import Item
from registry.benchmarks.splits import SPLITS, Pools, Split, SplitManifest, shown, warn
from registry.cells import Cell
from registry.errors import Refused

__all__ = ["agreeing", "check_disjoint", "disjoint", "settle"]

_Languages = Mapping[str, Mapping[str, Item]]


def agreeing(task: str, pools: Pools) -> Pools:
    """Return the pools without the ids whose translations have another answer or number of options."""
    kept: dict[Split, _Languages] = {}
    for split, languages in pools.items():
        common = set.intersection(*(set(items) for items in languages.values()))
        wrong = set().union(*_differing(languages, sorted(common)).values())
        if wrong:
            warn(f"{task} {split}: {_message(wrong, len(common))} and are left out of every language")
        kept[split] = {
            language: {id: item for id, item in items.items() if id not in wrong}
            for language, items in languages.items()
        }
    return kept


def settle(
    task: str, pools: Pools, manifest: SplitManifest, differing: Literal["refuse", "drop", "allow"], *, numbered: bool
) -> SplitManifest:
    """Refuse, drop or allow the chosen ids whose translations have another answer or number of options.

    Parameters
    ----------
    numbered
        Whether the ids only number the rows.

    Raises
    ------
    Refused
        If there are such ids and they are neither to be dropped nor allowed: one of the sources is wrong.
    """
    kept: dict[Split, tuple[str, ...]] = {}
    for split in SPLITS:
        ids = manifest.ids(split)
        found = _differing(pools[split], ids)
        wrong = set().union(*found.values())
        if wrong and differing == "refuse":
            raise _refusal(f"{task} {split}", next(iter(pools[split])), found)
        if wrong:
            warn(f"{task} {split}: {_message(wrong, len(ids))}{_consequence(differing, numbered)}")
        kept[split] = tuple(id for id in ids if id not in wrong) if differing == "drop" else ids
        if not kept[split]:
            raise Refused(f"{task} {split}: no items are left; say split.differing: allow to use them as they are")
    return SplitManifest(**kept)


def _differing(languages: _Languages, ids: Iterable[str]) -> dict[str, list[str]]:
    """Return language → ids that have another answer or number of options there than in the first language."""
    ids, first = tuple(ids), next(iter(languages.values()))
    found = {
        language: [id for id in ids if _shape(items[id]) != _shape(first[id])] for language, items in languages.items()
    }
    return {language: wrong for language, wrong in found.items() if wrong}


def _shape(item: Item) -> tuple[int, int]:
    return len(item.options), item.answer


def _message(wrong: set[str], of: int) -> str:
    return f"{len(wrong)} of {of} ids have another answer or number of options in some language"


def _consequence(differing: str, numbered: bool) -> str:
    if differing == "drop":
        return " and are left out of every language"
    if not numbered:
        return ", as the study allows"
    why = "; they number rows, so these are different questions, and one may be trained on that is tested elsewhere"
    return f"{why}; they are used as published, split.differing: drop leaves them out"


def _refusal(where: str, first: str, found: Mapping[str, list[str]]) -> Refused:
    language, wrong = next(iter(found.items()))
    message = f"{where}: {len(wrong)} ids have another answer or number of options in {language} than in {first}"
    remedy = "correct the files, leave the ids out by a manifest or by split.differing: drop, or say allow"
    return Refused(f"{message}: {shown(wrong)}; {remedy}")


def disjoint(task: str, pools: Pools, *, one_pool: bool) -> Pools:
    """Return the pools without ids to train on that are, in any language, a question to test on under another id.

    Parameters
    ----------
    one_pool : bool
        Whether both splits offer the same items; of the ids that are one question, the first is then kept.
    """
    wrong: set[str] = set()
    for language, items in pools["train"].items():
        tested = set() if one_pool else {item.content for item in pools["test"][language].values()}
        for id, item in items.items():
            if item.content in tested:
                wrong.add(id)
            elif one_pool:
                tested.add(item.content)
    if not wrong:
        return pools
    warn(f"{task}: {len(wrong)} ids repeat the question of another id and are left out of every language")
    return {
        split: {
            language: {id: item for id, item in items.items() if id not in wrong or (split == "test" and not one_pool)}
            for language, items in languages.items()
        }
        for split, languages in pools.items()
    }


def check_disjoint(cell: Cell, train: tuple[Item, ...], test: tuple[Item, ...]) -> None:
    """Refuse a question with the same options in training and test, whatever its ids there.

    Raises
    ------
    Refused
        If there is one.
    """
    trained = {item.content: item.id for item in train}
    both = [f"{trained[item.content]} = {item.id}" for item in test if item.content in trained]
    if both:
        remedy = "leave them out by a manifest or by split.overlap: drop, or say allow"
        where = f"{cell}: {len(both)} questions are in training and in test (train id = test id)"
        raise Refused(f"{where}: {shown(both)}; {remedy}")
