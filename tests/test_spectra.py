"""Spectra: Planck's table against CAMB, Eisenstein-Hu against another code, tables, the command's words."""

import json
import pickle
import sys
from functools import cache

import h5py
import numpy as np
import pytest

import physscore as ps
from physscore import spectra
from physscore.core import InputError
from physscore.spectra.boltzmann import PLANCK_2018

K = np.geomspace(1e-4, 10, 500)[1:-1]


REDSHIFTS = [0.0, 0.37, 1.1, 3.3, 9.7, 31.0, 77.0, 100.0]


@cache
def by_camb(with_cmb):
    camb = pytest.importorskip("camb")
    model = camb.set_params(**PLANCK_2018)
    model.WantCls = with_cmb
    model.NonLinear = camb.model.NonLinear_none
    model.set_matter_power(redshifts=REDSHIFTS, kmax=15.0, silent=True)
    return camb.get_results(model).get_matter_power_spectrum(minkh=1e-4, maxkh=10, npoints=500)


@pytest.mark.parametrize("with_cmb", [True, False])
@pytest.mark.parametrize("redshift", REDSHIFTS)
def test_planck_table_is_camb(redshift, with_cmb):
    k, redshifts, powers = by_camb(with_cmb)
    power = powers[redshifts.index(redshift)]
    np.testing.assert_allclose(spectra.planck2018(redshift)(k), power, rtol=1e-3)


def test_planck_parameters_are_those_of_the_paper():
    expected = {"H0": 67.66, "ombh2": 0.02242, "omch2": 0.11933, "ns": 0.9665, "tau": 0.0561, "mnu": 0.06}
    assert {name: PLANCK_2018[name] for name in expected} == expected
    assert np.log(1e10 * PLANCK_2018["As"]) == pytest.approx(3.047)
    camb = pytest.importorskip("camb")
    model = camb.set_params(**PLANCK_2018, WantCls=False)
    model.set_matter_power(redshifts=[0.0], kmax=5.0, silent=True)
    sigma8 = camb.get_results(model).get_sigma8_0()
    assert sigma8 == pytest.approx(0.81, abs=0.005)
    pk = spectra.planck2018()
    k = np.geomspace(1e-4, 50, 4000)
    x = 8 * k
    window = 3 * (np.sin(x) - x * np.cos(x)) / x**3
    assert np.sqrt(np.trapezoid(pk(k) * window**2 * k**3 / (2 * np.pi**2), np.log(k))) == pytest.approx(
        sigma8, rel=1e-3
    )


def test_from_camb():
    pytest.importorskip("camb")
    found, k = spectra.from_camb(1.1, k_max=3.0), K[K < 3.0]
    np.testing.assert_allclose(found(k), spectra.planck2018(1.1)(k), rtol=1e-3)
    low = np.array([1e-5, 2e-5])  # below CAMB's own range: the primordial slope
    np.testing.assert_allclose(found(low), spectra.planck2018(1.1)(low), rtol=1e-3)
    brighter, large = spectra.from_camb(1.1, k_max=1.0, As=2 * PLANCK_2018["As"]), K[K < 1.0]
    np.testing.assert_allclose(brighter(large), 2 * found(large), rtol=1e-4)
    assert brighter.settings()["As"] == 2 * PLANCK_2018["As"]
    with pytest.raises(InputError, match="CAMB does not accept the parameters"):
        spectra.from_camb(nonsense=1)
    for amplitude in (0.0, -1e-9):
        with pytest.raises(InputError, match=f"CAMB .* the parameters .*{amplitude}"):
            spectra.from_camb(k_max=1.0, As=amplitude, WantCls=False)


def test_nonlinear_from_camb():
    """HMcode needs more of the linear spectrum than is asked for: the number is that of k_max=100."""
    pytest.importorskip("camb")
    short = spectra.from_camb(7.0, k_max=4.0, nonlinear=True)(3.0)
    assert short == pytest.approx(0.170404, rel=1e-3)
    assert short > 1.2 * spectra.planck2018(7.0)(3.0)


@pytest.mark.long
def test_nonlinear_from_camb_of_any_range():
    pytest.importorskip("camb")
    nonlinear = spectra.from_camb(0.0, k_max=12.0, nonlinear=True)
    assert nonlinear(1.0) > 1.5 * spectra.planck2018()(1.0)
    far, short = (spectra.from_camb(7.0, k_max=top, nonlinear=True)(3.0) for top in (100.0, 4.0))
    assert short == pytest.approx(far, rel=1e-3)


def test_camb_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "camb", None)
    with pytest.raises(ImportError, match=r'pip install "physscore\[cosmology\]"'):
        spectra.from_camb()


@pytest.mark.parametrize("redshift", [-0.1, 100.1, np.nan, np.inf, "high"])
def test_planck_redshift(redshift):
    with pytest.raises(InputError, match="redshift is .*at least 0 and at most 100"):
        spectra.planck2018(redshift)


# colossus 1.4.0 with the same parameters: the transfer function of Eisenstein & Hu 1998 at K_EH (h/Mpc).
K_EH = np.array([1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.2, 1.0, 10.0])
T_EH = [
    0.99990735,
    0.992290439,
    0.780866082,
    0.272237020,
    0.131870187,
    0.0554089581,
    0.00472225568,
    9.05502970e-05,
]
T_SMOOTH = [
    0.999899847,
    0.992106120,
    0.786820912,
    0.279488192,
    0.134041952,
    0.0550103415,
    0.00469086696,
    8.95772196e-05,
]
P_EH = [405.419695, 3696.26394, 21190.4228, 12202.0892, 5594.71388, 1930.06337, 66.4177738, 0.226082781]
GROWTH = {1.0: 0.6080511301342623, 5.0: 0.21176931599233376}


def test_eisenstein_hu_against_another_code():
    model = spectra.EisensteinHu()
    np.testing.assert_allclose(model.transfer(K_EH), T_EH, rtol=1e-6)
    np.testing.assert_allclose(spectra.EisensteinHu(wiggles=False).transfer(K_EH), T_SMOOTH, rtol=1e-6)
    np.testing.assert_allclose(model(K_EH), P_EH, rtol=2e-4)
    for z, growth in GROWTH.items():
        assert model.growth(z) == pytest.approx(growth, rel=1e-4)
        np.testing.assert_allclose(spectra.EisensteinHu(redshift=z)(K_EH), model(K_EH) * growth**2, rtol=2e-4)


def test_eisenstein_hu_is_near_camb():
    np.testing.assert_allclose(spectra.EisensteinHu()(K), spectra.planck2018()(K), rtol=0.06)


def test_sigma8():
    k = np.geomspace(1e-5, 500, 20000)
    x = 8 * k
    window = np.where(x < 0.01, 1 - x**2 / 10, 3 * (np.sin(x) - x * np.cos(x)) / x**3)
    for sigma8 in (0.5, 0.9):
        power = spectra.EisensteinHu(sigma8=sigma8)(k)
        found = np.sqrt(np.trapezoid(power * window**2 * k**3 / (2 * np.pi**2), np.log(k)))
        assert found == pytest.approx(sigma8, rel=1e-4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"omega_b": 0.4}, "omega_b is 0.4: it must be less than omega_m"),
        ({"omega_m": 1.5}, "omega_m is 1.5"),
        ({"omega_b": 0}, "omega_b is 0"),
        ({"h": -1}, "h is -1"),
        ({"sigma8": 0}, "sigma8 is 0"),
        ({"redshift": -1}, "redshift is -1"),
        ({"n_s": np.inf}, "n_s is inf"),
        ({"t_cmb": "warm"}, "t_cmb is 'warm'"),
        ({"h": True}, "h is True"),
        ({"n_s": 400}, "n_s is 400: with it sigma8 cannot be computed"),
        ({"wiggles": "no"}, "wiggles is 'no': it must be True or False"),
    ],
)
def test_unphysical_parameters(parameters, message):
    with pytest.raises(InputError, match=message):
        spectra.EisensteinHu(**parameters)


def test_power_law():
    law = spectra.PowerLaw(index=-2, amplitude=3.0)
    np.testing.assert_allclose(law([[0.5, 1.0, 2.0]]), [[12.0, 3.0, 0.75]])
    assert law.settings() == {"name": "powerlaw", "index": -2.0, "amplitude": 3.0}
    assert repr(law) == "powerlaw(index=-2.0, amplitude=3.0)"
    for bad in ({"index": np.nan}, {"index": 1, "amplitude": -1}, {"index": 1, "amplitude": np.inf}):
        with pytest.raises(InputError, match="(index|amplitude) is"):
            spectra.PowerLaw(**bad)


@pytest.mark.parametrize("k", [0.0, -1.0, np.nan, np.inf, [1.0, 0.0]])
def test_wavenumbers_are_positive(k):
    with pytest.raises(InputError, match="k has the value .*must be positive"):
        spectra.PowerLaw(index=0)(k)


def test_table_is_a_power_law_between_points():
    k = np.array([0.1, 1.0, 10.0])
    table = spectra.Tabulated(k, 5 * k**-1.5)
    q = np.geomspace(0.1, 10, 33)
    np.testing.assert_allclose(table(q), 5 * q**-1.5)
    assert (table.k_min, table.k_max) == (0.1, 10.0)
    with pytest.raises(InputError, match=r"k from 0.05 to 20 is asked for, but table.* covers 0.1 to 10"):
        table([0.05, 20])
    for one_side in (0.1 * (1 - 1e-8), 10 * (1 + 1e-8)):
        with pytest.raises(InputError, match="covers 0.1 to 10"):
            table(one_side)
    np.testing.assert_allclose(table([0.1 * (1 - 1e-10), 10 * (1 + 1e-10)]), table([0.1, 10]))  # rounding
    beyond = spectra.Tabulated(k, 5 * k**-1.5, extrapolate="power law")
    np.testing.assert_allclose(beyond([0.001, 1000]), 5 * np.array([0.001, 1000]) ** -1.5)
    nothing = spectra.Tabulated(k, 5 * k**-1.5, extrapolate="zero")
    np.testing.assert_allclose(nothing([0.05, 1.0, 20]), [0, 5, 0])
    with_zero = spectra.Tabulated([1.0, 2.0, 3.0], [0.0, 2.0, 2.0])
    np.testing.assert_allclose(with_zero([1.0, 1.5, 2.5]), [0, 1, 2])


@pytest.mark.parametrize(
    ("k", "power", "options", "message"),
    [
        ([1.0], [1.0], {}, "at least 2 wavenumbers"),
        ([1.0, 2.0], [1.0], {}, "one P for each"),
        ([1.0, np.nan], [1.0, 1.0], {}, "k = nan, P = 1.0 at point 2: every number must be finite"),
        ([1.0, 2.0], [1.0, np.inf], {}, "must be finite"),
        ([2.0, 1.0], [1.0, 1.0], {}, "k = 1.0 at point 2: k must be positive and rising"),
        ([1.0, 1.0], [1.0, 1.0], {}, "rising"),
        ([0.0, 1.0], [1.0, 1.0], {}, "k = 0.0 at point 1: k must be positive"),
        ([1.0, 2.0], [1.0, -1.0], {}, "P = -1.0 at k = 2.0: P must not be negative"),
        ([1.0, 2.0], [1.0, 1.0], {"extrapolate": "linear"}, "extrapolate is 'linear'"),
        ([1.0, 2.0], [1.0, 0.0], {"extrapolate": "power law"}, "is zero at an end: use 'zero'"),
    ],
)
def test_bad_tables(k, power, options, message):
    with pytest.raises(InputError, match=message):
        spectra.Tabulated(k, power, **options)


def test_text_tables(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("# k P\n0.1, 10\n\n1  5 # a comment\n10\t1\n")
    table = spectra.Tabulated.from_file(path)
    np.testing.assert_allclose(table([0.1, 1, 10]), [10, 5, 1])
    assert table.units == ("h/Mpc", "(Mpc/h)^3")
    assert table.settings()["name"] == str(path)
    path.write_text("0.1 10\n1\n")
    with pytest.raises(InputError, match=r"p.txt has '1' in line 2: it must be two numbers"):
        spectra.Tabulated.from_file(path)
    path.write_text("")
    with pytest.raises(InputError, match="at least 2 wavenumbers"):
        spectra.Tabulated.from_file(path)
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="neither text nor HDF5"):
        spectra.Tabulated.from_file(path)
    with pytest.raises(InputError, match="cannot be read"):
        spectra.Tabulated.from_file(tmp_path)


def test_hdf5_tables(tmp_path):
    path = tmp_path / "f.h5"
    grid = ps.Grid((8, 8), 4.0)
    x = np.random.default_rng(0).standard_normal((2, 8, 8))
    ps.save(path, ps.Fields(x, grid))
    with pytest.raises(InputError, match="it has no measured spectrum"):
        spectra.Tabulated.from_file(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        spectra.Tabulated.from_file(path)


def test_words_of_the_command(tmp_path):
    assert spectra.parse("planck2018").redshift == 0.0
    assert spectra.parse("planck2018", redshift=2.0).settings()["redshift"] == 2.0
    assert spectra.parse("eh98:sigma8=0.7,wiggles=false", redshift=1.0).settings()["sigma8"] == 0.7
    assert spectra.parse("powerlaw:index=-2,amplitude=1.5").amplitude == 1.5
    assert spectra.parse("planck2018:redshift=2").redshift == 2.0
    assert spectra.parse("planck2018:redshift=2", default_redshift=1.0).redshift == 2.0
    assert spectra.parse("planck2018", default_redshift=1.0).redshift == 1.0
    assert spectra.parse("powerlaw:index=1", default_redshift=1.0).redshift is None
    path = tmp_path / "a:b.txt"
    np.savetxt(path, [[0.1, 10.0], [1.0, 1.0]])
    assert spectra.parse(str(path)).k_max == 1.0
    assert spectra.parse(f"{path}:extrapolate=zero")(10.0) == 0
    plain = tmp_path / "b.txt"
    path.rename(plain)
    assert spectra.parse(f"{plain}:extrapolate=power law")(10.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("text", "redshift", "message"),
    [
        (
            "plank",
            None,
            "must be one of planck2018, eh98, camb, powerlaw, or the name of a file, and there is no",
        ),
        ("powerlaw", None, "'index' is missing, the parameters are index, amplitude"),
        ("powerlaw:index", None, "'index' must be name=value"),
        ("powerlaw:index=steep", None, "index is 'steep'"),
        ("powerlaw:index=1,slope=2", None, "'slope' is unknown"),
        ("powerlaw:index=1", 1.0, "redshift is 1, but the spectrum 'powerlaw' has none"),
        ("eh98:redshift=1", 2.0, "give the redshift once"),
        ("eh98:h=0.7,h=0.8", None, "give h once"),
        ("eh98:wiggles=no", None, "wiggles is 'no': it must be True or False"),
        ("", None, "must be one of planck2018"),
        ("x" * 5000, None, "must be one of planck2018"),
        ("planck2018:h=0.7", None, "'h' is unknown, the parameters are redshift"),
    ],
)
def test_bad_words(text, redshift, message):
    with pytest.raises(InputError, match=message):
        spectra.parse(text, redshift=redshift)


@pytest.mark.parametrize("k", ["abc", [1j], [[1.0], [1.0, 2.0]]])
def test_wavenumbers_are_real_numbers(k):
    with pytest.raises(InputError, match="k is not an array of real numbers"):
        spectra.PowerLaw(index=0)(k)
    with pytest.raises(InputError, match="k is not an array of real numbers"):
        spectra.Tabulated(k, [1.0, 2.0])


def test_power_that_is_too_large():
    with pytest.raises(InputError, match="not finite at k = 1e-05"):
        spectra.PowerLaw(index=-300)([1.0, 1e-5])


def test_models_do_not_change():
    k = np.array([0.1, 1.0])
    table = spectra.Tabulated(k, k)
    k[0] = 0.5
    assert table.k[0] == 0.1
    for values in (table.k, table.power):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0.5
    for model in (table, spectra.PowerLaw(index=1), spectra.EisensteinHu(), spectra.planck2018()):
        with pytest.raises(AttributeError, match="does not change: make a new one to set redshift"):
            model.redshift = 1.0
        copy = pickle.loads(pickle.dumps(model))
        assert copy(0.5) == model(0.5)
        json.dumps(model.settings())


def test_settings_tell_tables_apart():
    k = np.array([0.1, 1.0, 10.0])
    same, other = spectra.Tabulated(k, k), spectra.Tabulated(k, k * [1, 2, 1])
    assert same.settings() == spectra.Tabulated(k, k).settings() != other.settings()


def test_camb_parameters_replace_their_partners():
    pytest.importorskip("camb")
    found = spectra.from_camb(k_max=1.0, thetastar=0.0104, zrei=np.float32(8))
    json.dumps(found.settings())
    assert "H0" not in found.settings()
    with pytest.raises(InputError, match="mnu is .*must be a number or text"):
        spectra.from_camb(mnu=[0.06])


@pytest.mark.parametrize("n", [None, 3])
def test_empty_bins_of_a_measured_spectrum_are_left_out(tmp_path, n):
    grid = ps.Grid((16, 16), 16.0)
    x = np.random.default_rng(0).standard_normal((n or 1, 16, 16))
    edges = [0.2, 0.4, 0.45, 0.7, 0.71, 1.5]  # two of them hold no mode
    measured = ps.power_spectrum(x if n else x[0], grid, bins=edges)
    assert (measured.n_modes == 0).any()
    ps.save(tmp_path / "p.h5", measured)
    table = spectra.Tabulated.from_file(tmp_path / "p.h5")
    full = measured.n_modes > 0
    np.testing.assert_allclose(table.k, measured.k[full])
    np.testing.assert_allclose(table.power, np.atleast_2d(measured.power)[:, full].mean(axis=0))


@pytest.mark.parametrize("power", [np.ones((2, 3, 4)), np.ones(3), ["a"] * 4, np.full(4, np.nan)])
def test_foreign_hdf5_spectra(tmp_path, power):
    path = tmp_path / "p.h5"
    with h5py.File(path, "w") as file:
        for name, values in (("k_mean", np.arange(1.0, 5)), ("power", power), ("n_modes", np.ones(4))):
            file.create_dataset(f"spectra/{name}", data=values).attrs["units"] = "1"
    with pytest.raises(InputError, match=r"spectrum file .*p.h5 (has|cannot be read)"):
        spectra.Tabulated.from_file(path)


def test_a_spectrum_of_other_dimensions_is_refused(tmp_path):
    grid = ps.Grid((16, 16), 20.0)
    field = ps.GaussianRandomField(grid, spectra.PowerLaw(-1.0, 5.0)).sample(1, seed=1)[0]
    ps.save(tmp_path / "p.h5", ps.power_spectrum(field, grid))
    table = spectra.parse(f"{tmp_path / 'p.h5'}:extrapolate=power law")
    assert ps.GaussianRandomField(grid, table).dim == 256
    for family in ps.GaussianRandomField, ps.LognormalField:
        with pytest.raises(InputError, match="is of 2 dimensions"):
            family(ps.Grid((8, 8, 8), 14.0), table)
    with pytest.raises(InputError, match="a function of wavenumbers"):
        ps.GaussianRandomField(grid, 3.0)
    with pytest.raises(InputError, match=r"must be a physscore\.Grid"):
        ps.GaussianRandomField((16, 16), table)


@pytest.mark.parametrize("model", [spectra.planck2018(), spectra.EisensteinHu()])
def test_matter_in_space_is_no_spectrum_of_maps(model):
    """P in (Mpc/h)^3 taken for (Mpc/h)^2 would be a field of another variance, without a word."""
    for shape in ((16,), (16, 16)):
        grid = ps.Grid(shape, 100.0)
        for prior in (ps.GaussianRandomField, ps.LognormalField):
            with pytest.raises(
                InputError, match=rf"is of 3 dimensions, with P in \(Mpc/h\)\^3, .* {grid.dim}"
            ):
                prior(grid, model)
        with pytest.raises(InputError, match="of 3 dimensions"):
            ps.power_spectrum(np.ones(shape), grid).compare(model)
        ps.GaussianRandomField(grid, lambda k: model(k))  # who knows better can say so
