"""What is wrong with an environment, a store and a study's records, and the command that mends each of it."""
