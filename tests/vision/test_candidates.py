import numpy as np
import pytest

from clearsight.vision.candidates import Candidates


def test_no_candidates_are_candidates():
    assert len(Candidates(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))) == 0


@pytest.mark.parametrize(
    "shapes",
    [((2, 4), (1,), (2,), None), ((2, 4), (2,), (2, 1), None), ((8,), (8,), (8,), None), ((2, 5), (2,), (2,), None)]
    + [((2, 4), (2,), (2,), masks) for masks in [(1, 28, 28), (2, 28, 14), (2, 28), (2, 1, 28, 28)]],
)
def test_there_is_one_score_class_and_mask_per_box(shapes):
    boxes, scores, ids, masks = (None if shape is None else np.zeros(shape, np.float32) for shape in shapes)
    with pytest.raises(ValueError, match="must have the shapes"):
        Candidates(boxes, scores, ids.astype(np.int64), masks)
