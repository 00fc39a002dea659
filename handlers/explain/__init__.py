"""Explanations: which pixels speak for a label."""
