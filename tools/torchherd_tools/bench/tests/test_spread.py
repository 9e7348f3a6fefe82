import pytest

from torchherd_tools.bench import spread


def test_median_with_minimum_and_maximum():
    assert spread.spread([3, 1, 2]) == spread.Spread(2, 1, 3)
    assert spread.spread([4, 1, 2, 3]) == spread.Spread(2.5, 1, 4)
    assert spread.spread([7]) == spread.Spread(7, 7, 7)


def test_no_values_give_no_spread():
    assert spread.spread([]) is None


def test_ratios_are_taken_within_a_round():
    # The machine is four times slower in the second round. The ratio of the medians would be 1.4.
    values, base = {0: 8, 1: 2, 2: 6}, {0: 4, 1: 1, 2: 6}
    assert spread.ratio(values, base) == spread.Spread(2, 1, 2)


@pytest.mark.parametrize(
    ("values", "base"), [({0: 1}, {1: 1}), ({0: 1}, {0: 0}), ({}, {0: 1}), ({0: 1}, {})]
)
def test_rounds_without_both_give_no_ratio(values, base):
    assert spread.ratio(values, base) is None


def test_a_round_without_a_base_is_left_out():
    assert spread.ratio({0: 2, 1: 9, 2: 9}, {0: 1, 1: 0}) == spread.Spread(2, 2, 2)
