"""How Parquet files are written and read: with a checksum of every page, so that a flipped bit gives no other number.

Files without checksums, of earlier versions and other programs, are read as they are.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CHECKED", "WITH_CHECKSUMS"]

#: For whatever writes through `pyarrow.parquet.write_table`, pandas too.
WITH_CHECKSUMS: Final = {"write_page_checksum": True}

#: For whatever reads through `pyarrow.parquet.read_table`; a page that does not fit its checksum raises OSError.
CHECKED: Final = {"page_checksum_verification": True}
