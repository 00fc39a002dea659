"""Batch jobs: every image of an input is scored exactly once, by a pool of processes, into one file of results.

inputs -> entries (the fixed list) -> plan -> controller -> workers -> parts -> results.
"""
