"""The training engine: loop, ranks, checkpoints, optimizers. It does not depend on the task."""
