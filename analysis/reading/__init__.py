"""What a study's finished runs recorded, read from the tracking server once and kept on this machine."""
