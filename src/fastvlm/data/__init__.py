"""Training samples: where pictures and their questions come from."""
