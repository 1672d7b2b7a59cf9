"""Benchmarks published on the Hugging Face hub."""
