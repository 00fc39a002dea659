"""From cells that ask for an explanation to answers."""
