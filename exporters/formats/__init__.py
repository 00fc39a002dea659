"""One module per format that a package is written in."""
