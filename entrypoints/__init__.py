"""One thin file per entry point of the MLproject: arguments, one call into the library, where the result is."""
