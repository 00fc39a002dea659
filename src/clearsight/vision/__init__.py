"""Pure functions on arrays: preprocessing, boxes, masks. No torch here, and nothing that knows a file format."""
