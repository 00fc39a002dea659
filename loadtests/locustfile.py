"""Scoring users for every request form that Azure's clients send.

Run it against an endpoint of Clearsight, or of Azure: only the defaults are Clearsight's.

    locust -f loadtests/locustfile.py --headless -u 4 -r 4 -t 30s \
        --host http://127.0.0.1:8000 --endpoint fridge --key "$KEY" --pictures demo-output/data/images

Each user sends one image after the other, without waiting (closed loop). A 429 is backpressure and no failure: it has a
row of its own, and the user waits for `Retry-After`. Any other status, or an answer of the wrong shape,
is a failure; locust then exits with 1.

With `--explaining-users N`, N of the users ask for explanations instead (`--algorithm`, xrai by default). Degraded
answers and those that ran out of time (408) have rows of their own and are no failures either: they come from the time
limit of the deployment.
"""

import base64
import json
import random
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from gevent import sleep
from locust import FastHttpUser, events, task
from locust.env import Environment

IMAGES: list[bytes] = []
MAX_IMAGES = 64
PNG = "iVBORw0KGgo"
"""How the base64 of every PNG file begins."""


@events.init_command_line_parser.add_listener
def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--endpoint", default="fridge", help="Endpoint name; the URL is HOST/endpoints/NAME/score.")
    parser.add_argument("--key", env_var="CLEARSIGHT_KEY", is_secret=True, default="", help="Endpoint key.")
    parser.add_argument("--deployment", default="", help="Send every request to this deployment.")
    parser.add_argument("--explaining-users", type=int, default=0, help="How many of the users ask for explanations.")
    parser.add_argument("--algorithm", default="xrai", help="What they ask for.")
    parser.add_argument("--pictures", required=True, help="Folder of .jpg and .png files.")


@events.test_start.add_listener
def read_images(environment: Environment, **_: Any) -> None:
    folder = Path(environment.parsed_options.pictures)
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise SystemExit(f"--pictures must be a folder with .jpg or .png files, but {folder} has none")
    IMAGES[:] = [file.read_bytes() for file in files[:MAX_IMAGES]]


def image() -> str:
    """Base64 of one image with a newline every 76 characters, as Azure's sample clients send it."""
    return base64.encodebytes(random.choice(IMAGES)).decode()


@events.init.add_listener
def split_users(environment: Environment, **_: Any) -> None:
    if environment.parsed_options:
        ExplainingUser.fixed_count = environment.parsed_options.explaining_users
        if not ExplainingUser.fixed_count:
            environment.user_classes.remove(ExplainingUser)


class EndpointUser(FastHttpUser):
    """One client of the endpoint."""

    abstract = True

    def send(self, form: str, input_data: Any, rows: int, is_explained: bool = False) -> None:
        options = self.environment.parsed_options
        headers = {"Authorization": f"Bearer {options.key}", "Content-Type": "application/json"}
        if options.deployment:
            headers["azureml-model-deployment"] = options.deployment
        with self.client.post(
            f"/endpoints/{options.endpoint}/score",
            data=json.dumps({"input_data": input_data}),
            headers=headers,
            name=form,
            catch_response=True,
        ) as response:
            if response.status_code == 429:
                response.request_meta["name"] = "429 backpressure"
                response.success()
                sleep(float(response.headers.get("Retry-After", 1)))
                return
            if is_explained and response.status_code == 408:
                response.request_meta["name"] = f"{form}, 408 out of time"
                response.success()
                return
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {(response.text or '')[:200]}")
                return
            answers = response.json()
            if len(answers) != rows or any("labels" not in answer and "boxes" not in answer for answer in answers):
                response.failure(f"expected {rows} answers with labels or boxes, but got {answers!r:.200}")
            elif is_explained and not all(answer.get("visualizations", "").startswith(PNG) for answer in answers):
                response.failure(f"expected a picture for each of {rows} answers, but got {answers!r:.200}")
            elif response.headers.get("x-explanation-degraded"):
                response.request_meta["name"] = f"{form}, degraded"


class ScoringUser(EndpointUser):
    """Sends every form of a plain request."""

    @task(6)
    def plain(self) -> None:
        self.send("R1 plain", {"columns": ["image"], "data": [image()]}, 1)

    @task(2)
    def nested_with_index(self) -> None:
        data = [[image()], [image()]]
        self.send("R2 nested, index", {"columns": ["image"], "index": [0, 1], "data": data}, 2)

    @task(1)
    def flat_with_index(self) -> None:
        data = [image(), image(), image()]
        self.send("R3 flat, index", {"columns": ["image"], "index": [0, 1, 2], "data": data}, 3)

    @task(1)
    def json_cell(self) -> None:
        cell = json.dumps({"image_base64": image(), "model_explainability": False})
        self.send("R4 JSON cell", {"columns": ["image"], "data": [cell]}, 1)

    @task(1)
    def bare_list(self) -> None:
        self.send("R6 bare list", [image()], 1)


class ExplainingUser(EndpointUser):
    """Asks for explanations of a classifier, as Azure's clients do."""

    @task
    def explanation(self) -> None:
        algorithm = self.environment.parsed_options.algorithm
        cell = {
            "image_base64": image(),
            "model_explainability": True,
            "xai_parameters": {"xai_algorithm": algorithm},
        }
        input_data = {"columns": ["image"], "data": [json.dumps(cell)]}
        self.send(f"explanation, {algorithm}", input_data, 1, is_explained=True)
