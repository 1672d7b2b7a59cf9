"""What an experiment is, how it is run and how it is recorded."""
