"""Learning to classify: data, losses, metrics, objective."""
