"""One trial: `python -m clearsight.training.trial RUN_FOLDER`."""

from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str]) -> int:
    """Run the trial of a run folder in this process; return its exit code. Torch is imported now, not before."""
    from clearsight.training.trial.run import main as run

    return run(args)
