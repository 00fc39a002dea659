"""Which environment variables a deployment may set for its workers.

A deployment file may come from somebody else. Variables that decide which libraries, modules, programs or
configuration a process loads would let it run code, and some would take the server's own folders away.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from clearsight.fields import Rule, broken_rule, nearest

__all__ = ["KNOWN_VARIABLES", "VariableName"]

_PREFIX: Final = "CLEARSIGHT_"

KNOWN_VARIABLES: Final = (
    "CLEARSIGHT_BACKEND",
    "CLEARSIGHT_BATCH_SIZE",
    "CLEARSIGHT_DEVICE",
    "CLEARSIGHT_EXPLAIN",
    "CLEARSIGHT_EXPLAIN_ALLOW_DEGRADATION",
    "CLEARSIGHT_EXPLAIN_CACHE_BYTES",
    "CLEARSIGHT_EXPLAIN_CHUNK",
    "CLEARSIGHT_EXPLAIN_DTYPE",
    "CLEARSIGHT_EXPLAIN_JOB_SECONDS",
    "CLEARSIGHT_EXPLAIN_MAX_IN_FLIGHT",
    "CLEARSIGHT_EXPLAIN_MAX_JOBS",
    "CLEARSIGHT_EXPLAIN_MAX_LABELS",
    "CLEARSIGHT_EXPLAIN_MAX_N_STEPS",
    "CLEARSIGHT_EXPLAIN_MAX_SECONDS",
    "CLEARSIGHT_EXPLAIN_THREADS",
    "CLEARSIGHT_EXPLAIN_WARM_UP",
    "CLEARSIGHT_EXPLAIN_XRAI_N_STEPS",
    "CLEARSIGHT_NUM_THREADS",
    "CLEARSIGHT_PRECISION",
)
"""The variables of Clearsight that a deployment may set; a test compares them with those that are read."""

_REFUSED: Final = (
    r"(TS_|LD_|DYLD_|PYTHON|JAVA_|JDK_|OPENSSL_|OCL_ICD_).*",
    r"_JAVA_OPTIONS|CLASSPATH|PATH|BASH_ENV|GCONV_PATH|GLIBC_TUNABLES|CUDA_INJECTION64_PATH",
    r"TMPDIR|TEMP|TMP|AZUREML_MODEL_DIR|LOG_LOCATION|METRICS_LOCATION",
)
"""Of TorchServe, the dynamic linker, Python, Java, OpenSSL's and OpenCL's modules, the shell and the C library; and
those that name folders which the server sets."""

_PATTERN: Final = "|".join(_REFUSED)
_IS_REFUSED: Final = re.compile(_PATTERN)
_IS_NAME: Final = re.compile(r"[^=\0]+")


@dataclass(frozen=True, slots=True)
class VariableName(Rule):
    """The name of a variable that reaches no loader, and of Clearsight's own only a known one."""

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not _IS_NAME.fullmatch(value):
            raise broken_rule("BAD_VALUE", f"must be a name without '=', but got {value!r}")
        if value.startswith(_PREFIX) and value not in KNOWN_VARIABLES:
            hint = nearest(value, KNOWN_VARIABLES) or f"; known are {', '.join(KNOWN_VARIABLES)}"
            raise broken_rule("BAD_VALUE", f"must be a variable that deployments may set, but got {value!r}{hint}")
        if _IS_REFUSED.fullmatch(value):
            message = (
                "must not be set by a deployment, since it decides what the server's processes load, or where from"
            )
            raise broken_rule("BAD_VALUE", f"{message}; remove it")
        return value

    def json_schema(self) -> dict[str, Any]:
        others = f"(?!({_PATTERN})$)(?!{_PREFIX})[^=]+"
        return {"type": "string", "pattern": f"^({'|'.join(KNOWN_VARIABLES)}|{others})$"}
