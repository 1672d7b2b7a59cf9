"""Which questions are asked, and what came out."""
