"""The training engine: loop, ranks, checkpoints, optimizers. It knows no task."""
