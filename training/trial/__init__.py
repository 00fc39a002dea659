"""One trial: `python -m clearsight.training.trial.run RUN_FOLDER`."""
