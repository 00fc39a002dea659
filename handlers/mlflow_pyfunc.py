"""Loader module of the MLflow flavour: `mlflow.pyfunc.load_model(folder)` calls it, and loads no pickle."""

import sys
from collections.abc import Mapping
from typing import Any

import pandas as pd

from clearsight import environment
from clearsight.errors import UserError
from clearsight.handlers.explain.parameters import wants_explanation
from clearsight.handlers.scoring.scorer import Scorer, load_scorer
from clearsight.handlers.worker.explain_lane import NO_OPTIONS, explainer_for_lane, preload
from clearsight.wire.encoding import to_document

__all__ = ["PackageModel"]

_COLUMN = "image"
_SERVER_MODULE = "mlflow.pyfunc.scoring_server.app"
"""What `mlflow models serve` runs; it loads the model while it is imported (MLflow 3.17)."""
_EXPLANATIONS = ("visualizations", "attributions", "explanation_details", "explanations")


class PackageModel:
    """A package as a python_function model."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._explain = explainer_for_lane("all", scorer)
        # In a server the first client would wait for it; a script may never ask, and may end while it loads.
        if _SERVER_MODULE in sys.modules and scorer.task.is_classification:
            preload(self._explain)

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Score a frame with the column `image`: base64 text, its bytes, or the bytes of an image file.

        Returns a frame with one row per input and the same index: the columns `probs` (list of floats) and `labels`
        (list of names), or for detection and segmentation the column `boxes` (list of objects), as in Azure's scoring
        answers. If a row
        asks for an explanation, there are also the columns `visualizations`, `attributions` and
        `explanation_details`, or `explanations` for detectors. Raises `MlflowException` naming the first bad row:
        MLflow's server hides the message of any other error. `params` is part of MLflow's interface; there are none.
        """
        if _COLUMN not in model_input.columns:
            raise _refusal(f"the frame must have the column {_COLUMN!r}, but it has {list(model_input.columns)}")
        cells = model_input[_COLUMN].tolist()
        is_plain = not any(wants_explanation(cell, self._scorer.task) for cell in cells)
        answers = []
        for row, answer in enumerate(self._scorer.score(cells) if is_plain else self._explain(cells, NO_OPTIONS)):
            if isinstance(answer, UserError):
                raise _refusal(f"row {row}, column {_COLUMN!r}: {answer}")
            answers.append(to_document(answer))
        columns = ["probs", "labels"] if self._scorer.task.is_classification else ["boxes"]
        columns += [key for key in _EXPLANATIONS if any(key in answer for answer in answers)]
        return pd.DataFrame(answers, index=model_input.index, columns=columns)


def _refusal(message: str) -> Exception:
    """The error that MLflow's server turns into a 400 with this message."""
    from mlflow.exceptions import MlflowException  # this module is loaded by MLflow; nothing else here needs it

    refusal: Exception = MlflowException.invalid_parameter_value(message)
    return refusal


def _load_pyfunc(path: str) -> PackageModel:
    """Load the model folder for MLflow.

    In MLflow's server, what explanations of a classifier need is loaded in the background, unless
    `CLEARSIGHT_EXPLAIN_WARM_UP` forbids it. `CLEARSIGHT_BACKEND` and `CLEARSIGHT_DEVICE` choose what runs the network.
    """
    return PackageModel(load_scorer(path, environment.backend(), environment.device()))
