"""Base models: found, described, loaded."""
