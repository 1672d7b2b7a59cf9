"""Results measured elsewhere, read, checked and recorded as a study: tables and evaluation folders in, one run out.

>>> imported = read_source(Path("cells.csv"), staging=folder)
>>> run_id, reused = record_import(client, "published", imported)

Knows no torch. What `analysis.reading.frame` reads back is named in `registry.tracking.names.Artifact`.
"""

from __future__ import annotations

from registry.imports.imported import ImportedResults
from registry.imports.naming import read_families, study_name
from registry.imports.record import FORMATS, read_source, record_import, write_frame

__all__ = ["FORMATS", "ImportedResults", "read_families", "read_source", "record_import", "study_name", "write_frame"]
