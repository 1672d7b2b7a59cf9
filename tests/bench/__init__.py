"""Benchmarks against the reference pipelines; started by ``make bench-scoring`` and ``make bench-training``.

Each program runs the reference and this project's engine in turn, in child processes on the same random model and the
same texts, checks first that both give the same numbers, and ends with the ratio of the medians. On a CPU the unit is
CPU seconds on one thread (other work on the machine then changes little), on a GPU wall seconds.
"""
