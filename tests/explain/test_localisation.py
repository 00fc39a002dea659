"""Pointing game and mass in object, by hand."""

import numpy as np
import pytest

from clearsight.testing.localisation import grow, mass_inside, pointing_score, tolerance_px


def mask_of(*pixels, side=5):
    mask = np.zeros((side, side), bool)
    for row, column in pixels:
        mask[row, column] = True
    return mask


def test_no_object_is_never_hit_and_does_not_grow():
    nothing = mask_of()
    assert not grow(nothing, 3).any()
    assert pointing_score(np.eye(5), nothing) == mass_inside(np.eye(5), nothing) == 0


def test_a_pixel_grows_to_a_disk():
    assert grow(mask_of((2, 2)), 0).sum() == 1
    assert grow(mask_of((2, 2)), 1).sum() == 5
    assert grow(mask_of((2, 2)), 1.5).sum() == 9  # the diagonal is 1.41
    assert grow(mask_of((0, 0)), 2).sum() == 6
    assert grow(np.ones((5, 5), bool), 2).all()


def test_the_strongest_pixel_decides():
    heat = np.arange(25.0).reshape(5, 5)
    assert pointing_score(heat, mask_of((4, 4))) == 1
    assert pointing_score(heat, ~mask_of((4, 4))) == 0
    assert pointing_score(-heat, mask_of((0, 0))) == 1


def test_equally_strong_pixels_count_by_their_share():
    heat = np.zeros((5, 5))
    heat[1, :4] = 2.0
    assert pointing_score(heat, mask_of((1, 3), (0, 0))) == 0.25
    assert pointing_score(np.zeros((5, 5)), mask_of((1, 3), (0, 0))) == pytest.approx(2 / 25)


def test_only_positive_heat_has_mass():
    heat = np.full((5, 5), -7.0)
    assert mass_inside(heat, mask_of((0, 0))) == 0
    heat[0, 0], heat[3, 3] = 3.0, 1.0
    assert mass_inside(heat, mask_of((0, 0), (1, 1))) == 0.75
    assert mass_inside(np.ones((5, 5), np.float32), mask_of((0, 0))) == pytest.approx(1 / 25)


def test_the_tolerance_is_a_sixteenth_of_the_side():
    assert [tolerance_px(side) for side in (64, 128, 224)] == [4, 8, 14]
