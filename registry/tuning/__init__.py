"""Searching for a recipe with Optuna: the items judged on, the objective, the search and its records."""
