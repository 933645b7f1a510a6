"""Multipoles of the power of fields that depend on a line of sight."""

import json

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.polynomial.legendre import legval

import physscore as ps
from physscore.cli.multipoles import command
from physscore.cli.paint import command as paint
from physscore.core import InputError
from physscore.diagnostics.mass_assignment import shot_noise_sums

BOXES = [((8, 8, 8), 4.0), ((8, 6, 10), (4.0, 3.0, 5.0)), ((5, 7, 6), (3.0, 4.0, 3.5))]


def legendre(order, mu):
    return (2 * order + 1) * legval(mu, [0] * order + [1])


def wavevectors(grid):
    axes = [
        2 * np.pi * np.fft.fftfreq(n, side / n) for n, side in zip(grid.shape, grid.box_size, strict=True)
    ]
    return np.meshgrid(*axes, indexing="ij")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_all_modes_by_brute_force(shape, box, axis):
    grid = ps.Grid(shape, box)
    fields = np.random.default_rng(1).standard_normal((3, *shape))
    found = ps.power_multipoles(fields, grid, line_of_sight=axis, orders=(4, 0, 2))
    k = np.sqrt(sum(component**2 for component in wavevectors(grid)))
    mu = wavevectors(grid)[axis] / np.where(k > 0, k, 1)
    power = np.abs(np.fft.fftn(fields, axes=(1, 2, 3))) ** 2 * grid.volume / grid.n_cells**2
    bins = np.digitize(k, found.k_edges * (1 - 1e-12)) - 1
    for b, n in enumerate(found.n_modes):
        here = bins == b
        assert here.sum() == n
        for i, order in enumerate((4, 0, 2)):
            weights = legendre(order, mu[here])
            mean = (power[:, here] * weights).mean(axis=1)
            np.testing.assert_allclose(found.power[:, i, b], mean, rtol=1e-9, atol=1e-12)
            squares = ((power[:, here] * weights) ** 2).sum(axis=1) / n**2
            np.testing.assert_allclose(found.error[:, i, b], np.sqrt(squares), rtol=1e-9, atol=1e-9)
    plain = ps.power_spectrum(fields, grid)
    np.testing.assert_allclose(found.power[:, 1], plain.power, rtol=1e-12)
    one = ps.power_multipoles(fields[1], grid, line_of_sight="xyz"[axis], orders=[4, 0, 2])
    np.testing.assert_array_equal(one.power, found.power[1])
    single = ps.power_multipoles(fields.astype("f4"), grid, line_of_sight=axis, orders=(4, 0, 2))
    np.testing.assert_allclose(single.power, found.power, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_mean_and_covariance_of_gaussian_fields(shape, box):
    """Those of 2000 fields in redshift space against what is expected: 5.5 sigma, 4e-8 a number."""
    grid, n = ps.Grid(shape, box), 2000

    def model(k, mu):
        return (1 + 0.8 * mu**2) ** 2 * k**-1.5

    def of_wavevectors(kx, ky, kz):
        k = np.sqrt(kx**2 + ky**2 + kz**2)
        return model(k, kz / k)

    prior = ps.GaussianRandomField.from_wavevectors(grid, of_wavevectors)
    found = ps.power_multipoles(prior.sample(n, seed=1), grid)
    expected, covariance = found.expected(model), found.covariance(model)
    assert covariance.shape == (len(found.k), 3, 3)
    variances = np.einsum("bii->ib", covariance).copy()
    known = variances > 1e-20  # L_2 is 0 at the corner of a cube
    variances[~known] = np.inf
    z = (found.power.mean(axis=0) - expected) / np.sqrt(variances / n)
    assert np.abs(z).max() < 5.5
    off = found.power - expected
    products = np.einsum("nib,njb->nbij", off, off)
    z = (products.mean(axis=0) - covariance) / (products.std(axis=0) / np.sqrt(n) + 1e-12)
    assert np.abs(z).max() < 5.5
    # Modes that are real, of which a box has at most 7, have E |delta|^4 = 3 P^2.
    ratio = (found.error**2).mean(axis=0) / variances
    spread = (found.error**2).std(axis=0) / variances / np.sqrt(n)
    few = 7 / found.n_modes
    assert ((ratio - 1 > -5.5 * spread) & (ratio - 1 - few < 5.5 * spread))[known].all()
    np.testing.assert_allclose(found.mean_error(), np.sqrt((found.error**2).mean(axis=0) / n))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("name", ["ngp", "tsc"])
def test_shot_noise(name, interlaced):
    """All multipoles of particles without structure are 0, and as wide as the covariance says."""
    n, runs = 500, 400
    grid, rng = ps.Grid((8, 6, 10), (4.0, 3.0, 5.0)), np.random.default_rng(1)
    kind = {"mass_assignment": name, "interlaced": interlaced}
    fields = np.array(
        [ps.paint(rng.uniform(0, 1, (n, 3)) * grid.box_size, grid, **kind) for _ in range(runs)]
    )
    found = ps.power_multipoles(fields, grid, line_of_sight="x", shot_noise=grid.volume / n, **kind)
    variances = np.einsum("bii->ib", found.covariance(lambda k, mu: 0.0))
    z = found.power.mean(axis=0) / np.sqrt(variances / runs)
    assert np.abs(z).max() < 5.5
    ratio = found.power.var(axis=0) / variances  # Poisson counts are a little wider than normal ones
    assert ratio.min() > 0.6
    assert ratio.max() < 1.6


def test_shot_noise_of_two_parts_is_that_of_the_aliases():
    grid = ps.Grid((8, 6, 10), (4.0, 3.0, 5.0))
    table = grid.wavenumbers
    white = shot_noise_sums(0.3, grid, table, 0)
    np.testing.assert_allclose(white, 0.3 * table.counts)


@pytest.mark.parametrize("unit", [2.0**-100, 2.0**45])
def test_errors_do_not_depend_on_the_unit(unit):
    """As g/cm^3 of gas, or the mass of cells, in float32, of which the fourth powers go beyond it."""
    grid, delta = ps.Grid((8, 6, 10), 4.0), np.random.default_rng(1).standard_normal((8, 6, 10)).astype("f4")
    found = ps.power_multipoles(delta * np.float32(unit), grid)
    expected = ps.power_multipoles(delta, grid)
    np.testing.assert_allclose(found.error / unit**2, expected.error, rtol=1e-6)


def test_bins_without_modes():
    grid = ps.Grid((8, 8, 8), 4.0)
    found = ps.power_multipoles(np.ones(grid.shape), grid, bins=[0.1, 0.2, 2.0])  # warnings are errors here
    assert list(found.n_modes > 0) == [False, True]
    for values in (found.expected(lambda k, mu: k)[0], found.covariance(lambda k, mu: k)[:, 0, 0]):
        np.testing.assert_array_equal(np.isnan(values), [True, False])


@pytest.mark.parametrize("n", [None, 2])
def test_they_are_no_spectrum(tmp_path, n):
    """Of one field they have the shape of the power of many."""
    grid = ps.Grid((8, 8, 8), 4.0)
    fields = np.random.default_rng(1).standard_normal((n or 1, *grid.shape))
    ps.save(tmp_path / "p.h5", ps.power_multipoles(fields if n else fields[0], grid, orders=(0, 2)))
    with pytest.raises(InputError, match="p.h5 holds multipoles: it must be a power"):
        ps.spectra.parse(str(tmp_path / "p.h5"))


def test_pairs_count_once():
    grid = ps.Grid((8, 8, 8), 4.0)
    prior = ps.GaussianRandomField(grid, lambda k: k**-1.0)
    fields = prior.sample(6, seed=1, paired=True)
    assert ps.power_multipoles(fields, grid).independent == 3
    assert ps.power_multipoles(fields[:1], grid).independent == 1


@pytest.mark.parametrize("n", [None, 3])
def test_they_are_kept(tmp_path, n):
    grid, kind = ps.Grid((8, 6, 10), (4.0, 3.0, 5.0)), {"mass_assignment": "cic", "interlaced": True}
    fields = np.random.default_rng(1).standard_normal((n or 1, *grid.shape))
    found = ps.power_multipoles(
        fields if n else fields[0], grid, line_of_sight="y", orders=(2, 0), bins="log", shot_noise=0.1, **kind
    )
    ps.save(tmp_path / "p.h5", found)
    again = ps.load(tmp_path / "p.h5")
    for name in ("k", "power", "error", "n_modes", "k_edges"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert str(again) == str(found)
    assert again.covariance(lambda k, mu: k).shape == (len(found.k), 2, 2)
    np.testing.assert_array_equal(again.covariance(lambda k, mu: k), found.covariance(lambda k, mu: k))
    with pytest.raises(InputError, match="exists"):
        ps.save(tmp_path / "p.h5", found)


def run(*arguments, of=command):
    found = CliRunner().invoke(of, [str(part) for part in arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found


def test_the_command(tmp_path):
    """Particles that were painted, and any dataset."""
    grid, kind = ps.Grid((8, 6, 10), (4.0, 3.0, 5.0)), {"mass_assignment": "tsc", "interlaced": True}
    x = np.random.default_rng(1).uniform(0, 1, (500, 3)) * grid.box_size
    np.save(tmp_path / "x.npy", x)
    options = ["--grid", "8,6,10", "--box", "4,3,5", "--dtype", "float64", "--length-unit", "m"]
    run(
        tmp_path / "x.npy",
        *options,
        "--mass-assignment",
        "tsc",
        "--interlaced",
        "-o",
        tmp_path / "f.h5",
        of=paint,
    )
    told = run(tmp_path / "f.h5", "--line-of-sight", "x", "--json", "--plot", "-o", tmp_path / "p.h5")
    found, kept = json.loads(told.stdout), ps.load(tmp_path / "p.h5")
    delta = ps.paint(x, grid, **kind)
    expected = ps.power_multipoles(delta[None], grid, line_of_sight="x", shot_noise=grid.volume / 500, **kind)
    for name in ("k", "power", "error", "n_modes"):
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(getattr(kept, name), getattr(expected, name), rtol=1e-9, atol=1e-12)
    assert found["units"] == {"k": "1/(m)", "power": "(m)^3"}
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    with h5py.File(tmp_path / "any.h5", "w") as file:
        file["density"] = 1 + delta
    lines = run(
        tmp_path / "any.h5", "--dataset", "density", "--box", "4,3,5", "--contrast"
    ).stdout.splitlines()
    assert "error of P4" in lines[1]
    plain = ps.power_multipoles(delta, grid)
    np.testing.assert_allclose(float(lines[2].split()[1]), plain.power[0, 0], rtol=1e-6)


def test_it_can_be_printed():
    grid = ps.Grid((8, 8, 8), 4.0)
    found = ps.power_multipoles(np.random.default_rng(1).standard_normal(grid.shape), grid, orders=(0, 2))
    lines = str(found).splitlines()
    assert lines[0].startswith("multipoles of the power of 1 field, line of sight z: ")
    assert lines[1].split() == ["k", "P0", "error", "0", "P2", "error", "2", "modes"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"line_of_sight": "up"}, "line_of_sight is 'up': it must be x, y or z"),
        ({"line_of_sight": 3}, "line_of_sight is 3"),
        ({"line_of_sight": [0]}, r"line_of_sight is \[0\]"),
        ({"line_of_sight": np.array([0, 0, 1])}, r"line_of_sight is array\(\[0, 0, 1\]\)"),
        ({"orders": [[0]]}, r"orders is \[\[0\]\]"),
        ({"orders": (0, 1)}, r"orders is \(0, 1\): it must hold different even numbers from 0 to 8"),
        ({"orders": ()}, "orders is"),
        ({"orders": (0, 0)}, "orders is"),
        ({"orders": "02"}, "orders is"),
        ({"orders": None}, "orders is None"),
        ({"interlaced": True}, "mass_assignment None"),
        ({"shot_noise": (1.0, 2.0)}, "shot_noise is"),
        ({"grid": ps.Grid((8, 8), 1.0)}, "grid has 2 dimension"),
        ({"delta": np.full((8, 8, 8), np.nan)}, "not finite"),
        ({"delta": np.zeros((8, 8, 7))}, "delta has fields of shape"),
        ({"delta": np.zeros((0, 8, 8, 8))}, "delta holds no fields"),
    ],
)
def test_bad_input(settings, words):
    given = {"delta": np.zeros((8, 8, 8)), "grid": ps.Grid((8, 8, 8), 1.0)} | settings
    with pytest.raises(InputError, match=words):
        ps.power_multipoles(given.pop("delta"), given.pop("grid"), **given)


@pytest.mark.parametrize(
    "model",
    [
        1.0,
        lambda k, mu: np.nan * k,
        lambda k, mu: np.ones(3),
        lambda k, mu: "k",
        lambda k, mu: 1j * k,
        lambda k: k,
        ps.spectra.PowerLaw(-1.0, 1.0),
    ],
)
def test_bad_models(model):
    found = ps.power_multipoles(np.ones((8, 8, 8)), ps.Grid((8, 8, 8), 1.0))
    with pytest.raises(InputError, match="model"):
        found.expected(model)
