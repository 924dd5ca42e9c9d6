"""Answers and references to numbers: pure functions on plain text and numpy arrays."""
