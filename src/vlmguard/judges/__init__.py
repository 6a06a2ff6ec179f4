"""Judges: who says whether an answer is safe, whether it helps, and whether a rewrite keeps what the user needs."""
