"""Cards of adapters: what each was made from, what it does and how to load it."""
