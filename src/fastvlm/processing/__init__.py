"""Bytes, words and messages to arrays and token ids, and back; numpy only, no torch."""
