"""Torch-free tables: models, families of networks, explanation algorithms and their parameters."""
