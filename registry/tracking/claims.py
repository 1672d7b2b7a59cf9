"""Claims: of all the runners on one store, one at a time works on a fingerprint.

MLflow has no compare-and-set on runs, and clocks of several machines differ. What it does have is the number of a
model version: the store gives each new version of a registered model the next one, under a unique key, and never gives
a number twice, not even after a deletion. So the versions of one registered model are a log on whose order all agree,
in SQLite, PostgreSQL and behind a server alike. Each experiment has such a log, and a claim is a version in it:

1. A runner appends a claim on a fingerprint, then reads the log. Asked again for one that another held, it reads first.
2. It holds the fingerprint if no live claim of a smaller number is on it; otherwise it withdraws its own.

Whoever gets a number finds every smaller one in the log already, so of two claims the later always sees the earlier,
and at most one of those made at once stays. A runner asks what is finished only after it holds the fingerprint, and
lets go only after its run is FINISHED: nothing is done twice.

A holder changes the heartbeat of its claims every few seconds. On this machine a claim is dead when its process is
gone; elsewhere when its heartbeat was watched for 90 seconds by this process's own monotonic clock and did not change.
No clock is compared with another. Taking over is claiming again, with the dead ignored; if two do so at once, the
smaller number decides as above. A runner that was only asleep finds its claim deleted and gives up before its run is
FINISHED. What no lease can rule out: one that falls asleep for as long as its successor takes, between that look and
the end of its run, leaves a second run with the same result.

Rejected: an election by (start time, run id) among runs, since a clock that is behind wins late; a parameter of a
shared run, written once, since that run needs an election itself and its parameters would be columns of MLflow's run
table; a registered model per fingerprint, since its deletion opens the name again to one who is late.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from registry.process import defer_signals
from registry.tracking.client import existing
from registry.tracking.liveness import (
    BEAT_SECONDS,
    STALE_SECONDS,
    Heartbeat,
    HeartbeatWatch,
    process_is_here,
    worker_identity,
)
from registry.tracking.names import Tag
from registry.tracking.runs import Superseded

__all__ = ["Claim", "Claims", "TakenElsewhere", "Unmeasured", "claims_model", "drop_claims"]

_ATTEMPTS = 12  # MLflow itself gives up after three collisions on a number
_SOURCE = "claim:/none"  # a version needs an address; this scheme no server looks into, and nothing is stored there
_DESCRIPTION = (
    "Which fingerprints of an experiment are being worked on now, so that no two runners do the same. A version is "
    "there as long as its job runs; nothing here is a model. It may be deleted when no study is running."
)


def claims_model(experiment_id: str) -> str:
    """Name of the registered model whose versions are the claims of an experiment."""
    return f"claims--experiment-{experiment_id}"


def drop_claims(client: MlflowClient, experiment_id: str, workers: Collection[str]) -> None:
    """Drop the claims of processes, by their tag ``worker``, that are known to be gone, wherever they ran.

    One that runs on all the same finds its claim gone before its run is FINISHED, and gives up.
    """
    model = claims_model(experiment_id)
    for found in client.search_model_versions(f"name = '{model}'", max_results=10_000):
        if found.tags.get(Tag.WORKER) in workers:
            existing(client.delete_model_version, model, found.version)


@dataclass(eq=False)
class Claim:
    """A fingerprint that this process holds."""

    fingerprint: str
    number: int
    beats: int = 0
    _claims: Claims = field(repr=False, kw_only=True)

    def confirm(self) -> None:
        """See that the claim still stands, before what it guards becomes visible.

        Raises
        ------
        Superseded
            If this process was silent for so long that another took the fingerprint over.
        """
        if not self._claims.beat(self):
            raise Superseded(f"{self.fingerprint}: this process was silent too long, and another took the job over")

    def release(self) -> None:
        """Let others have the fingerprint; a second call does nothing."""
        self._claims.release(self)


class Claims:
    """What this process holds of an experiment, and what it has seen of others' claims.

    Parameters
    ----------
    beat_seconds, stale_seconds : float
        Seconds between two heartbeats, and seconds without one after which a claim from another machine is dead.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        *,
        beat_seconds: float = BEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self._client = client
        self._model = claims_model(experiment_id)
        self._heartbeat = Heartbeat(self._beat_all, seconds=beat_seconds, needed=self._is_needed)
        self._watch = HeartbeatWatch(stale_seconds, longest_gap=stale_seconds / 3)
        self._owner = uuid.uuid4().hex
        self._held: set[Claim] = set()
        self._others: set[str] = set()  # fingerprints that others were seen to hold
        self._undeleted: set[int] = set()  # numbers whose deletion the store did not take yet
        self._lock = threading.Lock()
        self._ready = False

    def take(self, fingerprint: str) -> Claim | None:
        """Claim a fingerprint; None where another runner holds it."""
        if fingerprint in self._others and self.is_taken(fingerprint):
            return None
        with defer_signals():  # a claim that was made and is not known here would keep others waiting
            claim = self._taken(fingerprint)
        if claim is not None:
            self._heartbeat.start()
        return claim

    def _taken(self, fingerprint: str) -> Claim | None:
        number = self._append(fingerprint)
        try:
            earlier = [found for found in self._log(fingerprint) if int(found.version) < number]
            dead = [found for found in earlier if self._dead(found)]
            if len(dead) < len(earlier):
                self._others.add(fingerprint)
                self._delete(number)
                return None
            for found in dead:  # so that whoever was only asleep learns of it
                self._delete(int(found.version))
        except BaseException:
            self._delete(number)  # the store is away: what was appended would keep others waiting
            raise
        claim = Claim(fingerprint, number, _claims=self)
        with self._lock:
            self._held.add(claim)
        return claim

    def is_taken(self, fingerprint: str) -> bool:
        """Whether any runner holds a fingerprint, as far as this process can tell."""
        return any(not self._dead(found) for found in self._log(fingerprint))

    @contextmanager
    def taken(self, fingerprints: Iterable[str]) -> Iterator[dict[str, Claim]]:
        """Claim what is free of several fingerprints, and let go of what is still held at the end."""
        claims: dict[str, Claim] = {}
        try:
            for fingerprint in fingerprints:
                with defer_signals():
                    if claim := self.take(fingerprint):
                        claims[fingerprint] = claim
            yield claims
        finally:
            for claim in claims.values():
                claim.release()

    def beat(self, claim: Claim) -> bool:
        """Show that a claim's holder lives; False where the claim is gone."""
        claim.beats += 1
        try:
            self._client.set_model_version_tag(self._model, str(claim.number), Tag.HEARTBEAT, str(claim.beats))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def release(self, claim: Claim) -> None:
        """Let go of a claim; if the store cannot be reached, this is repeated later."""
        with defer_signals():
            with self._lock:
                if claim not in self._held:
                    return
                self._held.discard(claim)
            self._delete(claim.number)

    def _log(self, fingerprint: str) -> list[ModelVersion]:
        wanted = f"name = '{self._model}' AND tags.{Tag.FINGERPRINT} = '{fingerprint}'"
        return list(self._client.search_model_versions(wanted, max_results=1000))

    def _dead(self, found: ModelVersion) -> bool:
        """Whether the holder of a claim is gone, or the claim is one of ours that no one uses."""
        if found.tags.get(Tag.CLAIMANT) == self._owner:
            # A request whose answer was lost is made again: the first left a claim that this process knows nothing of.
            with self._lock:
                return int(found.version) not in {claim.number for claim in self._held}
        here = process_is_here(found.tags.get(Tag.WORKER, ""))
        if here is not None:
            return not here
        return self._watch.has_stopped(int(found.version), found.tags.get(Tag.HEARTBEAT, ""))

    def _append(self, fingerprint: str) -> int:
        tags = {
            Tag.FINGERPRINT: fingerprint,
            Tag.CLAIMANT: self._owner,
            Tag.WORKER: worker_identity(),
            Tag.HEARTBEAT: "0",
        }
        self._ensure_log()
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                made = self._client.create_model_version(self._model, _SOURCE, tags=tags, await_creation_for=0)
                return int(made.version)
            except MlflowException as error:
                if not attempts_left or "creation error" not in str(error):  # MLflow has no code of its own for it
                    raise
        raise AssertionError("unreachable")

    def _ensure_log(self) -> None:
        if self._ready:
            return
        try:
            self._client.create_registered_model(self._model, description=_DESCRIPTION)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        self._ready = True

    def _delete(self, number: int) -> None:
        try:
            existing(self._client.delete_model_version, self._model, str(number))
        except MlflowException:
            with self._lock:
                self._undeleted.add(number)
            self._heartbeat.start()

    def _is_needed(self) -> bool:
        with self._lock:
            return bool(self._held or self._undeleted)

    def _beat_all(self) -> None:
        """Beat for every claim that is held, and repeat the deletions that did not reach the store."""
        with self._lock:
            held, undeleted = list(self._held), list(self._undeleted)
            self._undeleted.clear()
        for number in undeleted:
            self._delete(number)
        for claim in held:
            with suppress(MlflowException):
                self.beat(claim)


# --- why a job was not done: another runner has it


class TakenElsewhere(RuntimeError):
    """Another runner does this job."""


class Unmeasured(Superseded):
    """An adapter was scored, and whoever scored the baseline to measure it against is gone; its run ends as KILLED."""
