"""What anyone can run on a new backend, executor, family, algorithm or converter, and measures of explanations."""
