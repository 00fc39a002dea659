"""Explanation algorithms of classifiers.

To add one: a row in `clearsight.catalogue.algorithms`, a function from `ExplainContext` to attributions, and its line
in `table`. The contract suite `clearsight.testing.algorithms` then runs on it; docs/35-explanations.md shows its row.
"""
