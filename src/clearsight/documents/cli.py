"""`clearsight schema`: the JSON Schema of a document, for editors and validators."""

import json

import click

from clearsight.console import TASK, AzCommand
from clearsight.documents.schemas import DOCUMENTS, document_schema
from clearsight.tasks import Task

__all__ = ["schema"]


@click.command(cls=AzCommand)
@click.argument("document", type=click.Choice(DOCUMENTS))
@click.option("--task", type=TASK, help="Task of the job or of the settings; without it a job's schema has all tasks.")
@click.option("--model-name", default="", help="Model of the settings; yolov5 has keys of its own.")
def schema(document: str, task: str | None, model_name: str) -> None:
    r"""Print the JSON Schema of a job, data, endpoint, deployment or model file, or of a package's settings.json.

    Settings need --task.

    \b
    Examples:
      clearsight schema job > job.schema.json
      clearsight schema job --task image_object_detection
      clearsight schema batch-deployment > batch-deployment.schema.json
      clearsight schema settings --task image_object_detection --model-name yolov5
    """
    if document == "settings" and task is None:
        raise click.UsageError("settings differ by task: give --task")
    click.echo(json.dumps(document_schema(document, None if task is None else Task(task), model_name), indent=2))
