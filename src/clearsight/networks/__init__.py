"""Networks by public name, and their pretrained weights."""
