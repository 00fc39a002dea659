"""A scorer that misbehaves on demand, put into a real worker through Python's own `sitecustomize`."""

from pathlib import Path

import pytest

SCRIPTED_SCORER = '''
"""Stands in for the Scorer: a body says what happens to it."""
import json, os, sys, time, types
from dataclasses import dataclass

@dataclass
class Reply:
    status: int
    body: bytes
    num_rows: int = 1
    is_degraded: bool = False
    telemetry: object = None

class Scorer:
    class package:
        model_name = "scripted"
    backend, precision = "scripted", "f32"
    def warm_up(self): pass

def load_scorer(path, **options):
    if os.environ.get("SCRIPTED_FAILURE"):
        raise ImportError(os.environ["SCRIPTED_FAILURE"])
    return Scorer()

def answer_bodies(scorer, bodies, wishes, explain):
    replies = []
    for number, body in enumerate(bodies):
        word, _, rest = body.partition(b" ")
        if word == b"raise":
            raise ValueError(rest.decode("utf-8", "surrogateescape"))
        if word == b"status":
            replies.append(Reply(int(rest), b'{"message":"as asked"}'))
        elif word == b"big":
            replies.append(Reply(200, b"x" * int(rest)))
        elif word == b"facts":
            replies.append(Reply(200, json.dumps({"pid": os.getpid(), "batch": len(bodies)}).encode()))
        elif word == b"asks" and explain.__class__.__name__ == "function":  # the predict lane turns it away
            replies.append(Reply(421, b'{"message":"wrong lane"}'))
        elif word == b"asks":
            time.sleep(float(rest or 0))
            wish = wishes[number]
            left_s = wish.deadline and wish.deadline - time.monotonic()
            facts = {"pid": os.getpid(), "all": wish.explains_all, "left_s": left_s, "policy": os.sched_getscheduler(0)}
            replies.append(Reply(200, json.dumps(facts).encode(), is_degraded=True, telemetry={"chunk": 8, "rows": []}))
        else:
            replies.append(Reply(200, b"[%d]" % len(body)))
    return replies

for name, attribute in (("scorer", load_scorer), ("answering", answer_bodies)):
    module = types.ModuleType("clearsight.handlers." + name)
    setattr(module, attribute.__name__, attribute)
    sys.modules[module.__name__] = module
'''


@pytest.fixture(scope="session")
def scripted_scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("scripted")
    (folder / "sitecustomize.py").write_text(SCRIPTED_SCORER)
    return folder
