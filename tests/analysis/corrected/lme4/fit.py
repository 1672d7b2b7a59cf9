"""Runs lme4 on the frames: ``python -m tests.analysis.corrected.lme4.fit`` writes ``fits.json`` anew."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.analysis.corrected.lme4.frames import FRAMES, frame

HERE = Path(__file__).parent
FITS = HERE / "fits.json"

INSTALL = "R with lme4 and jsonlite is not installed (Debian: apt-get install r-cran-lme4 r-cran-jsonlite)"


def has_lme4() -> bool:
    """Whether this machine can run the script."""
    if shutil.which("Rscript") is None:
        return False
    asked = "q(status = !(requireNamespace('lme4', quietly = TRUE) && requireNamespace('jsonlite', quietly = TRUE)))"
    return subprocess.run(["Rscript", "-e", asked], capture_output=True, check=False).returncode == 0


def fit(folder: Path) -> dict[str, Any]:
    """Write the frames into a folder, fit them with lme4 and return what it found, by frame."""
    for name, planted in FRAMES.items():
        cells = frame(planted)
        for end in ("source", "target"):
            cells[end] = cells[f"{end}_task"] + "/" + cells[f"{end}_language"]
        cells[["model", "source", "target", "delta"]].to_csv(folder / f"{name}.csv", index=False)
    found = folder / "fits.json"
    subprocess.run(["Rscript", str(HERE / "fit.R"), str(folder), str(found)], check=True)
    fits: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    return fits


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        FITS.write_text(json.dumps(fit(Path(name)), indent=1) + "\n", encoding="utf-8")
