"""Run by a test: measures whether a process leaks memory with its explanations.

    python many_explanations.py PACKAGE CELLS.json

Prints, as JSON, by how many bytes Python's own memory and living tensors grew over 200 explanations, and the lines
whose memory grew most. Memory that allocators keep for reuse does not count.
"""

import gc
import json
import sys
import tracemalloc
from pathlib import Path

import torch

from clearsight.handlers.explain.answering.scoring import explaining_scorer
from clearsight.handlers.scoring.scorer import load_scorer


def tensor_bytes() -> int:
    # By type: reading `__class__` of some objects of torch warns.
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return sum(thing.untyped_storage().nbytes() for thing in tensors)


def traces() -> tracemalloc.Snapshot:
    gc.collect()
    return tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)])


def main(package: str, cells_file: str) -> None:
    scorer = explaining_scorer(load_scorer(package, device="cpu", num_threads=1))
    cells = json.loads(Path(cells_file).read_text())
    for cell in cells:
        scorer.score([cell])
    tracemalloc.start()
    for cell in cells:
        scorer.score([cell])
    traces_before, bytes_before = traces(), tensor_bytes()
    for index in range(200):
        scorer.score([cells[index % len(cells)]])
    changes = traces().compare_to(traces_before, "lineno")
    grown = {
        "python_bytes": sum(line.size_diff for line in changes),
        "tensor_bytes": tensor_bytes() - bytes_before,
        "lines": [str(line) for line in changes[:10]],
    }
    sys.stdout.write(json.dumps(grown))


if __name__ == "__main__":
    main(*sys.argv[1:])
