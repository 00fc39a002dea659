"""From request bodies to answers: decode, preprocess, run, suppress, encode."""
