import subprocess
import sys

import pytest

from clearsight.errors import InvalidDocument
from clearsight.handlers.explain.options import ExplainOptions


def test_no_variables_mean_the_defaults():
    assert ExplainOptions.from_variables({}) == ExplainOptions()
    assert ExplainOptions.from_variables(
        {"CLEARSIGHT_EXPLAIN": "true", "CLEARSIGHT_EXPLAIN_THREADS": "2", "PATH": "/"}
    ) == (ExplainOptions())


def test_every_option_can_be_set():
    variables = {
        "CLEARSIGHT_EXPLAIN_CHUNK": "4",
        "CLEARSIGHT_EXPLAIN_DTYPE": "bfloat16",
        "CLEARSIGHT_EXPLAIN_XRAI_N_STEPS": " 16 ",
        "CLEARSIGHT_EXPLAIN_MAX_N_STEPS": "200",
        "CLEARSIGHT_EXPLAIN_MAX_LABELS": "3",
        "CLEARSIGHT_EXPLAIN_ALLOW_DEGRADATION": "False",
        "CLEARSIGHT_EXPLAIN_CACHE_BYTES": "1000000",
        "CLEARSIGHT_EXPLAIN_MAX_SECONDS": "2.5",
        "CLEARSIGHT_EXPLAIN_WARM_UP": "0",
    }
    expected = ExplainOptions(4, "bfloat16", 16, 200, 3, False, 1_000_000, 2.5, warm_up=False)
    assert ExplainOptions.from_variables(variables) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CHUNK", "0"),
        ("CHUNK", "many"),
        ("DTYPE", "float16"),
        ("XRAI_N_STEPS", "1"),
        ("MAX_N_STEPS", ""),
        ("MAX_LABELS", "-1"),
        ("ALLOW_DEGRADATION", "perhaps"),
        ("CACHE_BYTES", "1.5"),
        ("MAX_SECONDS", "0"),
        ("MAX_SECONDS", "nan"),
        ("WARM_UP", "soon"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name, text):
    with pytest.raises(InvalidDocument, match=f"CLEARSIGHT_EXPLAIN_{name}: must be"):
        ExplainOptions.from_variables({f"CLEARSIGHT_EXPLAIN_{name}": text})


def test_all_faults_are_listed_at_once():
    variables = {"CLEARSIGHT_EXPLAIN_CHUNK": "0", "CLEARSIGHT_EXPLAIN_DTYPE": "int8"}
    with pytest.raises(InvalidDocument, match="2 faults"):
        ExplainOptions.from_variables(variables)


def test_defaults_of_requests_stay_below_the_most_steps():
    limits = ExplainOptions(max_n_steps=10).limits
    assert (limits.n_steps, limits.xrai_n_steps, limits.max_n_steps) == (10, 10, 10)
    assert ExplainOptions(xrai_n_steps=16).limits.xrai_n_steps == 16


def test_options_are_read_without_torch():
    """The management process checks them when a deployment is made."""
    program = "import sys, clearsight.handlers.explain.options; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
