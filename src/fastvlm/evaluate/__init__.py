"""Measuring answers: tasks, scores, intervals."""
