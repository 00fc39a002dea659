"""Labelled images: records, tables, checks and converters."""
