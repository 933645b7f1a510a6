"""Tables of P(k) as CAMB, CLASS, pandas and Fortran write them: read right, or refused in a sentence."""

import numpy as np
import pytest

from physscore import spectra
from physscore.core import InputError

H = 0.6766
K = np.geomspace(1e-3, 10, 30)
P = 3e4 * K / (1 + (K / 0.02) ** 2) ** 1.3
CLASS = "# Matter power spectrum P(k) at redshift z=1\n# for k=0.001 to 10 h/Mpc,\n"


def written(path, *columns, header="", form="%.10e", between=" ", ends="\n"):
    rows = [between.join(form % value for value in row) for row in zip(*columns, strict=True)]
    path.write_bytes((header + ends.join(rows) + ends).encode("latin-1"))
    return str(path)


def require_right(text):
    table = spectra.parse(text)
    np.testing.assert_allclose(table(K), P, rtol=1e-8)
    return table


@pytest.mark.parametrize(
    "columns",
    ["1:k (1/Mpc)   2:P (Mpc)^3", "k [Mpc^-1], P [Mpc^3]", "k / Mpc^{-1}", "k [1/Mpc] P [Mpc3], h=0.6766"],
)
def test_a_table_without_h_needs_one(tmp_path, columns):
    name = written(tmp_path / "p.dat", K * H, P / H**3, header=f"{CLASS}#    {columns}\n")
    with pytest.raises(
        InputError, match=r"p.dat says .*Mpc.*as in p.dat:units=1/Mpc,h=0.6766, or units=h/Mpc"
    ):
        spectra.parse(name)
    table = require_right(f"{name}:units=1/Mpc,h={H}")
    assert table.dim == 3
    assert table.units == ("h/Mpc", "(Mpc/h)^3")
    assert table.settings()["redshift"] == table.redshift == 1.0
    np.testing.assert_allclose(spectra.Tabulated.from_file(name, units="h/Mpc").k, K * H)
    for options, message in (
        ({"units": "1/Mpc"}, "h is missing"),
        ({"h": 0.7}, "h is 0.7: it is for units=1/Mpc"),
        ({"units": "1/Mpc", "h": 67.66}, "h is 67.66: it must be"),
        ({"units": "1/kpc"}, "units is '1/kpc': it must be one of h/Mpc, 1/Mpc"),
    ):
        with pytest.raises(InputError, match=message):
            spectra.Tabulated.from_file(name, **options)


@pytest.mark.parametrize(
    "columns",
    [
        "1:k (h/Mpc)   2:P (Mpc/h)^3", "k/h    P",
        "k [h Mpc^-1], P [h^-3 Mpc^3]",
        "k (Mpc^{-1} h)  P (Mpc^3/h^3)",
        "k, P [(h^{-1} Mpc)^3], H0 = 67.66 km/s/Mpc", r"$k$ [$h\,{\rm Mpc}^{-1}$]",
    ],
)  # fmt: skip
def test_a_table_with_h_is_read_as_it_is(tmp_path, columns):
    table = require_right(written(tmp_path / "p.dat", K, P, header=f"{CLASS}#    {columns}\n"))
    assert table.redshift == 1.0
    assert table.dim is None


@pytest.mark.parametrize("named", [True, False])
def test_one_of_many_columns_is_named(tmp_path, named):
    header = "#   k/h  P(z=2)  P(z=0)\n" if named else ""
    name = written(tmp_path / "p.dat", K, P / 6, P, header=header)
    known = r" \(k/h, P\(z=2\), P\(z=0\)\)" if named else ""
    with pytest.raises(InputError, match=rf"has 3 columns{known}: say which holds P, as in p.dat:column=3"):
        spectra.parse(name)
    assert require_right(f"{name}:column=3").redshift == (0.0 if named else None)
    for wrong in (1, 4, "P", True):
        with pytest.raises(InputError, match=r"column is .*: it must be a whole number from 2 to 3"):
            spectra.Tabulated.from_file(name, column=wrong)


def test_a_transfer_function_is_no_power(tmp_path):
    name = written(tmp_path / "t.dat", K, *[P] * 6, header="# k/h CDM baryon photon nu mass_nu total\n")
    with pytest.raises(InputError, match=r"has 7 columns \(k/h, CDM, baryon, photon, nu, mass_nu, total\)"):
        spectra.parse(name)


def test_tables_that_lie_on_their_side_or_count_their_lines_are_refused(tmp_path):
    name = written(tmp_path / "p.dat", *np.array([K, P]).T)
    for text in (name, f"{name}:column=2"):
        with pytest.raises(InputError, match="has 2 lines of 30 numbers: it must have a line for each k"):
            spectra.parse(text)
    for first, columns in ((0, [K, P]), (1, [K, P]), (0, [P])):
        name = written(tmp_path / "p.dat", first + np.arange(30), *columns)
        with pytest.raises(InputError, match=rf"has {first}, {first + 1}, .*look like numbers of lines"):
            spectra.parse(name)
    name = written(tmp_path / "p.dat", 1 + np.arange(30), P)
    np.testing.assert_array_equal(spectra.parse(name).k, 1 + np.arange(30))


LAYOUTS = {
    "names": {"header": "k P\n"},
    "pandas": {"header": "k,P\n", "between": ","},
    "percent": {"header": "% k P\n"},
    "bang": {"header": "! k P\n"},
    "semicolons": {"between": ";"},
    "tabs and old ends of lines": {"between": "\t", "ends": "\r"},
    "latin-1": {"header": "# densité d'été\n"},
}


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path, options):
    require_right(written(tmp_path / "p.dat", K, P, **options))


def test_fortran_falling_k_and_the_mean(tmp_path):
    path = tmp_path / "p.dat"
    written(path, K, P)
    path.write_text(path.read_text().replace("e", "D"))
    require_right(str(path))
    require_right(written(path, K[::-1], P[::-1]))
    for mean in (0.0, np.nan, -1.0):
        table = require_right(written(path, np.append(0.0, K), np.append(mean, P)))
        assert len(table.k) == 30


@pytest.mark.parametrize("text", ["1 2\n2 3 4\n", "1 2 3\n2 3\n", "1 2\n2 three\n", "1 2\nk P\n"])
def test_lines_must_be_alike(tmp_path, text):
    path = tmp_path / "p.dat"
    path.write_text(text)
    with pytest.raises(InputError, match=r"p.dat has '.*' in line 2: it must be"):
        spectra.Tabulated.from_file(path)
