"""Answers drawn on images."""
