"""Benchmarks: tasks → aligned items → prompts and options."""
