"""The explain lane and background jobs of a serving process."""
