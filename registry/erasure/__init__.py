"""Erasing for ever what a store, and this machine, hold of a study or of one registered version."""
