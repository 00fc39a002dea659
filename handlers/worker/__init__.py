"""What a serving process does beside scoring: lanes and background jobs."""
