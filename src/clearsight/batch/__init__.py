"""Batch jobs from Python: `clearsight.batch.run(package, inputs, output)`."""

from clearsight.serving.batch.direct import Stopped, run
from clearsight.serving.batch.results.summary import Summary

__all__ = ["Stopped", "Summary", "run"]
