"""What earlier versions recorded of the built-in study is found again: the same fingerprints, names and tags."""

from __future__ import annotations

import hashlib

from registry.config.files import load_study
from registry.planning.experiment import Job, prepare
from registry.tracking.names import Kind, registered_model

#: SHA-256 over a line for each run that version 0.1 recorded of the study ``demo``, as :func:`lines` has them.
RECORDED = "5dadce14de3af8fa5454b861cfabc09c7288a49ed88e7b2be1ab807a7723e411"


def lines(job: Job) -> list[str]:
    """Kind, fingerprint, base model, source cell, seed and registered model of each of a job's runs."""
    if job.source is None:
        return [f"{Kind.BASELINE} {job.evaluate} {job.model}"]
    tags = job.source.tags
    about = f"{job.model} {tags['source_task']} {tags['source_language']} {job.seed}"
    about += f" {registered_model(job.model, job.source)}"
    return [f"{Kind.FINETUNE} {job.finetune} {about}", f"{Kind.EVALUATE} {job.evaluate} {about}"]


def digest(found: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


def test_the_runs_of_the_built_in_study_are_those_that_were_recorded() -> None:
    jobs = prepare(load_study("demo")).jobs()
    assert len(jobs) == 130
    assert digest([line for job in jobs for line in lines(job)]) == RECORDED
