"""The model hub: which commit a name stands for, which of its files are cached here, and its errors as refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.refusal import Refused

__all__ = ["Gated", "Listing", "NotAtHand", "cached_weights", "commit_of", "listing", "offline"]

#: Files of a repository that loading a base reads: weights, configuration, tokenizer, chat template.
_READ = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")


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

    Raises
    ------
    Refused
        As :func:`commit_of`.
    """
    from fnmatch import fnmatch

    from huggingface_hub import HfApi, try_to_load_from_cache

    api = HfApi()
    with _told(name, revision):
        api.auth_check(name)
        info = api.model_info(name, revision=revision, files_metadata=True)
    # Only the top folder: some repositories hold the same weights again, in another form, in folders below.
    files = [
        file
        for file in info.siblings or []
        if "/" not in file.rfilename and any(fnmatch(file.rfilename, pattern) for pattern in _READ)
    ]
    missing = {
        file.rfilename: file.size or 0
        for file in files
        if not isinstance(try_to_load_from_cache(name, file.rfilename, revision=info.sha), str)
    }
    return Listing(any(file.rfilename.endswith(".safetensors") for file in files), missing)


def cached_weights(name: str, revision: str | None) -> list[Path]:
    """Return the weight files of a base that the cache holds whole, none where any is wanting."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(name, "model.safetensors.index.json", revision=revision)
    shards = {"model.safetensors"}
    if isinstance(index, str):
        shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    found = [try_to_load_from_cache(name, shard, revision=revision) for shard in sorted(shards)]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return paths if len(paths) == len(shards) else []


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
