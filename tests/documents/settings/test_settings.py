from dataclasses import fields

import pytest

from clearsight.documents.settings import ClassificationSettings, parse_settings, to_document
from clearsight.errors import InvalidDocument
from clearsight.tasks import Task


def test_an_empty_document_means_the_defaults():
    settings, warnings = parse_settings({}, Task.MULTI_CLASS)
    assert settings == ClassificationSettings()
    assert (settings.valid_resize_size, settings.valid_crop_size) == (256, 224)  # Azure's hyperparameter page
    assert warnings == []


def test_what_is_written_reads_back_unchanged():
    settings = ClassificationSettings(300, 299, (0.5, 0.5, 0.5), (0.1, 0.2, 0.3), "bicubic", "ignore")
    assert parse_settings(to_document(settings), Task.MULTI_LABEL) == (settings, [])
    assert set(to_document(settings)) == {field.name for field in fields(settings)}


def test_azures_other_spellings_are_read():
    document = {"validation_resize_size": 300, "validation_crop_size": 280}
    assert parse_settings(document, Task.MULTI_CLASS)[0] == ClassificationSettings(300, 280)


def test_two_spellings_of_one_key_must_agree():
    same = {"valid_crop_size": 200, "validation_crop_size": 200}
    assert parse_settings(same, Task.MULTI_CLASS)[0].valid_crop_size == 200
    with pytest.raises(InvalidDocument, match=r"'valid_crop_size': 200 and as 'validation_crop_size': 100"):
        parse_settings({"valid_crop_size": 200, "validation_crop_size": 100}, Task.MULTI_CLASS)


def test_unknown_keys_are_warned_about_and_descriptive_ones_are_not():
    document = {"valid_crop_sise": 1, "labels": ["a"], "task_type": "x", "model_name": "y", "schema_version": 1}
    settings, warnings = parse_settings(document, Task.MULTI_CLASS)
    assert settings == ClassificationSettings()
    (warning,) = warnings
    assert "'valid_crop_sise'" in warning
    assert "did you mean 'valid_crop_size'" in warning


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("valid_resize_size", 0),
        ("valid_resize_size", "256"),
        ("valid_resize_size", 256.0),
        ("valid_resize_size", True),
        ("valid_resize_size", 10**9),
        ("valid_crop_size", 257),
        ("valid_crop_size", None),
        ("mean", [0.5, 0.5]),
        ("mean", [0.5, 0.5, float("nan")]),
        ("mean", "0.5"),
        ("std", [0.5, 0.0, 0.5]),
        ("std", [0.5, -1, 0.5]),
        ("interpolation", "nearest"),
        ("interpolation", ["bilinear"]),
        ("exif_orientation", True),
        ("mean", [True, 0.5, 0.5]),
        ("mean", []),
        ("mean", [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_a_bad_value_is_refused_with_its_key(key, value):
    with pytest.raises(InvalidDocument) as caught:
        parse_settings({key: value}, Task.MULTI_CLASS)
    assert [fault.target for fault in caught.value.faults] == [key]


def test_all_bad_values_are_listed_at_once():
    with pytest.raises(InvalidDocument) as caught:
        parse_settings({"mean": 1, "interpolation": "area"}, Task.MULTI_CLASS)
    assert {fault.target for fault in caught.value.faults} == {"mean", "interpolation"}
