"""A pulled folder uploaded to the hub, in one commit."""

from __future__ import annotations

import glob
from pathlib import Path

from registry.deploy.folder import MANIFEST, pulled_files
from registry.errors import Refused

__all__ = ["check_repository", "push"]

_LOGIN = "make a token with write access on the hub, then run `hf auth login` or set HF_TOKEN"


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
    import httpx2
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=constants.ENDPOINT)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=f"Upload {folder.name}",
            allow_patterns=[glob.escape(name) for name in pulled_files(folder)] or None,
            ignore_patterns=[MANIFEST],
        )
    except HfHubHTTPError as error:
        raise Refused(f"push={name}: {_explained(name, error)}; the folder stays in {folder}") from None
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise Refused(f"push={name}: the upload failed ({reason}); the folder stays in {folder}") from None
    return str(done.commit_url)


def _explained(name: str, error: Exception) -> str:
    """Say what the hub's answer means for who asked."""
    response = getattr(error, "response", None)
    status = response.status_code if response is not None else 0
    if status == 401:
        return f"the hub knows no valid token (HTTP 401); {_LOGIN}"
    if status == 403:
        owner = name.partition("/")[0]
        return f"the token may not write to {owner!r} (HTTP 403); {_LOGIN}, or push to an owner of yours"
    return str(error).strip().splitlines()[0]
