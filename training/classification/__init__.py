"""Training of classifiers: data, losses, metrics, objective."""
