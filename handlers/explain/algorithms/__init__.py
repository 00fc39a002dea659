"""Algorithms that explain: functions from an image and a network to attributions."""
