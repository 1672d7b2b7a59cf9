"""Where the numbers of a report come from: the adapters of a study, with their runs and model versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit, urlunsplit

import pandas as pd

from registry.cells import Regime
from registry.tracking.columns import ADAPTER

__all__ = ["ADAPTER_COLUMNS", "Origin", "adapters"]

_KEY = [*ADAPTER, "seed"]
ADAPTER_COLUMNS = [*_KEY, "n_targets", "mt_ml", "transfer_mean", "run_id", "model_version", "run_url", "model_url"]


@dataclass(frozen=True)
class Origin:
    """The experiment a study was read from.

    Attributes
    ----------
    store
        Address of the tracking server.
    experiment
        Id of the experiment in it; empty where it is not known.
    recipe
        How the adapters were trained, by parameter; what differs between runs has all its values.
    """

    store: str = ""
    experiment: str = ""
    recipe: Mapping[str, str] = field(default_factory=dict)

    @property
    def page(self) -> str:
        """Address of the server's pages without any user name; empty unless it is a web server's."""
        parts = urlsplit(self.store)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return ""
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")).rstrip("/")

    def experiment_url(self) -> str:
        """Return the address of the experiment's table of runs, empty if there is none."""
        return f"{self.page}/#/experiments/{quote(self.experiment, safe='')}/runs" if self._linked else ""

    def run_url(self, run_id: str) -> str:
        """Return the address of a run, empty if there is none."""
        if not self._linked or not run_id:
            return ""
        return f"{self.page}/#/experiments/{quote(self.experiment, safe='')}/runs/{quote(run_id, safe='')}"

    def model_url(self, model_version: str) -> str:
        """Return the address of a registered model's version, given as ``name/version``; empty if there is none."""
        name, _, version = model_version.rpartition("/")
        if not self.page or not name:
            return ""
        return f"{self.page}/#/models/{quote(name, safe='')}/versions/{quote(version, safe='')}"

    @property
    def _linked(self) -> bool:
        return bool(self.page and self.experiment)


def adapters(observations: pd.DataFrame, origin: Origin) -> pd.DataFrame:
    """List every adapter with the run that evaluated it and its registered version.

    Returns
    -------
    DataFrame
        `ADAPTER_COLUMNS`, one row per (model, source, seed): ``n_targets``, its delta on its own cell and its mean
        delta over transfer targets (pp), ids, and addresses where the store has pages. An adapter whose targets were
        evaluated in several runs has those ids, separated by spaces, and the address of the first.
    """
    grouped = observations.groupby(_KEY, sort=True)
    own = observations["regime"] == str(Regime.MT_ML)
    table = grouped.agg(
        n_targets=("delta", "size"),
        run_id=("run_id", lambda ids: " ".join(dict.fromkeys(map(str, ids)))),
        model_version=("model_version", "first"),
    )
    table["mt_ml"] = observations[own].groupby(_KEY)["delta"].mean()
    table["transfer_mean"] = observations[~own].groupby(_KEY)["delta"].mean()
    table["run_url"] = [origin.run_url(ids.split(" ")[0]) for ids in table["run_id"]]
    table["model_url"] = [origin.model_url(str(version)) for version in table["model_version"]]
    return table.reset_index()[ADAPTER_COLUMNS]
