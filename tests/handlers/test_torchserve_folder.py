"""The configuration that a worker reads holds all that the supervisor decided."""

from dataclasses import fields

import yaml

from clearsight.documents.deployment.layout import ServingLayout
from clearsight.handlers.torchserve_folder import HandlerConfig, QueueLimits, archive_files


def test_every_setting_of_the_handler_stands_in_the_configuration() -> None:
    handler = HandlerConfig("/package", "/cache", 1024, "/diagnostic", "predict")
    written = archive_files("m", "now", ServingLayout(num_threads=3), QueueLimits(), handler)
    section = yaml.safe_load(written["model-config.yaml"])["clearsight"]
    for field in fields(HandlerConfig):
        assert section[field.name] == getattr(handler, field.name)
    assert section["num_threads"] == 3
