"""A store's database without open connections, so that its file can be copied, replaced or deleted."""

from __future__ import annotations

import gc

from mlflow import MlflowClient
from sqlalchemy import Engine, make_url


def close_store(client: MlflowClient) -> None:
    """Close this process's connections to a client's database; the next call opens new ones.

    MLflow has no public way to do so, hence the search for SQLAlchemy's engines among the objects of this process.
    """
    address = make_url(client.tracking_uri)
    for one in gc.get_objects():
        if issubclass(type(one), Engine) and one.url == address:
            one.dispose()
