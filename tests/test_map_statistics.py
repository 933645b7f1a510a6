"""Statistics of sets of maps, the test of their means, and the audit made of both."""

import itertools
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

import physscore as ps
from physscore.core import InputError
from physscore.diagnostics.field_audit import compare_fields
from physscore.diagnostics.many_fields import FieldSequence
from physscore.diagnostics.map_statistics import (
    MapMeans,
    choose_bins,
    local_maxima,
    map_means,
    map_vectors,
    units_of,
)
from physscore.diagnostics.mean_test import UnitMeans
from physscore.diagnostics.set_comparison import STATISTICS, compare_statistic

GRID = ps.Grid((16, 16), 20.0)


def gaussian(n, seed, grid=GRID, amplitude=2.0):
    return ps.GaussianRandomField(grid, lambda k: amplitude / k).sample(n, seed=seed)


def skewed(g, f=0.15):
    """A field with nearly the power of g, and a skewness."""
    y = g + f * (g**2 - (g**2).mean())
    return y * g.std() / y.std()


# --- one map ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (6, 5), (4, 5, 3)])
@pytest.mark.parametrize("levels", [None, 4])
def test_local_maxima_against_loops(shape, levels):
    x = np.random.default_rng(1).normal(size=shape)
    if levels is not None:
        x = np.floor(levels * x) / levels  # ties: the first of equal neighbours counts as the higher one
    found = local_maxima(x)
    for place in np.ndindex(shape):
        offsets = [o for o in itertools.product((-1, 0, 1), repeat=len(shape)) if any(o)]
        higher = all(
            x[place] > x[near] or (x[place] == x[near] and o > (0,) * len(shape))
            for o in offsets
            for near in [tuple((p + q) % n for p, q, n in zip(place, o, shape, strict=True))]
        )
        assert found[place] == higher


def test_what_is_measured_in_a_map():
    x = gaussian(6, 1) + 0.3
    bins = choose_bins(x, GRID)
    vector, part = bins.measure(x[2]), bins.slices
    assert vector[part["mean"]] == pytest.approx(x[2].mean())
    assert vector[part["square"]] == pytest.approx((x[2] ** 2).mean())
    np.testing.assert_allclose(vector[part["power"]], ps.power_spectrum(x[2], GRID, bins="log").power)
    np.testing.assert_allclose(vector[part["cells"]], [(x[2] <= edge).mean() for edge in bins.cells])
    heights = np.histogram(x[2][local_maxima(x[2])], bins.peaks)[0] / x[2].size
    np.testing.assert_allclose(vector[part["peaks"]], heights)
    assert vector[part["peaks"]].sum() == pytest.approx(local_maxima(x[2]).mean())  # no peak is left out
    shares = np.interp(np.percentile(x, [1, 99]), bins.cells, np.arange(len(bins.cells)))
    np.testing.assert_allclose(bins.pdf[[0, -1]], shares, atol=6)
    features = map_vectors(x, bins, ("power", "pdf"))
    assert features.shape == (6, len(bins.power.k) + len(bins.pdf) - 1)
    np.testing.assert_allclose(features[2, : len(bins.power.k)], vector[part["power"]])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rounding_moves_no_cell_across_an_edge(dtype):
    x = ps.LognormalField(GRID, lambda k: 2.0 / k).sample(20, seed=3) + 1
    rounded = x.astype(dtype)
    bins = choose_bins(rounded, GRID)
    cells = bins.slices["cells"]
    for full, short in zip(x, rounded, strict=True):
        np.testing.assert_array_equal(bins.measure(full)[cells], bins.measure(short)[cells])
    assert not np.isin(bins.cells, rounded.astype(float)).any()
    whole = choose_bins(np.random.default_rng(1).poisson(4.0, size=(9, 16, 16)), GRID)
    assert (whole.cells[whole.pdf] % 1 == 0.5).all()


# --- sets of maps ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    """Two thousand maps of one law, measured once with bins of the first thirty."""
    maps = gaussian(2000, 11)
    bins = choose_bins(maps[:30], GRID)
    return bins, np.array([bins.measure(x) for x in maps])


def subset(bins, vectors, weights=None):
    return MapMeans(bins, UnitMeans(vectors, weights), len(vectors))


def test_equal_sets_agree_as_often_as_they_should(measured):
    bins, vectors = measured
    found = {name: [] for name in STATISTICS}
    pulls = {name: [] for name in STATISTICS}
    for i in range(40):
        a, b = subset(bins, vectors[50 * i : 50 * i + 20]), subset(bins, vectors[50 * i + 20 : 50 * i + 50])
        for name in STATISTICS:
            each = compare_statistic(name, a, b, design="alike", permutations=199)
            found[name].append(each.test.p_value)
            pulls[name].append(each.deviation / each.deviation_error)
    assert set(found.pop("mean")) == {1.0}  # of rounding alone
    for name, p_values in found.items():  # 7 tests of uniformity, a false alarm in 10 000
        assert stats.kstest(p_values, "uniform").pvalue > 1e-5, name
    for name in ("power spectrum", "one-point PDF", "quantiles", "variance"):
        # Deviations in units of their errors: Student's t of some 30 degrees of freedom and 40 draws.
        spread = np.sqrt(np.mean(np.array(pulls[name]) ** 2))
        assert 0.85 < spread < 1.2, (name, spread)


def test_a_grouped_reference_agrees_with_single_maps(measured):
    # Maps of one group share an amplitude, so that they say less than their number.
    bins, _ = measured
    rng = np.random.default_rng(12)
    g = gaussian(2400, 13)
    factor = np.exp(0.15 * rng.normal(size=240))
    grouped = map_means(g[:1200] * np.repeat(factor[:120], 10)[:, None, None], bins, np.arange(1200))
    single = map_means(g[1200:] * np.exp(0.15 * rng.normal(size=(1200, 1, 1))), bins, np.arange(1200))
    found, naive = [], []
    for i in range(20):
        at = slice(60 * i, 60 * i + 60)
        a = subset(bins, single.units.values[at])
        means = grouped.units.values[at].reshape(6, 10, -1).mean(axis=1)
        b = subset(bins, means, np.full(6, 10.0))
        for name in ("variance", "power spectrum", "one-point PDF"):
            found.append(compare_statistic(name, a, b, design="apart", permutations=199).test.p_value)
        plain = subset(bins, grouped.units.values[at])
        naive.append(compare_statistic("variance", a, plain, design="alike", permutations=199).test.p_value)
    assert stats.kstest(found, "uniform").pvalue > 1e-5
    assert (np.array(found) < 0.02).sum() <= 8  # 1.2 expected
    assert (np.array(naive) < 0.02).sum() >= 3  # 0.4 expected, if groups did not matter


def test_planted_differences_are_found_and_named():
    reference, right = gaussian(250, 21), gaussian(200, 22)
    passed = compare_fields(right, reference, GRID)
    assert passed.passed, str(passed)
    louder = compare_fields(right * math.sqrt(1.07), reference, GRID)
    assert louder["power spectrum"].differs
    assert louder["variance"].differs
    assert not louder["squeezed bispectrum"].differs
    assert louder["variance"].deviation[0] == pytest.approx(
        0.07, abs=4.5 * louder["variance"].deviation_error[0]
    )
    wrong = compare_fields(skewed(right, 0.2), reference, GRID)
    assert not wrong["variance"].differs
    assert wrong["one-point PDF"].differs
    assert wrong["squeezed bispectrum"].differs
    assert wrong["squeezed bispectrum"].worst is None  # a Gaussian reference: there is no ratio
    assert "FAILED: " in str(wrong)
    shifted = compare_fields(right + 0.07 * reference.std(), reference, GRID)
    assert shifted["mean"].differs
    assert shifted["mean"].deviation[0] == pytest.approx(0.07, rel=0.2)
    assert not shifted["power spectrum"].differs


def test_pairs_of_opposite_phase_are_one_unit():
    """As independent maps, right sets of 30 pairs failed 9 of 60 times."""
    sets = [
        ps.GaussianRandomField(GRID, lambda k: 2.0 / k).sample(60, seed=seed, paired=True) for seed in (1, 2)
    ]
    found = compare_fields(*sets, GRID)
    assert found.passed
    assert found.units == (30, 30)
    assert sum("is of pairs" in note for note in found.notes) == 2
    groups = np.arange(60) // 2
    told = compare_fields(*sets, GRID, generated_groups=groups, groups=groups)
    assert [each.test.p_value for each in told.statistics.values()] == [
        each.test.p_value for each in found.statistics.values()
    ]
    one = compare_fields(sets[0], gaussian(60, 3), GRID)
    assert one.units[0] == 30
    assert compare_fields(gaussian(60, 4), gaussian(60, 3), GRID).units == (60, 60)


def test_ratios_of_positive_fields_and_the_tolerance():
    law = ps.LognormalField(GRID, lambda k: 0.5 / k)
    reference, other = 1 + law.sample(150, seed=1), 1.02 * (1 + law.sample(150, seed=2))
    found = compare_fields(other, reference, GRID)
    quantiles = found["quantiles"]
    assert quantiles.relative
    z = (quantiles.deviation - 0.02) / quantiles.deviation_error
    assert np.abs(z).max() < 4.5  # 9 comparisons
    np.testing.assert_allclose(quantiles.reference, np.quantile(reference, quantiles.x), rtol=0.01)
    np.testing.assert_allclose(quantiles.generated, np.quantile(other, quantiles.x), rtol=0.01)
    assert found["mean"].verdict == "DIFFERS"
    tolerant = compare_fields(other, reference, GRID, tolerance=0.03)
    assert tolerant["mean"].verdict == "differs within the tolerance"
    assert tolerant["mean"].passed
    assert found["equilateral bispectrum"].worst is not None
    pdf = found["one-point PDF"]
    inside = (reference > np.percentile(reference, 1)) & (reference < np.percentile(reference, 99))
    width = np.diff(choose_bins(reference, GRID).cells[choose_bins(reference, GRID).pdf])
    assert (pdf.reference * width).sum() == pytest.approx(inside.mean(), abs=0.01)


def test_a_mean_of_rounding_is_none():
    """Maps without a mean, a few of them with one that is 1e-8 to 2e-7 of their scatter."""
    reference = gaussian(80, 1).astype(np.float32)
    for seed, (offset, scatter) in enumerate([(0.0, 1e-8), (2e-7, 0.0), (-2e-7, 1e-8)]):
        noise = offset + scatter * np.random.default_rng(seed).normal(size=(30, 1, 1))
        maps = gaussian(30, 2 + seed)
        for generated in (maps + maps.std() * noise, (maps + maps.std() * noise).astype(np.float32)):
            assert compare_fields(generated, reference, GRID)["mean"].verdict == "agrees"
    seen = compare_fields(gaussian(30, 2) + 1e-5, reference, GRID)["mean"]
    assert seen.verdict == "DIFFERS"
    around = np.float32(100) + reference
    assert compare_fields(100 + gaussian(30, 2), around, GRID)["mean"].verdict == "agrees"


@pytest.mark.parametrize("far", [200.0, 1e4, -1e4])
def test_sets_far_apart_fail(far):
    """Beyond all edges at which cells are counted, 128 standard deviations away."""
    found = compare_fields(gaussian(30, 1) + far, gaussian(60, 2), GRID)
    assert not found.passed
    for name in ("mean", "quantiles", "one-point PDF"):
        assert found[name].verdict == "DIFFERS"
    json.dumps(found.as_dict(), allow_nan=False)
    str(found)


def test_sets_of_few_maps_agree():
    """Two maps with as many peaks, or cells in a bin, as each other, and two with more: 4 in 10 sets failed.

    A right set fails once in a thousand times: more than 2 of 30 do in 4 of a million runs.
    """
    sets = gaussian(120, 5).reshape(30, 2, 2, *GRID.shape)
    assert sum(not compare_fields(*pair, GRID).passed for pair in sets) <= 2
    fixed = sets[0] - sets[0].mean(axis=(2, 3), keepdims=True)
    assert compare_fields(fixed[0] + 0.01, fixed[1], GRID)["mean"].verdict == "DIFFERS"  # of no chance


def test_what_is_positive_is_not_called_zero():
    """Of maps with heavy tails: one of 30 has nearly all of the variance."""
    x = gaussian(60, 1)
    x = np.exp(4 * x / x.std())
    x[0] *= 1e4
    found = compare_fields(x[30:], x[:30], GRID)
    for name in ("variance", "power spectrum"):
        assert found[name].worst is None
        assert re.fullmatch(r"\(known to \d+% at best, 100% in one unit\)", found[name].row()[2])
    assert found["mean"].row()[2] == "(0 within the errors)"
    assert found["variance"].concentration[1] > 0.99
    even = compare_fields(gaussian(30, 1), gaussian(30, 2), GRID)
    assert max(even["variance"].concentration) < 0.2
    assert " at k " in even["power spectrum"].row()[2]


def test_pairs():
    truth, noise = gaussian(120, 31), gaussian(120, 32, amplitude=0.5)
    found = compare_fields(truth + noise, truth, GRID, paired=True)
    r = found.correlation
    z = (r.r - 1 / math.sqrt(1.25)) / r.error
    assert np.abs(z).max() < 4.5  # 12 comparisons
    power = found["power spectrum"]
    z = (power.deviation - 0.25) / power.deviation_error
    assert np.abs(z).max() < 4.5
    unpaired = compare_fields(truth + noise, truth, GRID)
    assert np.median(power.deviation_error) < 0.75 * np.median(unpaired["power spectrum"].deviation_error)
    assert "cross-correlation r(k): " in str(found)
    # Shuffled pairs have no correlation.
    found = compare_fields(np.roll(truth, 1, axis=0), truth, GRID, paired=True)
    assert np.abs(found.correlation.r / found.correlation.error).max() < 4.5
    same = compare_fields(truth, truth, GRID, paired=True)
    assert same.passed
    np.testing.assert_allclose(same.correlation.r, 1.0)


@pytest.mark.parametrize(("shape", "box"), [((64,), 30.0), ((9, 8, 7), (9.0, 8.0, 7.0))])
def test_other_dimensions(shape, box):
    grid = ps.Grid(shape, box)
    a, b = gaussian(60, 1, grid), gaussian(40, 2, grid)
    found = compare_fields(a, b, grid)
    assert found.passed
    assert ("equilateral bispectrum" in found.statistics) == (len(shape) > 1)
    lazy = [FieldSequence(lambda i, x=x: x[i], range(len(x)), grid.dim + 1) for x in (a, b)]
    assert compare_fields(*lazy, grid).as_dict() == found.as_dict()
    assert json.loads(json.dumps(found.as_dict()))["maps"] == {"generated": 60, "reference": 40}


def test_notes_and_units():
    a, b = gaussian(40, 1), gaussian(40, 2)
    groups = np.repeat(np.arange(4), 10)
    found = compare_fields(a + 1, b, GRID, groups=groups)
    assert found.units == (40, 4)
    assert "is one of the sets delta and the other 1 + delta?" in found.notes[0]
    assert "the reference has 4 independent units" in found.notes[1]
    assert "the groups of the reference are worth 4 of equal size: right sets fail more" in found.notes[2]
    unequal = np.repeat(np.arange(11), [30, *[1] * 10])
    both = compare_fields(a, b, GRID, groups=np.arange(40) // 2, generated_groups=unequal)
    assert any("the groups of the generated set are worth 1.8 of equal size" in note for note in both.notes)
    assert not any("groups of the reference" in note for note in both.notes)
    assert "40 maps generated against 40 maps (4 units) of the reference" in str(found)
    unit = units_of(5000, None, size=3)
    assert np.bincount(unit).min() >= 3
    assert unit.max() + 1 == 1666
    np.testing.assert_array_equal(units_of(4, ["b", "a", "b", "c"]), [1, 0, 1, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generated": np.zeros((5, 8, 8))}, r"generated holds maps of shape \(8, 8\)"),
        ({"generated": np.zeros((0, 16, 16))}, "generated holds maps"),
        ({"generated": gaussian(1, 1)}, r"generated holds 1 map\(s\)"),
        ({"generated": np.full((5, 16, 16), np.nan)}, "not finite"),
        ({"reference": np.ones((5, 16, 16))}, "reference does not vary"),
        ({"reference": np.full((5, 16, 16), np.inf)}, "reference holds values that are not finite"),
        ({"groups": np.zeros(3)}, r"groups has shape \(3,\)"),
        ({"groups": np.zeros(6)}, "groups holds the one label 0"),
        ({"paired": True}, "generated holds 5 maps and reference 6"),
        ({"tolerance": -1.0}, "tolerance is -1"),
        ({"percentiles": (99, 1)}, "percentiles is"),
        ({"permutations": 100}, "permutations is 100"),
    ],
)
def test_bad_input_is_one_sentence(options, message):
    given = {"generated": gaussian(5, 1), "reference": gaussian(6, 2), "grid": GRID, **options}
    with pytest.raises(InputError, match=message) as caught:
        compare_fields(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: map_vectors(gaussian(3, 1), choose_bins(gaussian(3, 1), GRID), ("mass",)), "'mass'"),
    ],
)
def test_bad_input_of_the_parts(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_maps_of_any_byte_order_and_real_numbers_only():
    grid = ps.Grid((16, 16), box_size=10.0)
    a, b = np.random.default_rng(0).normal(size=(2, 20, 16, 16)).astype(np.float32)
    audit = str(ps.compare_fields(a, b, grid))
    for dtype in (">f4", "<f4"):
        assert str(ps.compare_fields(a.astype(dtype), b.astype(dtype), grid)) == audit
        assert str(ps.compare_fields(a.astype(dtype), b, grid)) == audit
    for change in (lambda x: x + 1j, lambda x: x.astype(object)):
        for pair in ((change(a), b), (a, change(b))):
            with pytest.raises(ps.InputError, match="real numbers"):
                ps.compare_fields(*pair, grid)
