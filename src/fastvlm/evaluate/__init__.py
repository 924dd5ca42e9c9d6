"""Measuring answers: tasks and their reports."""
