"""Files on disk: written whole or not at all, and the two files of an adapter."""
