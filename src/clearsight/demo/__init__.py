"""Drawn fridge scenes with exact labels: images to try the product with before one has labelled images.

palette and artwork -> solids -> containers, clutter and interior -> scene (composition, light, camera) -> outlines
(labels) -> dataset (files).
"""
