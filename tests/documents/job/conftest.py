import copy
from collections.abc import Callable
from typing import Any

import pytest

MINIMAL = {
    "type": "automl",
    "task": "image_classification",
    "target_column_name": "label",
    "training_data": {"type": "mltable", "path": "data/training-mltable-folder"},
}


@pytest.fixture
def document() -> Callable[..., dict[str, Any]]:
    """Makes the smallest valid job; keywords replace or add top-level keys, `...` as a value removes one."""

    def make(**changes: Any) -> dict[str, Any]:
        changed = {**copy.deepcopy(MINIMAL), **changes}
        return {key: value for key, value in changed.items() if value is not ...}

    return make
