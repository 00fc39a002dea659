"""Drawn fridge scenes with exact labels: images to try the product on before own data exist.

palette and artwork -> solids -> containers, clutter and interior -> scene (composition, light, camera) -> outlines
(labels) -> dataset (files).
"""
