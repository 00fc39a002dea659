"""One trial: `python -m clearsight.training.trial RUN_FOLDER`."""
