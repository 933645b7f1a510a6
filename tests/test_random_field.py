"""Gaussian random fields: the power of every kind of mode, energy, score, whitening, nesting.

Statistics are turned into two-sided p-values from their exact law; a test fails below 1e-7, which
with some 1000 of them is a false alarm in 10000 runs.
"""

import numpy as np
import pytest
import scipy.fft
from scipy import stats

import physscore as ps
from physscore.arrays import threads
from physscore.core import InputError
from physscore.grid import WavenumberTable

ALPHA = 1e-7
REALIZATIONS = 300
BOXES = [
    ((16,), 4.0),
    ((15,), 4.0),
    ((8, 8), 4.0),
    ((9, 6), (4.0, 3.0)),
    ((6, 9), (4.0, 3.0)),
    ((8, 8, 8), 4.0),
    ((5, 7, 9), (3.0, 4.0, 5.0)),
    ((6, 4, 5), (3.0, 2.0, 2.5)),
    ((5, 4, 6), (3.0, 4.0, 3.5)),
]


def spectrum(k):
    return 2.0 * k**-1.3


def two_sided(statistic, dof):
    return 2 * min(stats.chi2.sf(statistic, dof), stats.chi2.cdf(statistic, dof))


def coefficients(x, grid):
    """|delta_k|^2 / V of every mode of the full spectrum, shape (n, *grid.shape), and its |k|."""
    axes = tuple(range(1, grid.dim + 1))
    modes = np.fft.fftn(x.astype(np.float64), axes=axes) * grid.volume / grid.n_cells
    k = [2 * np.pi * np.fft.fftfreq(n, side / n) for n, side in zip(grid.shape, grid.box_size, strict=True)]
    return np.abs(modes) ** 2 / grid.volume, np.sqrt(sum(a**2 for a in np.meshgrid(*k, indexing="ij")))


def kinds_of_modes(grid, k):
    """Names and masks: bulk, k = 0 and Nyquist planes of each axis, modes that are their own partner,
    the three lowest shells, the corner."""
    n = np.meshgrid(*[np.fft.fftfreq(m, 1 / m).round() for m in grid.shape], indexing="ij")
    free = k > 0
    special = np.zeros(grid.shape, bool)
    own = free.copy()
    for axis, (m, size) in enumerate(zip(n, grid.shape, strict=True)):
        nyquist = 2 * np.abs(m) == size
        yield f"zero plane of axis {axis}", (m == 0) & free
        yield f"Nyquist plane of axis {axis}", nyquist
        special |= (m == 0) | nyquist
        own &= (m == 0) | nyquist
    yield "bulk", ~special
    yield "own partners", own
    for i, value in enumerate(np.unique(k[free].round(9))[:3]):
        yield f"shell {i}", np.isclose(k, value)
    yield "highest", np.isclose(k, k.max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_power_of_every_kind_of_mode(shape, box, dtype):
    grid = ps.Grid(shape, box)
    x = ps.GaussianRandomField(grid, spectrum).sample(REALIZATIONS, seed=1, dtype=dtype)
    assert x.shape == (REALIZATIONS, *shape)
    assert x.dtype == dtype
    power, k = coefficients(x, grid)
    zero = k == 0
    assert power[:, zero].max() < 1e-9 * power.mean()
    ratio = power / np.where(zero, 1.0, spectrum(np.where(zero, 1.0, k)))
    for name, mask in kinds_of_modes(grid, k):
        if mask.any():  # k and -k are one complex number, counted twice: n modes, n degrees of freedom
            p = two_sided(ratio[:, mask].sum(), REALIZATIONS * mask.sum())
            assert p > ALPHA, f"{name}: {ratio[:, mask].mean()}"


def test_planes_drawn_like_the_bulk_would_be_caught():
    """The classic mistake, the planes of a half spectrum without their symmetry, fails the test above."""
    grid = ps.Grid((8, 8, 8), 4.0)
    rng = np.random.default_rng(0)
    half = rng.standard_normal((REALIZATIONS, 8, 8, 5)) + 1j * rng.standard_normal((REALIZATIONS, 8, 8, 5))
    x = np.fft.irfftn(half, s=grid.shape, axes=(1, 2, 3)) * 8**1.5 / np.sqrt(2)
    power, k = coefficients(x, grid)
    lowest = dict(kinds_of_modes(grid, k))["zero plane of axis 2"]
    cell = grid.volume / grid.n_cells
    assert two_sided(power[:, lowest].sum() / cell, REALIZATIONS * lowest.sum()) < ALPHA


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_energy_against_a_dense_covariance(shape, box):
    grid = ps.Grid(shape, box)
    prior = ps.GaussianRandomField(grid, spectrum)
    impulse = np.zeros(shape)
    impulse.flat[0] = 1.0
    _, k = coefficients(impulse[np.newaxis], grid)
    eigenvalues = np.where(k > 0, spectrum(np.where(k > 0, k, 1.0)), 0.0) * grid.n_cells / grid.volume
    # The rows of a circulant matrix are shifts of one correlation.
    correlation = np.fft.ifftn(eigenvalues).real
    cells = np.stack(np.unravel_index(np.arange(grid.n_cells), shape))
    differences = tuple((cells[i][:, None] - cells[i]) % n for i, n in enumerate(shape))
    covariance = correlation[differences]
    values, vectors = np.linalg.eigh(covariance)
    assert prior.n_free_modes == grid.n_cells - 1
    free = values > 1e-10 * values.max()
    assert free.sum() == prior.n_free_modes
    x = np.random.default_rng(0).standard_normal((3, *shape))
    projected = x.reshape(3, -1) @ vectors[:, free]
    expected = 0.5 * (projected**2 / values[free] + np.log(2 * np.pi * values[free])).sum(axis=1)
    np.testing.assert_allclose(prior.energy(x), expected, rtol=1e-10)
    expected = -(projected / values[free]) @ vectors[:, free].T
    np.testing.assert_allclose(prior.score(x).reshape(3, -1), expected, atol=1e-10 * np.abs(expected).max())
    np.testing.assert_allclose(prior.energy(x.astype("f4")), prior.energy(x), rtol=1e-5)
    np.testing.assert_allclose(prior.variance, covariance[0, 0])


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_score_is_the_slope_of_the_energy(shape, box):
    prior = ps.GaussianRandomField(ps.Grid(shape, box), spectrum)
    rng = np.random.default_rng(0)
    x, direction = prior.sample(1, seed=2), rng.standard_normal((1, *shape))
    step = 1e-5
    slope = (prior.energy(x + step * direction) - prior.energy(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(-(prior.score(x) * direction).sum(), slope, rtol=1e-6)
    energies, scores = prior.energy_and_score(x)
    np.testing.assert_array_equal(energies, prior.energy(x))
    np.testing.assert_array_equal(scores, prior.score(x))
    assert energies.dtype == np.float64
    assert prior.log_z == 0.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_draws_have_the_law_of_the_energy(shape, box, dtype):
    """x.s(x) = -chi2 with as many degrees as free modes, and the energy follows it."""
    prior = ps.GaussianRandomField(ps.Grid(shape, box), spectrum)
    x = prior.sample(REALIZATIONS, seed=3, dtype=dtype)
    product = -(x * prior.score(x)).astype(np.float64).sum()
    assert two_sided(product, REALIZATIONS * prior.n_free_modes) > ALPHA
    at_zero = prior.energy(np.zeros((1, *shape), dtype))
    np.testing.assert_allclose(2 * (prior.energy(x) - at_zero).sum(), product, rtol=1e-4)
    each = 2 * (prior.energy(x) - at_zero)
    assert stats.kstest(each, stats.chi2(prior.n_free_modes).cdf).pvalue > ALPHA


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_whitening(shape, box):
    grid = ps.Grid(shape, box)
    prior = ps.GaussianRandomField(grid, spectrum)
    z = np.random.default_rng(0).standard_normal((4, *shape))
    axes = tuple(range(1, grid.dim + 1))
    without_mean = z - z.mean(axis=axes, keepdims=True)
    np.testing.assert_allclose(prior.whiten(prior.unwhiten(z)), without_mean, atol=1e-12)
    x = prior.sample(REALIZATIONS, seed=4)
    np.testing.assert_allclose(prior.unwhiten(prior.whiten(x)), x, atol=1e-12)
    power, k = coefficients(prior.whiten(x), grid)
    white = power[:, k > 0] * grid.n_cells / grid.volume
    assert two_sided(white.sum(), white.size) > ALPHA
    np.testing.assert_allclose(
        prior.energy(x) - prior.energy(0 * x), 0.5 * (prior.whiten(x) ** 2).sum(axis=axes), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("small", "large"), [((8,), (16,)), ((9,), (20,)), ((8, 6), (16, 12)), ((6, 7), (10, 8)),
                         ((8, 8, 8), (16, 16, 16)), ((5, 6, 7), (9, 12, 8))]
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_modes_are_nested(small, large, dtype):
    """Inside the Nyquist planes a coarse grid has the very modes of a fine one."""
    fields = []
    for shape in (small, large):
        prior = ps.GaussianRandomField(ps.Grid(shape, 5.0), spectrum)
        fields.append(np.fft.fftn(prior.sample(1, seed=9, dtype=dtype)[0].astype(float)) / prior.grid.n_cells)
    inside = [np.arange(-((n - 1) // 2), (n - 1) // 2 + 1) for n in small]
    coarse, fine = (field[np.ix_(*inside)] for field in fields)
    np.testing.assert_allclose(coarse, fine, atol=1e-6 if dtype == "float32" else 1e-14)
    assert np.abs(coarse).max() > 0.1


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_same_field_however_it_is_drawn(shape, box):
    prior = ps.GaussianRandomField(ps.Grid(shape, box), spectrum)
    x = prior.sample(4, seed=5, dtype="float32")
    for i in range(4):
        np.testing.assert_array_equal(prior.sample(1, seed=5, dtype="float32", first=i)[0], x[i])
    results = []
    for n in (1, 2):
        with threads(n):
            results.append([prior.sample(4, seed=5, dtype="float32"), prior.score(x), prior.energy(x)])
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(results[0][0], x)
    np.testing.assert_allclose(prior.sample(4, seed=5), x, atol=1e-4 * x.std())
    assert not np.isclose(prior.sample(1, seed=6, dtype="float32")[0], x[0]).all()


@pytest.mark.parametrize("shape", [(32,), (12, 10), (4, 6, 5)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_fields_are_made_many_at_a_time(monkeypatch, shape, dtype):
    """One by one each took 50 to 250 us, nearly all of it for calls; they are the same, to the last bit."""
    calls, names = [], ("irfft", "ifft", "rfftn")
    for name in names:
        transform = getattr(scipy.fft, name)
        monkeypatch.setattr(scipy.fft, name, lambda *a, f=transform, **kw: (calls.append(1), f(*a, **kw))[1])
    prior, n = ps.GaussianRandomField(ps.Grid(shape, 4.0), spectrum), 600
    x = prior.sample(n, seed=1, dtype=dtype, paired=True, first=3)
    assert len(calls) < n / 10
    many = [prior.energy_and_score(x)[0], *(f(x) for f in (prior.score, prior.whiten, prior.unwhiten))]
    assert len(calls) < 5 * n / 10
    for i in (0, 1, 7, 135, 136, 137, 511, 512, 599):  # at the edges of blocks, too
        one = x[i : i + 1]
        np.testing.assert_array_equal(one, prior.sample(1, seed=1, dtype=dtype, paired=True, first=3 + i))
        alone = [
            prior.energy_and_score(one)[0],
            *(f(one) for f in (prior.score, prior.whiten, prior.unwhiten)),
        ]
        for a, b in zip(alone, many, strict=True):
            np.testing.assert_array_equal(a[0], b[i])


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_fixed_amplitudes(shape, box):
    grid = ps.Grid(shape, box)
    prior = ps.GaussianRandomField(grid, spectrum)
    x = prior.sample(50, seed=6, fixed=True)
    power, k = coefficients(x, grid)
    np.testing.assert_allclose(power[:, k > 0], np.broadcast_to(spectrum(k[k > 0]), power[:, k > 0].shape))
    assert not np.allclose(x[0], x[1])
    phases = np.angle(np.fft.rfftn(x, axes=tuple(range(1, grid.dim + 1))))[..., 1]
    assert stats.kstest(phases.reshape(50, -1)[:, 0], stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > ALPHA


@pytest.mark.parametrize(("small", "large"), [((8, 6), (16, 12)), ((9, 6), (18, 18)), ((12,), (16,))])
def test_positions_are_the_same_at_every_resolution(small, large):
    """A field that both resolve has the same value where cells of both have the same position."""

    def band(k):
        return np.where(k < 4.0, 1.0, 0.0)

    grids = [ps.Grid(shape, (5.0, 4.0)[: len(shape)]) for shape in (small, large)]
    fields = [ps.GaussianRandomField(grid, band).sample(1, seed=3)[0] for grid in grids]
    shared = [
        np.intersect1d(*(grid.coordinates(axis).round(9) for grid in grids), return_indices=True)[1:]
        for axis in range(len(small))
    ]
    assert all(len(places[0]) > 1 for places in shared)
    coarse, fine = (field[np.ix_(*(places[i] for places in shared))] for i, field in enumerate(fields))
    np.testing.assert_allclose(coarse, fine, atol=1e-12 * fields[0].std())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, table: np.where(table.k > 0.3, -1.0, p), r"power is -1.0 at k = 0.3\d+: P must be"),
        (lambda p, table: np.where(table.k > 0.3, np.nan, p), "power is nan at k = "),
        (lambda p, table: np.inf * p, "power is inf at k = 0: P must be finite"),
        (lambda p, table: np.ones((8, 8, 5)), r"power has shape \(8, 8, 5\): it must be \(125,\)"),
        (lambda p, table: p + 1j, "power is"),
    ],
)
def test_modes_without_a_power_are_refused(change, message):
    grid = ps.Grid((8, 8, 8), 100.0)
    table = WavenumberTable(grid, octant=True)
    with pytest.raises(InputError, match=message):
        ps.GaussianRandomField.from_modes(grid, table, change(np.ones(table.size), table))


@pytest.mark.parametrize("other", [ps.Grid((6, 6, 6), 100.0), ps.Grid((8, 8, 8), 1000.0)])
def test_tables_of_other_grids_are_refused(other):
    grid, table = ps.Grid((8, 8, 8), 100.0), WavenumberTable(other, octant=True)
    for call in (
        lambda: ps.GaussianRandomField.from_modes(grid, table, np.ones(table.size)),
        lambda: ps.power_spectrum(np.ones(grid.shape), grid, wavenumbers=table),
    ):
        with pytest.raises(InputError, match="wavenumbers is the table of Grid"):
            call()


@pytest.mark.parametrize("sigma", [1e-15, 1e8, 1e15, 1e22])
def test_scores_of_single_precision_are_right_or_refused(sigma):
    """The factors of modes are below the smallest float32 where sigma^2 N is above 1e38: 1e22 gave 0."""
    prior = ps.GaussianRandomField(ps.Grid((32, 32, 32), 100.0), lambda k: sigma**2 * 1e3 / k)
    x = prior.sample(1, seed=1)
    single = x.astype(np.float32)
    if sigma > 1e20:
        with pytest.raises(InputError, match="float32, whose range the spectrum exceeds"):
            prior.score(single)
    else:
        score = prior.score(x)
        assert np.abs(prior.score(single) - score).max() < 1e-4 * np.abs(score).max()
    np.testing.assert_allclose(prior.whiten(single), prior.whiten(x), atol=1e-4)


def test_steep_spectra_are_not_refused_in_single_precision():
    prior = ps.GaussianRandomField(ps.Grid((16, 16), 1.0), lambda k: np.exp(-((k / 3.0) ** 2)))
    assert prior.power[prior.power > 0].min() < 1e-100
    z = prior.sample(1, seed=1, dtype="float32")
    assert np.isfinite(prior.unwhiten(z)).all()


def test_paired_phases():
    prior = ps.GaussianRandomField(ps.Grid((8, 6), 1.0), spectrum)
    x = prior.sample(4, seed=7, paired=True)
    np.testing.assert_array_equal(x[1::2], -x[::2])
    assert not np.allclose(x[0], x[2])
    np.testing.assert_array_equal(prior.sample(1, seed=7, paired=True, first=3), x[3:])


def test_modes_without_power_are_fixed():
    grid = ps.Grid((8, 9, 10), 10.0)

    def cut(k):
        return np.where(k < 2.0, k**-1.0, 0.0)

    prior = ps.GaussianRandomField(grid, cut)
    x = prior.sample(REALIZATIONS, seed=8)
    power, k = coefficients(x, grid)
    fixed = (k == 0) | (k >= 2.0)
    assert prior.n_free_modes == (~fixed).sum()
    assert power[:, fixed].max() < 1e-25
    noise = np.random.default_rng(0).standard_normal((1, *grid.shape))
    power, _ = coefficients(prior.score(noise), grid)
    assert power[:, fixed].max() < 1e-25
    assert two_sided(-(x * prior.score(x)).sum(), REALIZATIONS * prior.n_free_modes) > ALPHA
    np.testing.assert_allclose(prior.energy(x + 1.0), prior.energy(x))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda k: -k, r"spectrum is -.* at k = .*not negative"),
        (lambda k: np.where(k > 3, np.nan, 1.0), r"spectrum is nan at k = 3\..*finite"),
        (lambda k: k[:-1], r"spectrum returned the shape \(\d+,\) for"),
        (lambda k: 0 * k, "spectrum is zero at every mode"),
        (ps.spectra.Tabulated([1.0, 2.0], [1.0, 1.0]), r"covers k from 1 to 2, but .* from 0.6283 to .*"),
    ],
)
def test_bad_spectrum(bad, message):
    with pytest.raises(InputError, match=message):
        ps.GaussianRandomField(ps.Grid((8, 8), 10.0), bad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"n": 1.5}, "n is 1.5"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"seed": -1}, "seed is -1"),
        ({"first": -1}, "first is -1"),
    ],
)
def test_bad_sample(options, message):
    prior = ps.GaussianRandomField(ps.Grid((8, 8), 10.0), spectrum)
    with pytest.raises(InputError, match=message):
        prior.sample(**{"n": 1, "seed": 0, **options})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((8, 8)), r"x has shape \(8, 8\): it must be \(n, 8, 8\)"),
        (np.zeros((2, 8, 9)), r"x has shape \(2, 8, 9\)"),
        (np.zeros((2, 8, 8), complex), "x has the type complex128: it must hold real numbers"),
    ],
)
def test_bad_states(x, message):
    prior = ps.GaussianRandomField(ps.Grid((8, 8), 10.0), spectrum)
    for method in (prior.energy, prior.score, prior.whiten, prior.energy_and_score):
        with pytest.raises(InputError, match=message):
            method(x)


def test_field_larger_than_memory(monkeypatch):
    grid = ps.Grid((64, 64, 64), 10.0)
    prior = ps.GaussianRandomField(grid, spectrum)
    monkeypatch.setattr("physscore.arrays._unused_memory", lambda: 0)
    monkeypatch.setattr("physscore.arrays.available_memory", lambda device: 10**6)
    with pytest.raises(InputError, match=r"sampling 3 fields of 64 x 64 x 64 cells in float64 needs .* GiB"):
        prior.sample(3, seed=0)
    ps.GaussianRandomField(grid, spectrum)  # its fields may be made in parts
    monkeypatch.setattr("physscore.arrays.available_memory", lambda device: 10**5)
    with pytest.raises(InputError, match=r"the table of .* needs .* GiB of memory and .* GiB are free"):
        ps.GaussianRandomField(grid, spectrum)


@pytest.mark.parametrize(("shape", "box"), [((9,), 4.0), ((6, 9), (6.0, 8.0)), ((8, 5, 6), (3.0, 4.0, 3.5))])
def test_a_field_that_is_not_isotropic(shape, box):
    """Its score is that of the P of each mode of NumPy's FFT; one whose P is isotropic is the plain field."""
    grid = ps.Grid(shape, box)

    def stretched(*k):
        size = np.sqrt(sum(one**2 for one in k))
        return (1 + 0.8 * (k[-1] / size) ** 2) ** 2 / size

    prior = ps.GaussianRandomField.from_wavevectors(grid, stretched)
    k = np.meshgrid(
        *(2 * np.pi * np.fft.fftfreq(n, d) for n, d in zip(shape, grid.cell_size, strict=True)), indexing="ij"
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        power = stretched(*map(np.abs, k)) * grid.n_cells / grid.volume
    power.flat[0] = np.inf
    x = prior.sample(2, seed=1)
    axes = tuple(range(1, grid.dim + 1))
    expected = -np.fft.ifftn(np.fft.fftn(x, axes=axes) / power, axes=axes).real
    np.testing.assert_allclose(prior.score(x), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    if grid.dim > 1:
        assert not ps.check_field(
            prior.sample(200, seed=1), ps.GaussianRandomField(grid, lambda k: 1 / k)
        ).passed
    plain = ps.GaussianRandomField(grid, lambda k: 1 / k)
    same = ps.GaussianRandomField.from_wavevectors(grid, lambda *k: 1 / np.sqrt(sum(one**2 for one in k)))
    np.testing.assert_allclose(same.sample(2, seed=3), plain.sample(2, seed=3), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("spectrum", "message"),
    [
        (1.0, "spectrum is 1.0: it must be a function of the components"),
        (lambda kx, ky: 1.0, r"spectrum returned the shape \(\)"),
        (lambda kx, ky: -kx, "P must be finite and not negative"),
        (lambda kx, ky: kx + 1j, "it must hold real numbers"),
    ],
)
def test_bad_power_of_wavevectors(spectrum, message):
    with pytest.raises(ps.InputError, match=message):
        ps.GaussianRandomField.from_wavevectors(ps.Grid((4, 4), 1.0), spectrum)
