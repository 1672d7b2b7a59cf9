"""Quantities of a grid that need no model: uplift, matrices, groups, clustered errors, correlations."""
