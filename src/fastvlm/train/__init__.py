"""Training: `scratch/` makes nano from nothing."""
