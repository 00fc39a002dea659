"""The inputs of batch jobs: from what a user names to a stream of entries, and from an entry to the image.

A kind of input is a class with `entries` and `describe` (`source.Source`): folders and globs, lists and MLTables,
tables, archives. `opening.open_input` chooses the kind, `reader.EntryReader` reads the images.
"""
