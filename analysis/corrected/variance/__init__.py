"""Where the variance of deltas lies."""
