"""The model hub: which commit a name stands for, which of its files are cached here, and its errors as refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.errors import Refused
from registry.models.weight_files import CONFIG, decides, weight_files

__all__ = ["GatedRepository", "HubUnavailable", "Listing", "cached_weights", "commit_of", "listing", "offline"]


class HubUnavailable(Refused):
    """Something is only on the hub, and the hub cannot be reached or offline mode is on.

    Attributes
    ----------
    reason : str
        Why the hub cannot be reached, without saying for what.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class GatedRepository(Refused):
    """A model or data set whose licence has to be accepted first."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A base's repository as the hub lists it.

    Attributes
    ----------
    weights : bool
        Whether it holds weights in safetensors.
    missing : mapping of file name to bytes
        What loading the base would have to download.
    """

    weights: bool
    missing: Mapping[str, int]


@contextmanager
def offline() -> Iterator[None]:
    """Leave the hub alone for a while: what is not cached is :class:`HubUnavailable`."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def commit_of(name: str, revision: str | None) -> str:
    """Return the commit that a revision stands for, from the hub or from its cache.

    Raises
    ------
    Refused
        If the model is not on the hub, has no such revision, is gated, or is not at hand.
    """
    from huggingface_hub import snapshot_download

    with hub_errors(f"model {name!r}", revision=revision):
        return Path(snapshot_download(name, revision=revision, allow_patterns=["config.json"])).name


def listing(name: str, revision: str | None) -> Listing:
    """Ask the hub whether a base may be downloaded from here, and what of it is not cached yet.

    Downloaded is the index of the weights, a few kilobytes, of a base whose weights are in several files.

    Raises
    ------
    Refused
        As :func:`commit_of`.
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    api = HfApi()
    with hub_errors(f"model {name!r}", revision=revision):
        api.auth_check(name)
        info = api.model_info(name, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}

        def read(file: str) -> str | None:
            path = try_to_load_from_cache(name, file, revision=info.sha)
            if not isinstance(path, str):
                if file not in sizes or file == CONFIG:
                    return None
                path = hf_hub_download(name, file, revision=info.sha)
            return Path(path).read_text(encoding="utf-8")

        weights = _weights(name, read, sizes.__contains__)
    missing = {
        file: size
        for file, size in sizes.items()
        if (file in weights or ("/" not in file and decides(file)))
        and not isinstance(try_to_load_from_cache(name, file, revision=info.sha), str)
    }
    return Listing(bool(weights), missing)


def cached_weights(name: str, revision: str | None) -> list[Path]:
    """Return the weight files of a base that the cache holds whole, none where any is wanting."""
    from huggingface_hub import try_to_load_from_cache

    def cached(file: str) -> Path | None:
        found = try_to_load_from_cache(name, file, revision=revision)
        return Path(found) if isinstance(found, str) else None

    def read(file: str) -> str | None:
        path = cached(file)
        return None if path is None else path.read_text(encoding="utf-8")

    paths = [cached(file) for file in _weights(name, read, lambda file: cached(file) is not None)]
    there = [path for path in paths if path is not None]
    return there if len(there) == len(paths) else []


def _weights(name: str, read: Callable[[str], str | None], has: Callable[[str], bool]) -> tuple[str, ...]:
    try:
        return weight_files(read, has)
    except ValueError as error:
        raise Refused(f"model {name!r}: its weights cannot be found: {error}") from None


# --- errors of huggingface_hub, in words


@contextmanager
def hub_errors(what: str, *, revision: str | None = None, remedy: str = "", writing: bool = False) -> Iterator[None]:
    """Turn the errors of huggingface_hub into one that says what the user can do.

    Parameters
    ----------
    what : str
        What is read or written, as the beginning of the message: "model 'owner/name'".
    remedy : str
        What else helps, at the end of the message.
    writing : bool
        Whether the repository is written to, which needs a token with that right.

    Raises
    ------
    GatedRepository
        If the licence has to be accepted first.
    HubUnavailable
        If the hub cannot be reached, or offline mode is on, and the cache does not have it.
    Refused
        If there is no such repository or revision, or the token does not allow it.
    """
    import httpx2  # huggingface_hub's HTTP client, whose errors it passes on
    from huggingface_hub import constants, errors

    end = f"; {remedy}" if remedy else ""
    try:
        yield
    except Refused:
        raise
    except errors.GatedRepoError:
        login = "accept its licence on the hub, then run `hf auth login` or set HF_TOKEN"
        raise GatedRepository(f"{what} is gated: {login}{end}") from None
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:  # a file that is not cached is an OSError
        response = getattr(error, "response", None)
        status = 0 if response is None else response.status_code
        if writing and status in (401, 403):
            reason = "does not accept the token" if status == 401 else "does not let this token write there"
            login = "make a token with write access, then run `hf auth login` or set HF_TOKEN"
            raise Refused(f"{what}: the hub {reason} (HTTP {status}); {login}{end}") from None
        if isinstance(error, errors.RepositoryNotFoundError):
            raise Refused(f"{what} is not on the hub (or is private: set HF_TOKEN){end}") from None
        if isinstance(error, errors.RevisionNotFoundError):
            raise Refused(f"{what} has no revision {revision!r} on the hub{end}") from None
        reason = _first_sentence(error)
        if writing:
            raise Refused(f"{what}: the upload failed ({reason}){end}") from None
        if constants.is_offline_mode():
            place = f"is not in the hub's cache ({constants.HF_HUB_CACHE}), or not all of it, and offline mode is on"
            raise HubUnavailable(f"{what} {place}{end}", reason="offline mode is on") from None
        message = f"{what}: the hub cannot be reached and its cache does not hold it ({reason}){end}"
        raise HubUnavailable(message, reason=reason) from None


def _first_sentence(error: Exception) -> str:
    """Return the first sentence of a message; huggingface_hub goes on with advice on its own arguments."""
    text = str(error.__cause__ or error).strip()
    return text.split("\n")[0].split(". ")[0].rstrip(".") or type(error).__name__
