"""Greedy matching of two lists of objects.

Shapes in names: N rows (such as predictions), M columns (such as true objects).
"""

import numpy as np
import numpy.typing as npt

__all__ = ["match_greedily"]


def match_greedily(similarity_NM: npt.NDArray[np.floating], min_similarity: float) -> npt.NDArray[np.intp]:
    """The column that each row takes, (N,), or -1; the caller sorts the rows, usually by descending score.

    In order, each row takes the most similar column that no earlier row took, if that is at least `min_similarity`
    (> 0). Of equally similar columns it takes the first. Similarities are >= 0, usually an IoU.
    """
    free_NM = similarity_NM.copy()
    taken_N = np.full(len(free_NM), -1, np.intp)
    for row in np.flatnonzero((free_NM >= min_similarity).any(axis=1)):
        best = free_NM[row].argmax()
        if free_NM[row, best] >= min_similarity:
            taken_N[row] = best
            free_NM[:, best] = 0
    return taken_N
