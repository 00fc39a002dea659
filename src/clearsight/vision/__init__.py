"""Pure functions on arrays: preprocessing, boxes, masks. Without torch, and independent of file formats."""
