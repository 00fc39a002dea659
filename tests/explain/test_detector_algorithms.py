"""The contract of every explanation algorithm of detectors, on small detectors with random weights."""

import functools

import pytest

from clearsight.catalogue.algorithms import ALGORITHMS, DETECTOR_ALGORITHMS, MAX_DETECTIONS
from clearsight.catalogue.models import find_row
from clearsight.handlers.explain.answering.request import ExplainRequest
from clearsight.handlers.explain.objects.explainer import ObjectExplainer, ObjectExplainTask
from clearsight.handlers.explain.objects.network import ObjectModel
from clearsight.handlers.explain.objects.selection import choose_detections
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.handlers.explain.parameters import parse_xai_parameters
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.networks.load import load_network
from clearsight.testing.algorithms import DetectorAlgorithmContract


@pytest.fixture(scope="module")
def detectors(detector_package):
    """Gives the Scorer and the eager copy of a model."""

    @functools.cache
    def get(name):
        scorer = load_scorer(detector_package(name), device="cpu", num_threads=1)
        return scorer, ObjectModel(load_network(scorer.package), find_row(name).family)

    return get


@pytest.mark.parametrize("model_name", ["yolov5", pytest.param("fasterrcnn_resnet18_fpn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("algorithm", DETECTOR_ALGORITHMS)
class TestContract(DetectorAlgorithmContract):
    @pytest.fixture
    def algorithm(self, algorithm):
        return algorithm

    @pytest.fixture
    def make_explainer(self, detectors, model_name, algorithm):
        scorer, model = detectors(model_name)
        eager = None if ALGORITHMS[algorithm].is_black_box else model

        def make(options):
            return ObjectExplainer(
                eager, scorer.detect, scorer.labels, scorer.settings.detection, scorer.limits, options
            )

        return make

    @pytest.fixture
    def make_task(self, detectors, model_name, algorithm, images, make_explainer):
        scorer, _ = detectors(model_name)
        (answer,) = scorer.score(images[:1])
        num_cells = make_explainer(ExplainOptions()).num_cells(images[0])

        def make(document):
            small = {"masks": 6, "grid_size": 4, "xai_algorithm": algorithm}
            parameters = parse_xai_parameters({**small, **document}, algorithms=(algorithm,))
            scores = [found.score for found in answer.boxes]
            choice = choose_detections(scores, parameters, MAX_DETECTIONS, has_masks=False)
            digest = ExplainRequest(images[0], parameters).digest
            return ObjectExplainTask(images[0], digest, answer.boxes, choice, parameters, num_cells)

        return make
