"""The built-in grid: four tasks in eight languages, and two tiny base models, all made by this project."""

from registry.benchmarks.demo.tasks import LANGUAGES, TASKS, items

__all__ = ["LANGUAGES", "TASKS", "items"]
