"""How adapters are made: each way is a :class:`registry.recipes.maker.Maker`."""
