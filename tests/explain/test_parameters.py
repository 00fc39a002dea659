import pytest

from clearsight.errors import BadRequest
from clearsight.handlers.explain.parameters import XaiLimits, XaiParameters, parse_xai_parameters


def test_nothing_asked_for_gives_azures_defaults():
    parameters = parse_xai_parameters({})
    assert (parameters.algorithm, parameters.visualizations, parameters.attributions) == ("xrai", True, False)
    assert (parameters.threshold, parameters.n_steps, parameters.xrai_fast) == (0.5, 50, True)
    assert parameters.approximation_method == "riemann_middle"
    assert parameters == XaiParameters()


def test_given_keys_override_one_by_one():
    parameters = parse_xai_parameters({"xai_algorithm": "integrated_gradients", "n_steps": 20, "attributions": True})
    assert (parameters.algorithm, parameters.n_steps, parameters.attributions) == ("integrated_gradients", 20, True)
    assert parameters.visualizations is True


def test_unknown_keys_are_ignored_and_null_counts_as_absent():
    assert parse_xai_parameters({"n_step": 7, "x": {"deep": [1]}, "n_steps": None, "target_labels": None}) == (
        XaiParameters()
    )


def test_the_path_starts_at_black_and_white_for_xrai_and_at_the_mean_colour_for_others():
    assert parse_xai_parameters({}).baseline == "black_white"
    assert parse_xai_parameters({"xai_algorithm": "integrated_gradients"}).baseline == "mean"
    assert parse_xai_parameters({"baseline": "blur"}).baseline == "blur"


def test_the_rule_of_quadrature_is_a_matter_of_integrated_gradients_alone():
    asked = {"approximation_method": "gausslegendre"}
    assert parse_xai_parameters(asked) == XaiParameters()
    found = parse_xai_parameters({**asked, "xai_algorithm": "integrated_gradients"})
    assert found.approximation_method == "gausslegendre"


def test_a_deployment_sets_its_own_numbers_of_steps():
    limits = XaiLimits(n_steps=30, xrai_n_steps=16, max_n_steps=64)
    assert parse_xai_parameters({}, limits).n_steps == 16
    assert parse_xai_parameters({"xai_algorithm": "integrated_gradients"}, limits).n_steps == 30
    assert parse_xai_parameters({"n_steps": 64}, limits).n_steps == 64
    with pytest.raises(BadRequest, match="from 2 to 64"):
        parse_xai_parameters({"n_steps": 65}, limits)


def test_an_unknown_algorithm_is_answered_with_the_known_ones(check_rows):
    def check(wrong):
        known = "xrai, integrated_gradients, guided_gradcam, guided_backprop"
        with pytest.raises(BadRequest, match=f"'xai_algorithm' must be one of {known}, but got") as caught:
            parse_xai_parameters({"xai_algorithm": wrong})
        assert caught.value.status == 400

    check_rows(check, ["lime", "XRAI", "", 3, ["xrai"]])


def test_further_algorithms_are_those_of_the_caller():
    assert parse_xai_parameters({"xai_algorithm": "rise"}, algorithms=("rise",)).algorithm == "rise"
    with pytest.raises(BadRequest, match="must be one of rise, but got 'xrai'"):
        parse_xai_parameters({"xai_algorithm": "xrai"}, algorithms=("rise",))


GOOD = [
    ("visualizations", False),
    ("attributions", True),
    ("confidence_score_threshold_multilabel", 0),
    ("confidence_score_threshold_multilabel", 1.0),
    ("n_steps", 2),
    ("n_steps", 1000),
    ("xrai_fast", False),
    ("approximation_method", "riemann_middle"),
    ("target_labels", ["can"]),
    ("contrast_label", "can"),
    ("baseline", "white"),
    ("convergence_tolerance", 0.01),
    ("smooth_samples", 0),
    ("smooth_samples", 50),
    ("smooth_stdev", 0.5),
    ("seed", 0),
    ("localizer", "gradcam"),
    ("engine", "captum"),
    ("visualization_format", "heatmap"),
    ("attributions_format", "float16_base64"),
    ("max_seconds", 0.5),
    ("details", True),
    ("faithfulness", True),
    ("detections", []),
    ("detections", [4, 0]),
    ("detections", "all"),
    ("target", "mask"),
    ("masks", 5000),
    ("grid_size", 8),
]


def test_every_key_is_read(check_rows):
    def check(key, value):
        field = {"xai_algorithm": "algorithm", "confidence_score_threshold_multilabel": "threshold"}.get(key, key)
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(parse_xai_parameters({key: value}), field) == expected

    check_rows(check, GOOD)


WRONG = [
    *[(key, value) for key in ("visualizations", "attributions", "xrai_fast", "details", "faithfulness")
      for value in (1, "true", [])],
    *[("n_steps", value) for value in (1, 0, -5, 1001, 20.0, "20", True)],
    *[("confidence_score_threshold_multilabel", value) for value in (-0.1, 1.1, "0.5", True, float("nan"), [0.5])],
    *[(key, value) for key in ("approximation_method", "baseline", "localizer", "engine", "visualization_format",
      "attributions_format", "target") for value in ("no such", 1, True, [], {})],
    *[("target_labels", value) for value in ("can", [], [1], ["can", "can"], {"can": 1})],
    ("contrast_label", 3),
    *[("convergence_tolerance", value) for value in (0, 1, -1, "0.1", False)],
    *[("smooth_samples", value) for value in (-1, 51, 1.5)],
    *[("smooth_stdev", value) for value in (0, -1, 11, float("inf"), "1")],
    *[("seed", value) for value in (-1, 2**32, 0.5)],
    *[("max_seconds", value) for value in (0, -1, "1", True)],
    *[("detections", value) for value in ("none", 3, [-1], [0.0], [True], [1, 1], list(range(21)), [[0]])],
    *[("masks", value) for value in (0, 5001, "500")],
    *[("grid_size", value) for value in (1, 65, 8.0)],
]  # fmt: skip


def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(check_rows):
    def check(key, value):
        with pytest.raises(BadRequest, match=f"^'{key}' must be .+, but got .+") as caught:
            parse_xai_parameters({key: value})
        assert str(caught.value).isascii()
        assert len(str(caught.value)) < 300

    check_rows(check, WRONG)


def test_names_beyond_ascii_and_megabytes_are_shown_in_short():
    with pytest.raises(BadRequest) as caught:
        parse_xai_parameters({"xai_algorithm": "µ" * 10**6})
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 300


def test_the_contrast_must_not_be_explained_itself():
    with pytest.raises(BadRequest, match="'contrast_label' must not be one of 'target_labels'"):
        parse_xai_parameters({"target_labels": ["can", "carton"], "contrast_label": "carton"})


def test_equal_requests_are_one_key_of_a_cache():
    first = parse_xai_parameters({"target_labels": ["can"], "n_steps": 50})
    assert {first: 1}[parse_xai_parameters({"n_steps": 50, "target_labels": ["can"], "unknown": 1})] == 1


def test_a_request_for_nothing_is_plain_scoring(check_rows):
    def check(key):
        assert not parse_xai_parameters({"visualizations": False}).wants_explanation
        assert parse_xai_parameters({"visualizations": False, key: True}).wants_explanation

    check_rows(check, ["visualizations", "attributions", "details", "faithfulness"])


def test_steps_are_chosen_only_where_the_map_adds_up_and_the_request_names_none():
    limits = XaiLimits(max_n_steps=200)
    for document, most_steps in (
        ({}, None),
        ({"xai_algorithm": "integrated_gradients"}, 200),
        ({"xai_algorithm": "integrated_gradients", "n_steps": 50}, None),
        ({"xai_algorithm": "xrai"}, None),
        ({"xai_algorithm": "guided_gradcam"}, None),
    ):
        assert parse_xai_parameters(document, limits).most_steps == most_steps
