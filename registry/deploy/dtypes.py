"""Data types that a merged model may be written in."""

from __future__ import annotations

from typing import Literal

__all__ = ["Dtype"]

Dtype = Literal["float32", "bfloat16", "float16"]
