"""Density fields in ten lines: a Gaussian and a lognormal universe, each checked against its spectrum.

python examples/01_field.py [CELLS]
"""

import sys

import physscore as ps
from physscore.plots import plot_field


def main(cells: int = 128) -> None:
    """Draw both fields in a box of 500 Mpc/h, save and plot them."""
    grid = ps.Grid((cells, cells, cells), box_size=500.0)
    planck = ps.spectra.planck2018(redshift=1.0)

    for name, prior in (
        ("gaussian", ps.GaussianRandomField(grid, planck)),
        ("lognormal", ps.LognormalField(grid, planck)),
    ):
        delta = prior.sample(1, seed=1, dtype="float32")[0]
        power = ps.power_spectrum(delta, grid)
        check = ps.check_field(delta, prior)
        print(f"{name}: {check}")
        ps.save(f"{name}.h5", ps.Fields(delta, grid, redshift=1.0, seed=1), overwrite=True)
        plot_field(
            f"{name}.png",
            delta,
            grid,
            spectrum=power,
            comparison=power.compare(planck),
            check=check if isinstance(prior, ps.LognormalField) else None,  # of its logarithm
            title=f"{name} field, Planck 2018 at z = 1",
            model_name="Planck 2018, linear",
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
