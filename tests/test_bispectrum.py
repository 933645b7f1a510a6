"""The bispectrum against sums over triangles written out, and a field whose bispectrum is known exactly."""

import itertools

import numpy as np
import pytest

import physscore as ps
from physscore.core import InputError
from physscore.diagnostics.bispectrum import TriangleBins, bispectrum
from physscore.diagnostics.many_fields import FieldSequence

BOXES = [((32,), 4.0), ((15,), 3.0), ((14, 12), (4.0, 3.0)), ((9, 9, 9), 4.0), ((8, 10, 9), (4.0, 5.0, 4.2))]


def modes_of(grid, x):
    """delta_k and the integer frequencies of every mode, flat."""
    frequencies = np.meshgrid(
        *[np.rint(np.fft.fftfreq(n) * n).astype(int) for n in grid.shape], indexing="ij"
    )
    delta = np.fft.fftn(x).ravel() * grid.volume / grid.n_cells
    return delta, np.stack([f.ravel() for f in frequencies], axis=1)


def triangles_of(grid, edges, shells):
    """Rows (a, b, c) of modes with k_a + k_b + k_c = 0 in the three shells."""
    _, n = modes_of(grid, np.zeros(grid.shape))
    k = np.sqrt(((n * np.array(grid.fundamental)) ** 2).sum(axis=1))
    shell = np.searchsorted(edges * (1 - 1e-12), k, side="right") - 1
    place = {tuple(row): i for i, row in enumerate(n.tolist())}
    found = []
    for a, b in itertools.product(np.flatnonzero(shell == shells[0]), np.flatnonzero(shell == shells[1])):
        c = place.get(tuple((-n[a] - n[b]).tolist()))
        if c is not None and shell[c] == shells[2]:
            found.append((a, b, c))
    return np.array(found, int).reshape(-1, 3)


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_against_sums_over_triangles(shape, box):
    grid = ps.Grid(shape, box)
    x = np.random.default_rng(1).normal(size=shape)
    x = x + 0.5 * x**2
    n_shells = 3
    wanted = list(itertools.combinations_with_replacement(range(n_shells), 3))
    edges = TriangleBins(grid, bins=n_shells).k_edges
    wanted = [triple for triple in wanted if max(triple) < len(edges) - 1]
    measured = bispectrum(x, grid, bins=n_shells, triangles=wanted)
    bins = TriangleBins(grid, bins=n_shells, triangles=wanted)
    delta, n = modes_of(grid, x)
    k = np.sqrt(((n * np.array(grid.fundamental)) ** 2).sum(axis=1))
    at = 0
    for triple in wanted:
        rows = triangles_of(grid, edges, triple)
        if not len(rows):
            assert triple not in bins.shells
            continue
        assert bins.shells[at] == triple
        assert measured.n_triangles[at] == len(rows)
        expected = delta[rows].prod(axis=1).mean() / grid.volume
        scale = np.abs(delta[rows].prod(axis=1)).mean() / grid.volume
        assert abs(expected.imag) < 1e-10 * scale
        assert measured.bispectrum[at] == pytest.approx(expected.real, abs=1e-10 * scale)
        for side, shell in enumerate(triple):
            inside = (k >= edges[shell] * (1 - 1e-12)) & (k < edges[shell + 1] * (1 - 1e-12))
            assert measured.k[at, side] == pytest.approx(k[inside].mean())
        at += 1
    assert at == len(bins.shells)
    assert at >= (2 if len(shape) == 1 else 5)


def test_a_quadratic_field_has_its_exact_bispectrum():
    # x = g + f (g^2 - <g^2>): <x1 x2 x3> = 2 f (xi12 xi23 + 2 others) + 8 f^3 xi12 xi23 xi31, so that
    # B = 2 f (P1 P2 + 2 others) + 8 f^3 (1/V) sum over q of P(q) P(k1 - q) P(k2 + q), sums modulo the grid.
    grid, f, n = ps.Grid((12, 12), 6.0), 0.3, 3000
    prior = ps.GaussianRandomField(grid, lambda k: 0.4 / (1 + (k / 3) ** 2))
    g = prior.sample(n, seed=3)
    _, integers = modes_of(grid, np.zeros(grid.shape))
    k = np.sqrt(((integers * np.array(grid.fundamental)) ** 2).sum(axis=1))
    power = np.zeros(len(k))
    power[k > 0] = 0.4 / (1 + (k[k > 0] / 3) ** 2)
    table = power.reshape(grid.shape)
    variance = power.sum() / grid.volume
    x = g + f * (g**2 - variance)

    def at(rows):
        return table[tuple((rows % 12).T)]

    for triangles in ("equilateral", "squeezed"):
        measured = bispectrum(x, grid, bins=4, triangles=triangles)
        bins = TriangleBins(grid, bins=4, triangles=triangles)
        expected = []
        for triple in bins.shells:
            rows = triangles_of(grid, bins.k_edges, triple)
            p1, p2, p3 = power[rows].T
            tree = 2 * f * (p1 * p2 + p2 * p3 + p3 * p1)
            loop = [
                (power * at(integers[a] - integers) * at(integers[b] + integers)).sum() for a, b, _ in rows
            ]
            expected.append(np.mean(tree + 8 * f**3 * np.array(loop) / grid.volume))
        error = measured.bispectrum.std(axis=0) / np.sqrt(n)
        z = (measured.bispectrum.mean(axis=0) - expected) / error
        assert (np.array(expected) / error > 8).all()
        assert np.abs(z).max() < 4.5, z  # 7 comparisons, a false alarm in 20 000


def test_gaussian_fields_have_none_and_the_stated_error():
    # For P(k) = 2: var B = s V P^3 / n_triangles, which is the mean square of the stated error.
    grid, n = ps.Grid((16, 12), (8.0, 6.0)), 2500
    x = ps.GaussianRandomField(grid, lambda k: 2.0 + 0 * k).sample(n, seed=5)
    every = [(0, 0, 0), (0, 1, 1), (1, 1, 2), (0, 1, 2), (1, 2, 2), (2, 2, 2), (0, 2, 2), (1, 1, 1)]
    bins = TriangleBins(grid, bins=3, triangles=every)
    measured = bispectrum(x, grid, bins=3, triangles=every)
    assert set(bins.symmetry) == {1, 2, 6}
    b = measured.bispectrum
    assert np.abs(b.mean(axis=0) / b.std(axis=0)).max() * np.sqrt(n) < 4.5
    exact = bins.symmetry * grid.volume * 8.0 / measured.n_triangles
    z = ((b**2).mean(axis=0) - exact) / ((b**2).std(axis=0) / np.sqrt(n))
    assert np.abs(z).max() < 4.5, z
    squares = measured.error**2
    z = (squares.mean(axis=0) - exact) / (squares.std(axis=0) / np.sqrt(n))
    assert np.abs(z).max() < 4.5, z


@pytest.mark.parametrize(
    ("shape", "box", "index", "bins"),
    [
        pytest.param((24, 24, 24), 100.0, -2.5, [0.06, 0.3, 0.5], marks=pytest.mark.long),
        ((32, 32), 100.0, -2.0, [0.06, 0.25, 0.65]),
        ((16, 16, 16), 100.0, 0.0, [0.06, 0.07, 0.1]),
        ((12, 15, 10), (7.0, 8.0, 6.0), -1.5, 3),
        ((64,), 10.0, -1.0, [0.5, 3.0, 8.0]),
    ],
)
def test_errors_of_wide_shells_and_of_few_modes(shape, box, index, bins):
    """Mean squares of error and of B of 1500 fields agree: to |z| < 5, by their spread, beside 6% at most
    where many modes of a steep spectrum are taken to be alike. P1 P2 P3 of the shells is off by 0.3 to 0.7.
    """
    grid, n = ps.Grid(shape, box), 1500
    x = ps.GaussianRandomField(grid, lambda k: k**index).sample(n, seed=1)
    measured = bispectrum(x, grid, bins=bins, triangles=["equilateral", "squeezed"])
    squares, scatter = measured.error**2, measured.bispectrum**2
    ratio = squares.mean(axis=0) / scatter.mean(axis=0)
    relative = np.hypot(
        squares.std(axis=0) / squares.mean(axis=0), scatter.std(axis=0) / scatter.mean(axis=0)
    )
    assert (np.abs(ratio - 1) < 0.06 + 5 * relative / np.sqrt(n)).all(), ratio


def test_scaling_mean_and_batches():
    grid = ps.Grid((12, 12, 12), 10.0)
    x = np.random.default_rng(2).gamma(1.0, size=(2, *grid.shape))
    one = bispectrum(x, grid, triangles="squeezed")
    np.testing.assert_allclose(
        bispectrum(7 - 2 * x, grid, triangles="squeezed").bispectrum, -8 * one.bispectrum
    )
    np.testing.assert_allclose(bispectrum(x[1], grid, triangles="squeezed").bispectrum, one.bispectrum[1])
    lazy = FieldSequence(lambda i: x[i], range(2), 4)
    np.testing.assert_array_equal(bispectrum(lazy, grid, triangles="squeezed").bispectrum, one.bispectrum)
    single = bispectrum(x.astype("float32"), grid, triangles="squeezed")
    np.testing.assert_allclose(single.bispectrum, one.bispectrum, rtol=1e-3)
    # The same cells in a box twice as large: B is in length^(2 dim).
    larger = bispectrum(x, ps.Grid(grid.shape, 20.0), triangles="squeezed")
    np.testing.assert_allclose(larger.bispectrum, 64 * one.bispectrum)
    np.testing.assert_allclose(larger.k, one.k / 2)


def test_a_batch_on_no_grid():
    with pytest.raises(InputError, match=r"must be a physscore\.Grid"):
        bispectrum(np.ones((6, 7)), (6, 7))


def test_one_dimension_closes_only_in_wide_shells():
    grid = ps.Grid((64,), 10.0)
    assert TriangleBins(grid, bins=8).shells == []
    assert TriangleBins(grid, bins=[0.5, 3.0, 8.0]).shells  # k, k and 2 k in one shell
    assert TriangleBins(grid, triangles="squeezed").shells


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 0}, "bins is 0"),
        ({"bins": True}, "bins is True"),
        ({"bins": [1.0, 0.5]}, "edges that do not increase"),
        ({"bins": [1.0, 9.0]}, "bins reach to k = 9: beyond 3.35103"),
        ({"triangles": "flat"}, "triangles is 'flat'"),
        ({"triangles": [(0, 1)]}, r"triangles has shape \(1, 2\)"),
        ({"triangles": [(0, 1, 9)]}, "names shell 9"),
    ],
)
def test_bad_input_is_one_sentence(options, message):
    grid = ps.Grid((16, 16), 10.0)
    with pytest.raises(InputError, match=message) as caught:
        bispectrum(np.zeros(grid.shape), grid, **options)
    assert "\n" not in str(caught.value)


def test_bad_fields():
    grid = ps.Grid((16, 16), 10.0)
    with pytest.raises(InputError, match="not finite"):
        bispectrum(np.full(grid.shape, np.nan), grid)
    with pytest.raises(InputError, match="delta has shape"):
        bispectrum(np.zeros((4, 4)), grid)
    with pytest.raises(InputError, match="at least 4"):
        bispectrum(np.zeros((2, 2)), ps.Grid((2, 2), 1.0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: np.ma.masked_array(x, x > 0), "masked values"),
        (lambda x: x + 1j, "real numbers"),
        (lambda x: 1e200 * x, "too large"),
        (lambda x: np.where(x > 0, np.nan, x), "not finite"),
    ],
)
def test_values_without_a_bispectrum_are_refused(change, said):
    grid = ps.Grid((16, 16), box_size=10.0)
    maps = np.random.default_rng(0).normal(size=(2, 16, 16))
    for delta in (change(maps), change(maps)[0]):
        with pytest.raises(ps.InputError, match=said):
            ps.bispectrum(delta, grid)
