import pytest

from clearsight.documents.deployment.traffic import parse_traffic
from clearsight.errors import InvalidDocument


def test_no_entries_are_no_traffic() -> None:
    assert parse_traffic({}) == {}


def test_zero_entries_are_dropped_and_names_lowered() -> None:
    assert parse_traffic({"Blue": 100, "green": 0}) == {"blue": 100}


def test_text_of_whole_numbers_is_read() -> None:
    assert parse_traffic({"blue": "90", "green": " 10 "}) == {"blue": 90, "green": 10}


@pytest.mark.parametrize("total", [1, 99, 101])
def test_a_sum_other_than_0_and_100_is_refused_and_named(total: int) -> None:
    with pytest.raises(InvalidDocument, match=f"sum to {total}"):
        parse_traffic({"blue": total // 2, "green": total - total // 2})


@pytest.mark.parametrize("share", [-10, 110, 99.5, "99.5", "ninety", True, None, float("nan"), [100]])
def test_a_share_that_is_no_whole_number_from_0_to_100_is_refused(share: object) -> None:
    with pytest.raises(InvalidDocument, match="blue"):
        parse_traffic({"blue": share})


def test_minus_10_and_110_do_not_make_100() -> None:
    with pytest.raises(InvalidDocument):
        parse_traffic({"blue": -10, "green": 110})


def test_a_name_that_differs_by_case_stands_twice() -> None:
    with pytest.raises(InvalidDocument, match="only once"):
        parse_traffic({"blue": 50, "Blue": 50})


def test_a_table_must_be_a_mapping() -> None:
    with pytest.raises(InvalidDocument):
        parse_traffic([("blue", 100)])


def test_a_mirror_is_one_share_of_at_most_50() -> None:
    assert parse_traffic({"green": 50}, "mirror_traffic") == {"green": 50}
    for mirror in ({"green": 51}, {"green": 10, "blue": 10}):
        with pytest.raises(InvalidDocument):
            parse_traffic(mirror, "mirror_traffic")
