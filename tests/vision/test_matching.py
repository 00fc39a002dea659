import numpy as np
import pytest

from clearsight.vision.matching import match_greedily


@pytest.mark.parametrize(
    ("similarity", "taken"),
    [
        (np.zeros((0, 3)), []),
        (np.zeros((2, 0)), [-1, -1]),
        ([[0.5]], [0]),
        ([[0.49]], [-1]),
        ([[0.6, 0.9], [0.8, 0.95]], [1, 0]),  # the first row takes the column that suits the second better
        ([[0.9], [0.95]], [0, -1]),
        ([[0.7, 0.7]], [0]),
    ],
)
def test_each_row_takes_the_most_similar_free_column(similarity, taken):
    similarity = np.asarray(similarity, np.float64)
    before = similarity.copy()
    assert match_greedily(similarity, 0.5).tolist() == taken
    np.testing.assert_array_equal(similarity, before)
