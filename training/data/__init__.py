"""Labelled pictures: records, tables, checks and converters."""
