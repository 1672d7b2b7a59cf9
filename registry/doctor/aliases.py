"""Aliases of a study's adapters, held against the promotions that are recorded of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from registry.deploy.alias_history import AliasDifference, complete, differences, promotions, unfinished_claims
from registry.deploy.versions import registered
from registry.doctor.findings import Finding, good, note, wrong
from registry.doctor.records import StudyRecords
from registry.errors import Refused

__all__ = ["check_aliases"]


def check_aliases(records: StudyRecords) -> Iterator[Finding]:
    """Find aliases that stand elsewhere than promotions say, and promotions that never took place."""
    aliases = _aliases(records)
    runs = promotions(records.client)
    found = differences(aliases, runs)
    claims = unfinished_claims(records.versions, aliases, runs)
    moved = [one for one in found if one.run is not None]
    astray = [one for one in found if one.run is None and one.known]
    by_hand = [one for one in found if one.run is None and not one.known]
    if moved:
        yield wrong(
            f"{len(moved)} aliases were moved by a command that was interrupted before it recorded that",
            f"mlflow run . -e doctor --env-manager local -P study={records.study} -P repair=true",
            places=[f"{_words(one)}, run {one.run.info.run_id}" for one in moved if one.run is not None],
            repair=lambda: _complete(records, moved),
        )
    for one in astray:
        yield wrong(
            f"alias {one.alias} stands elsewhere than its recorded promotions say",
            _promote(records, one.name, one.recorded or one.stands or "", one.alias),
            places=[_words(one)],
        )
    for version, alias in claims:
        yield wrong(
            f"a version says that it passed for alias {alias}, by a run that never finished, and does not carry it",
            _promote(records, version.name, str(version.version), alias),
            places=[f"{version.name}/{version.version}"],
        )
    if by_hand:
        yield note(f"{len(by_hand)} aliases were set by no promotion", places=[_words(one) for one in by_hand])
    if aliases and not (moved or astray or claims):
        count = sum(map(len, aliases.values()))
        yield good(f"{count} aliases stand where the recorded promotions put them" if count else "no alias is set")


def _aliases(records: StudyRecords) -> dict[str, dict[str, str]]:
    """Return the aliases of every registered name that has versions of the study."""
    found: dict[str, dict[str, str]] = {}
    for name in sorted({version.name for version in records.versions}):
        try:
            there = registered(records.client, name).aliases
        except Refused:  # deleted since the versions were read
            continue
        found[name] = {alias: str(version) for alias, version in there.items()}
    return found


def _words(one: AliasDifference) -> str:
    stands, recorded = (f"version {at}" if at else "no version" for at in (one.stands, one.recorded))
    return f"{one.name}: {one.alias} is carried by {stands}, recorded is {recorded}"


def _promote(records: StudyRecords, name: str, version: str, alias: str) -> str:
    return (
        f"mlflow run . -e promote --env-manager local -P study={records.study} -P name={name} -P version={version} "
        f"-P alias={alias}"
    )


def _complete(records: StudyRecords, moved: Sequence[AliasDifference]) -> str:
    runs = {one.run.info.run_id: one.run for one in moved if one.run is not None}
    for run in runs.values():
        complete(records.client, run)
    return f"the records of {len(runs)} runs are completed"
