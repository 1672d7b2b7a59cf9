"""Pieces of the queries that find versions and evaluations in a store."""

from __future__ import annotations

from mlflow import MlflowClient

from registry.refusal import Refused, unknown
from registry.tracking.store import pages

__all__ = ["experiments", "quoted", "studies"]


def quoted(text: str) -> str:
    """Quote a text for MLflow's filters, which know no escapes.

    Raises
    ------
    Refused
        If it holds both kinds of quotes.
    """
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    raise Refused(f"{text!r} holds both kinds of quotes, which the store cannot be asked for")


def experiments(client: MlflowClient, study: str = "") -> list[str]:
    """Return the ids of every experiment, or of one study's.

    Raises
    ------
    Refused
        If there is no such study.
    """
    return list(studies(client, study))


def studies(client: MlflowClient, study: str = "") -> dict[str, str]:
    """Return the name of every experiment, or of one study's, by its id.

    Raises
    ------
    Refused
        If there is no such study.
    """
    there = pages(lambda token: client.search_experiments(max_results=1000, page_token=token))
    found: dict[str, str] = {experiment.experiment_id: experiment.name for experiment in there}
    if not study:
        return found
    if study not in found.values():
        raise unknown("study", study, found.values(), where="the store")
    return {identity: name for identity, name in found.items() if name == study}
