"""The model hub: which commit a name stands for, which of its files are cached here, and its errors as refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.errors import Refused
from registry.models.weight_files import CONFIG, decides, weight_files

__all__ = ["Gated", "Listing", "NotAtHand", "cached_weights", "commit_of", "listing", "offline"]


class NotAtHand(Refused):
    """Something lies on the hub alone, and the hub is out of reach or is not to be asked.

    Attributes
    ----------
    reason : str
        Why the hub cannot be asked, without saying for what.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class Gated(Refused):
    """A model whose licence has to be accepted first."""


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
    """Leave the hub alone for a while: what is not cached is :class:`NotAtHand`."""
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

    with _told(name, revision):
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
    with _told(name, revision):
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


@contextmanager
def _told(name: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's library raises into what a user can do about it."""
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except GatedRepoError:
        raise Gated(
            f"model {name!r} is gated: accept its licence on the hub, then run `hf auth login` or set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise Refused(f"model {name!r} is not on the hub (or is private: set HF_TOKEN)") from None
    except RevisionNotFoundError:
        raise Refused(f"model {name!r} has no revision {revision!r} on the hub") from None
    except (httpx2.HTTPError, OSError) as error:  # a file that is not cached is an OSError, too
        if constants.is_offline_mode():
            told = f"model {name!r} is not in the hub's cache ({constants.HF_HUB_CACHE})"
            raise NotAtHand(told, reason="offline mode is on") from None
        reason = _brief(error)
        raise NotAtHand(
            f"model {name!r}: the hub cannot be reached and its cache does not hold it ({reason})", reason=reason
        ) from None


def _brief(error: Exception) -> str:
    """Return the first sentence of a message; the hub's library goes on with advice on its own arguments."""
    return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".") or type(error).__name__
