"""What starts a batch job: the input, and what the job does otherwise than its deployment says.

The keys are those of `az ml batch-endpoint invoke --file` and of its `--set`
(https://learn.microsoft.com/azure/machine-learning/how-to-access-data-batch-endpoints-jobs).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

from clearsight.documents.batch.schema import ErrorThreshold, FileName
from clearsight.documents.job.document import JobName
from clearsight.documents.sections import AzureSection, AzureText, Count, FreeMapping
from clearsight.errors import Fault, InvalidDocument
from clearsight.fields import Integer, Number, OneOf, Rule, Text, Truth, read, refused

__all__ = [
    "BatchInvocation",
    "ComputeSection",
    "InputSection",
    "InvocationSection",
    "OutputSection",
    "RetrySection",
    "read_invocation",
]

_DATA: Final = ("uri_folder", "uri_file", "mltable")
_LITERALS: Final = ("string", "number", "integer", "boolean", "literal")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInvocation:
    """A request for a batch job. None stands for what the deployment says, or for a default of the job."""

    endpoint_name: str
    deployment_name: str | None = None
    """None: the default deployment of the endpoint."""
    inputs: str
    """Path, URL, glob, or reference of the data, as written."""
    input_type: str | None = None
    """`uri_folder`, `uri_file` or `mltable` as declared, which what lies at `inputs` may contradict."""
    output_path: str | None = None
    """Folder of the results, as written; None: a folder of the job."""
    output_file_name: str | None = None
    mini_batch_size: int | None = None
    instance_count: int | None = None
    error_threshold: int | None = None
    max_retries: int | None = None
    timeout_s: float | None = None
    job_name: str | None = None
    experiment_name: str | None = None
    recursive: bool | None = None
    """Whether folders below the input are read too."""


@dataclass(frozen=True, slots=True)
class _InputType(Rule):
    """A type of data; literals are for pipelines."""

    def read(self, value: Any) -> str:
        kind = OneOf((*_DATA, *_LITERALS)).read(value)
        if kind in _LITERALS:
            raise refused("BAD_ENUM", f"must be one of {', '.join(_DATA)}, since a model takes no literal values")
        return kind

    def json_schema(self) -> dict[str, Any]:
        return OneOf(_DATA).json_schema()


@dataclass(frozen=True, slots=True)
class InputSection(AzureSection):
    """The data to score."""

    path: Annotated[str, Text()]
    type: Annotated[str, _InputType()] | None = None
    mode: AzureText | None = None
    description: AzureText | None = None


@dataclass(frozen=True, slots=True)
class OutputSection(AzureSection):
    """Where the results go."""

    path: Annotated[str, Text()] | None = None
    type: Annotated[str, OneOf(("uri_folder", "uri_file"))] = "uri_folder"
    mode: AzureText | None = None
    description: AzureText | None = None


@dataclass(frozen=True, slots=True)
class RetrySection(AzureSection):
    """What is done about a mini-batch that fails, where it is not as the deployment says."""

    max_retries: Annotated[int, Integer(0)] | None = None
    timeout: Annotated[float, Number(0, low_open=True)] | None = None


@dataclass(frozen=True, slots=True)
class ComputeSection(AzureSection):
    """The machines of a job, of which only the number of instances counts here."""

    instance_count: Count | None = None
    target: AzureText | None = None
    instance_type: AzureText | None = None
    location: AzureText | None = None
    properties: FreeMapping | None = None


@dataclass(frozen=True, slots=True)
class InvocationSection(AzureSection):
    """A file for `batch-endpoint invoke --file`."""

    ignored_keys: ClassVar[tuple[str, ...]] = ("$schema",)

    inputs: dict[str, InputSection]
    outputs: dict[str, OutputSection] = field(default_factory=dict)
    output_file_name: FileName | None = None
    mini_batch_size: Count | None = None
    error_threshold: ErrorThreshold | None = None
    retry_settings: RetrySection = RetrySection()
    compute: ComputeSection = ComputeSection()
    job_name: Annotated[str, JobName()] | None = None
    experiment_name: AzureText | None = None
    recursive: Annotated[bool, Truth()] | None = None


def read_invocation(
    document: Mapping[str, Any], endpoint_name: str, deployment_name: str | None = None, subject: str = "invocation"
) -> BatchInvocation:
    """Read what a batch job is asked to do. Raises InvalidDocument that lists every fault.

    The names of inputs and outputs do not matter: a model takes one input and gives one output.
    """
    faults: list[Fault] = []
    given = document.get("inputs")
    if isinstance(given, Mapping) and len(given) != 1:  # whose items may be literals, which have no path
        names = ", ".join(map(str, given)) or "none"
        message = f"must hold one input, since a model takes one and no literal values, but got {names}"
        faults.append(Fault("BAD_VALUE", "inputs", message))
        document = {**document, "inputs": {"input": {"path": "."}}}
    section = read(InvocationSection, document, "", faults, value_code="BAD_VALUE")
    if section is not None and len(section.outputs) > 1:
        names = ", ".join(section.outputs)
        faults.append(Fault("BAD_VALUE", "outputs", f"must hold one output at most, but got {names}"))
    if section is None or faults:
        raise InvalidDocument(subject, faults)
    [data] = section.inputs.values()
    output_path, output_file_name = _output(section, subject)
    return BatchInvocation(
        endpoint_name=endpoint_name.lower(),
        deployment_name=None if deployment_name is None else deployment_name.lower(),
        inputs=data.path,
        input_type=data.type,
        output_path=output_path,
        output_file_name=output_file_name,
        mini_batch_size=section.mini_batch_size,
        instance_count=section.compute.instance_count,
        error_threshold=section.error_threshold,
        max_retries=section.retry_settings.max_retries,
        timeout_s=section.retry_settings.timeout,
        job_name=section.job_name,
        experiment_name=section.experiment_name or None,
        recursive=section.recursive,
    )


def _output(section: InvocationSection, subject: str) -> tuple[str | None, str | None]:
    """Folder and file name of the results; an output that is a file has both."""
    for name, output in section.outputs.items():
        if output.path is None or output.type == "uri_folder":
            return output.path, section.output_file_name
        file_name = output.path.rpartition("/")[2]
        if not file_name:
            message = f"must end in the name of a file, since its type is uri_file, but got {output.path!r}"
            raise InvalidDocument(subject, [Fault("BAD_VALUE", f"outputs.{name}.path", message)])
        if section.output_file_name not in (None, file_name):
            message = f"must be {file_name!r} as in outputs.{name}.path, but got {section.output_file_name!r}"
            raise InvalidDocument(subject, [Fault("BAD_VALUE", "output_file_name", message)])
        return output.path.removesuffix(file_name) or ".", file_name
    return None, section.output_file_name
