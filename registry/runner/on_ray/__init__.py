"""Ray as the engine beyond one machine; importing this needs no Ray."""
