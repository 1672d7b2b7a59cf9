"""What a study of a given size can detect."""
