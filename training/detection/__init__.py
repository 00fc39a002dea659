"""Learning to detect and to segment: one objective for all detectors, one object per family for what differs."""
