"""Training of detectors and of instance segmentation: one objective for all, one object per family for what differs."""
