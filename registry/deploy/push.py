"""A pulled folder uploaded to the hub, in one commit."""

from __future__ import annotations

import glob
from pathlib import Path

from registry.deploy.folder import MANIFEST, pulled_files
from registry.errors import Refused
from registry.models.hub import hub_errors

__all__ = ["check_repository", "push"]


def check_repository(name: str) -> None:
    """Refuse what is no name of a repository, ``owner/name``.

    Raises
    ------
    Refused
        With the reason.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise Refused(f"push={name}: {str(error).splitlines()[0]}") from None
    if name.count("/") != 1:
        raise Refused(f"push={name} is no repository: write owner/name")


def push(folder: Path, name: str, *, private: bool) -> str:
    """Upload a pulled folder's files to a model repository, made if it is new, and return the commit's address.

    What anybody else put there is not uploaded.

    Parameters
    ----------
    private
        Whether a new repository is private; one that is there stays as it is.

    Raises
    ------
    Refused
        If the hub does not let us, or cannot be reached.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=constants.ENDPOINT)
    with hub_errors(f"push={name}", remedy=f"the folder stays in {folder}", writing=True):
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=f"Upload {folder.name}",
            allow_patterns=[glob.escape(name) for name in pulled_files(folder)] or None,
            ignore_patterns=[MANIFEST],
        )
    return str(done.commit_url)
