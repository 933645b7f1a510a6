"""Learned scores: errors, time per step against torchebm, samplers, likelihoods, log Z, maps.

    pip install ".[bench,learn]" && python benchmarks/learning.py [--only PART] [--json FILE]
    python benchmarks/learning.py --maps slabs.h5 --seconds 2700    # train, generate and audit N-body slabs

The exact loss is first seen to be torchebm's at the same weights. Times are of one step of Adam, batch 512, a
perceptron 2-128-128-1 as an energy, medians in one run,
taking turns. Truth is in closed form.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import nn

import physscore as ps
from physscore import learning
from physscore.learning import losses

MIXTURE = ps.GaussianMixture([0.1, 0.2, 0.3, 0.4], [[2, 2], [2, -2], [-2, 2], [-2, -2]], 0.25)
ROWS: list[dict[str, Any]] = []


def show(what: str, reach: str, seen: str) -> None:
    """Keep a row of the table and print it."""
    if not ROWS:
        print(f"{'what':66s} {'reach':>12s}  seen")
    ROWS.append({"what": what, "reach": reach, "seen": seen})
    print(f"{what:66s} {reach:>12s}  {seen}", flush=True)


def relative_error(score: ps.Score, truth: ps.Energy, n: int = 20_000) -> float:
    """Return sqrt(E|s - s*|^2 / E|s*|^2) over fresh draws of the truth."""
    x = truth.sample(n, seed=777)
    exact = truth.score(x)
    return float(np.sqrt(((score.score(x) - exact) ** 2).sum() / (exact**2).sum()))


def mixture_errors() -> None:
    """1000 steps of denoising, batch 512, on a 2-d mixture of four."""
    data = MIXTURE.sample(512_000, seed=1)
    for kind, reach in (("energy", "0.02"), ("score", "0.03")):
        for sigma in (0.25, 0.5):  # of the standard deviation of the data, 2
            found = []
            for seed in range(3):
                fit = learning.train(
                    "mlp", data, loss="denoising", sigma=sigma, kind=kind, steps=1000, batch=512,
                    transform="identity", seed=seed,
                )  # fmt: skip
                wider = MIXTURE.covariances + (sigma * fit.normalisation.std) ** 2  # each axis has its own
                truth = ps.GaussianMixture(MIXTURE.weights, MIXTURE.means, wider)
                found.append(relative_error(fit, truth))
            show(f"score error, mixture, {kind}, noise {2 * sigma:g}, 1000 steps of 512", reach,
                 " ".join(f"{one:.4f}" for one in found))  # fmt: skip


def step_times() -> None:
    """Time per step of three losses against torchebm's, of the same network."""
    from torchebm.core import BaseModel
    from torchebm.losses import DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching

    torch.manual_seed(0)

    class Theirs(BaseModel):
        def __init__(self, ours: learning.MLP) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for layer in ours.layers:
                layers += [nn.Linear(layer.in_features, layer.out_features), nn.SiLU()]
                layers[-2].load_state_dict(layer.state_dict())
            self.inner = nn.Sequential(*layers[:-1])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)[:, 0] + 0.5 * (x**2).sum(1)

    ours = learning.MLP(2, (128, 128), kind="energy", activation="silu")
    theirs = Theirs(ours)
    x = torch.tensor(MIXTURE.sample(512, seed=1), dtype=torch.float32)
    exact = ScoreMatching(theirs, hessian_method="exact")
    rows: dict[str, tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]] = {
        "denoising": (
            lambda: losses.denoising(ours, x, 0.5),
            partial(DenoisingScoreMatching(theirs, noise_scale=0.5), x),
        ),
        "sliced, 1 slice": (
            lambda: losses.sliced(ours, x, 1, distribution="rademacher"),
            partial(SlicedScoreMatching(theirs, n_projections=1), x),
        ),
        "sliced, 5 slices": (
            lambda: losses.sliced(ours, x, 5, distribution="rademacher"),
            partial(SlicedScoreMatching(theirs, n_projections=5), x),
        ),
        "exact": (lambda: losses.exact(ours, x), partial(exact, x)),
    }
    same = abs(float(losses.exact(ours, x).detach()) / float(exact(x).detach()) - 1)
    print(f"# exact loss at the same weights: ours and torchebm's differ by {same:.1e}")
    for name, (mine, peer) in rows.items():
        times: dict[int, list[float]] = {0: [], 1: []}
        optimisers = [torch.optim.Adam(m.parameters(), 1e-4) for m in (ours, theirs)]
        for turn in range(40):
            for which, loss in enumerate((mine, peer)):
                start = time.perf_counter()
                for _ in range(5):
                    optimisers[which].zero_grad()
                    loss().backward()
                    optimisers[which].step()
                if turn >= 5:
                    times[which].append((time.perf_counter() - start) / 5)
        a, b = (float(np.median(times[i])) for i in (0, 1))
        reach = "2" if name == "exact" else "1"
        show(
            f"time of a step, {name}: torchebm's over ours",
            reach,
            f"{b / a:.2f} ({b * 1e3:.2f} / {a * 1e3:.2f} ms)",
        )


def _of_matrix(loss: Any, x: torch.Tensor, noisy: bool, flat: torch.Tensor) -> torch.Tensor:
    """Return a loss of the linear score -A y, always of the same noise."""
    a = flat.reshape(x.shape[1], x.shape[1])
    noise = {"generator": torch.Generator().manual_seed(1)} if noisy else {}
    found: torch.Tensor = loss(lambda y: -y @ a.T, x, **noise)
    return found


def linear_models() -> None:
    """Every loss on a Gaussian with a linear model, to the optimum of the loss by Newton's method."""
    for dim in (2, 10):
        rng = np.random.default_rng(dim)
        root = rng.normal(size=(dim, dim)) / math.sqrt(dim) + np.eye(dim)
        law = ps.Gaussian(0.0, root @ root.T)
        x = torch.tensor(law.sample(100_000, seed=1))
        cases: dict[str, tuple[float, Callable[..., torch.Tensor]]] = {
            "exact": (0.0, losses.exact),
            "sliced": (0.0, partial(losses.sliced, slices=4)),
            "sliced, reduced": (0.0, partial(losses.sliced, slices=4, variance_reduced=True)),
            "denoising": (0.5, partial(losses.denoising, sigma=0.5, antithetic=True)),
            "levels": (0.5, partial(losses.denoising_levels, sigmas=[0.5])),
        }
        errors = []
        for name, (sigma, loss) in cases.items():
            start = torch.eye(dim, dtype=torch.float64).flatten().requires_grad_()
            value = partial(_of_matrix, loss, x, name != "exact")
            gradient = torch.autograd.functional.jacobian(value, start)
            hessian = torch.autograd.functional.hessian(value, start)
            best = (start.detach() - torch.linalg.solve(hessian, gradient)).reshape(dim, dim).numpy()
            truth = np.linalg.inv(root @ root.T + sigma**2 * np.eye(dim))
            errors.append(f"{name} {np.linalg.norm(best - truth) / np.linalg.norm(truth):.3f}")
        show(
            f"linear model of a {dim}-d Gaussian, 10^5 draws: error of its matrix", "exact", ", ".join(errors)
        )


def likelihoods() -> None:
    """Log-likelihoods by the probability flow with the true score."""
    root = np.random.default_rng(0).normal(size=(5, 5)) / 2 + np.eye(5)
    for name, law in (
        ("Gaussian, 5 d", ps.Gaussian(np.arange(5.0), root @ root.T)),
        ("mixture, 2 d", MIXTURE),
    ):
        x = law.sample(100, seed=2)
        score_at = partial(ps.smoothed, law)
        found = ps.log_likelihood(score_at, x, (0.002, 200.0), tolerance=1e-6)
        error = np.abs(found.log_p + law.energy(x)).max() / law.dim
        rough = ps.log_likelihood(score_at, x, (0.002, 200.0), divergence="hutchinson", probes=16, seed=3)
        z = (rough.log_p + law.energy(x)) / rough.error
        show(f"log p by the flow, {name}: largest error a dimension, 100 states", "1e-3", f"{error:.1e}")
        show("the same by Hutchinson, 16 probes: rms z; within 2 errors", "1; 95%",
             f"{np.sqrt((z**2).mean()):.2f}; {np.mean(np.abs(z) < 2.13):.0%}")  # fmt: skip


def samplers() -> None:
    """Draws of the mixture by its true score: mode weights, and the energy distance to exact draws."""
    score_at, n = partial(ps.smoothed, MIXTURE), 2000
    runs: dict[str, Callable[[int], Any]] = {
        "reverse SDE, VE": lambda s: ps.reverse_sde(score_at, ps.VE(0.01, 50.0), n, seed=s, steps=500),
        "reverse SDE, VP, corrector": lambda s: ps.reverse_sde(
            score_at, ps.VP(), n, seed=s, steps=300, corrector=1),
        "reverse SDE, sub-VP": lambda s: ps.reverse_sde(score_at, ps.SubVP(), n, seed=s, steps=500),
        "probability flow": lambda s: ps.probability_flow(score_at, ps.VE(0.01, 50.0), n, seed=s),
        "Heun": lambda s: ps.heun(score_at, ps.edm_levels(0.01, 50.0, 40), n, seed=s),
        "DDPM": lambda s: ps.ddpm(score_at, ps.linear_betas(), n, seed=s),
        "annealed Langevin": lambda s: ps.annealed_langevin(
            score_at, ps.noise_levels(20.0, 0.05, 30), chains=n, steps=100, step_size=0.0005, seed=s),
    }  # fmt: skip
    exact = MIXTURE.sample(n, seed=9)
    for name, run in runs.items():
        x = np.asarray(run(4))
        mode = np.array([(np.sign(x) == np.sign(m)).all(axis=1).mean() for m in MIXTURE.means])
        z = (mode - MIXTURE.weights) / np.sqrt(MIXTURE.weights * (1 - MIXTURE.weights) / n)
        test = ps.energy_test(x, exact, seed=1)
        show(f"{name}: largest z of mode weights; p of the energy distance", "3; 0.01",
             f"{np.abs(z).max():.1f}; {test.p_value:.2f}")  # fmt: skip


def learned_log_z() -> None:
    """Log Z of learned energies in two dimensions, against quadrature of the same network."""
    data = MIXTURE.sample(100_000, seed=1)
    grid = np.linspace(-9, 9, 1201)
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    for seed in range(3):
        fit = learning.train("mlp", data, loss="denoising", sigma=0.15, kind="energy", steps=1000, batch=256,
                             transform="identity", seed=seed)  # fmt: skip
        energy = np.concatenate([fit.energy(part) for part in np.array_split(points, 40)])
        exact = math.log(np.exp(energy.min() - energy).sum() * (grid[1] - grid[0]) ** 2) - energy.min()
        start = time.perf_counter()
        found = ps.estimate_log_z(fit, particles=4000, seed=seed)
        show("log Z of a learned energy: error, z, verdict", "0.02; 2",
             f"{found.error:.4f}; {(found.log_z - exact) / found.error:+.1f}; {found.verdict}, "
             f"{time.perf_counter() - start:.0f} s")  # fmt: skip


def wiener() -> None:
    """Posterior of a field with noise under a learned prior, against the Wiener filter, by shells."""
    grid = ps.Grid((32, 32), 32.0)
    prior = ps.GaussianRandomField(grid, ps.spectra.PowerLaw(index=-1.5, amplitude=1.0))
    maps = prior.sample(8000, seed=1).astype(np.float32)
    network = learning.UNet(2, channels=(16, 32), blocks=1, kind="energy")
    fit = learning.train(network, maps, kind="energy", steps=200, batch=32, transform="identity", seed=0,
                         progress=True)  # fmt: skip
    noise_std = 0.5 * math.sqrt(prior.variance)
    data = prior.sample(1, seed=42)[0] + noise_std * np.random.default_rng(1).normal(size=grid.shape)
    run = ps.sample(fit + ps.GaussianNoise(data, noise_std), ps.HMC(metric="fourier"), chains=64, steps=150,
                    warmup=100, seed=1, progress=True)  # fmt: skip
    table = learning.preconditioning.full_table(
        prior.power * grid.n_cells / grid.volume, prior.wavenumbers.offsets, grid.half_shape
    )
    gain = table / (table + noise_std**2)
    draws = run.draws.reshape(-1, *grid.shape)
    modes = np.fft.rfft2(draws, norm="ortho")
    exact_mean, exact_variance = gain * np.fft.rfft2(data, norm="ortho"), gain * noise_std**2
    n = np.rint(np.hypot(np.fft.fftfreq(32)[:, None] * 32, np.fft.rfftfreq(32) * 32)).astype(int)
    mean = modes.mean(axis=0)
    variance = (np.abs(modes - mean) ** 2).mean(axis=0)
    off_mean, off_variance = [], []
    for shell in range(1, 17):
        inside = n == shell
        off_mean.append(
            (mean * exact_mean.conj()).real[inside].sum() / (np.abs(exact_mean) ** 2)[inside].sum() - 1
        )
        off_variance.append(variance[inside].mean() / exact_variance[inside].mean() - 1)
    show(
        "Wiener posterior, learned prior, shells: largest error of mean, variance",
        "3%; 3%",
        f"{np.abs(off_mean).max():.1%}; {np.abs(off_variance).max():.1%} "
        f"(R-hat {float(np.max(run.r_hat)):.3f})",
    )


def network(inputs: int = 2) -> learning.UNet:
    """Return the network of the slabs."""
    return learning.UNet(2, channels=(48, 96, 128), blocks=2, patch=2, inputs=inputs)


def maps(path: Path, seconds: float, out: Path) -> None:
    """Train on maps, generate new ones, and compare them with those of simulations never trained on."""
    from physscore.learning.generate import generate

    fit = learning.train(
        network(), path, "train/maps", validation="validation/maps", max_time=seconds, batch=32,
        precision="bfloat16", seed=0, output=out / "maps.safetensors", overwrite=True, progress=True,
    )  # fmt: skip
    training = fit.about["training"]
    show(
        "N-body slabs: training",
        "60 min",
        f"{training['seconds'] / 60:.0f} min, {training['steps']} steps, "
        f"loss {training['validation_loss']:.4f}",
    )
    generate(fit, 1024, out / "generated.h5", seed=1, steps=32, overwrite=True, progress=True)
    with h5py.File(out / "generated.h5") as file:
        compare(path, file["fields/maps"][...])


def compare(path: Path, generated: Any) -> None:
    """Show P(k) and the PDF of maps over those of the test maps, and of the training maps over the same."""
    with h5py.File(path) as file:
        simulation = {name: file[name]["simulation"][...] for name in ("train", "test")}
        truth = {name: file[name]["maps"][...].astype(np.float32) for name in ("train", "test")}
        size = float(file.attrs["BoxSize"])
    grid = ps.Grid((64, 64), (size, size))
    nyquist = math.pi * 64 / size
    for name, which, groups, base in (
        ("generated / test", generated, None, "test"), ("generated / train", generated, None, "train"),
        ("train / test", truth["train"], simulation["train"], "test"),
    ):  # fmt: skip
        audit = ps.compare_fields(
            which, truth[base], grid, groups=simulation[base], generated_groups=groups, seed=1
        )
        power = audit["power spectrum"]
        for part, reach in ((0.5, "5%"), (0.8, "10%")):
            inside = power.x <= part * nyquist
            show(
                f"N-body slabs, P(k) of {name}, up to {part:g} of Nyquist: largest; rms; errors",
                reach,
                _largest(power, inside),
            )
        pdf = audit["one-point PDF"]
        show(
            f"N-body slabs, PDF of {name}, 1st to 99th percentile: largest; rms; errors",
            "5%",
            _largest(pdf, np.ones(len(pdf.x), bool)),
        )
        print(*(f"# {line}" for line in str(audit).splitlines()), sep="\n")
        print("# P(k) ratio", np.array2string(1 + power.deviation, precision=3, max_line_width=110))
        print("# errors    ", np.array2string(power.deviation_error, precision=3, max_line_width=110))
        print("# PDF ratio ", np.array2string(1 + pdf.deviation, precision=3, max_line_width=110))


def _largest(found: Any, inside: Any) -> str:
    off, error = found.deviation[inside], found.deviation_error[inside]
    worst = np.abs(off).argmax()
    return (f"{off[worst]:+.1%} +- {error[worst]:.1%}; {np.sqrt((off**2).mean()):.1%}; "
            f"{np.sqrt((error**2).mean()):.1%}")  # fmt: skip


def equal_time(path: Path, seconds: float) -> None:
    """The analytic part with a residual, against a plain network, at equal training time.

    The losses compared are of the same noise and with the same weights, those of the analytic part.
    """
    with h5py.File(path) as file:
        held, truth, given = (
            file[part]["maps"][...].astype(np.float32) for part in ("validation", "test", "train")
        )
    fits = {}
    for name, analytic in (("analytic + residual", True), ("plain", False)):
        fits[name] = learning.train(
            network(2 if analytic else 1), path, "train/maps", validation="validation/maps", max_time=seconds,
            batch=32, precision="bfloat16", seed=0, analytic=analytic, progress=True,
        )  # fmt: skip
    best = fits["analytic + residual"]
    y = torch.as_tensor(best.normalisation.forward(held), dtype=torch.float32)
    levels = np.geomspace(best.sigma_min, best.sigma_max, 12)
    grid = ps.Grid(best.shape, best.box_size)
    expected = {
        part: ps.power_spectrum(maps, grid).power.mean(axis=0)
        for part, maps in (("test", truth), ("train", given))
    }
    for name, fit in fits.items():
        table = []
        for number, sigma in enumerate(levels):
            generator = torch.Generator().manual_seed(number)
            noise = torch.randn(y.shape, generator=generator)
            size = float(best.model.c_out(torch.tensor([sigma]), best.shape))
            with torch.no_grad():
                parts = zip(torch.split(y + sigma * noise, 64), torch.split(y, 64), strict=True)
                error = sum(float(((fit.model.denoise(a, sigma) - b) ** 2).sum()) for a, b in parts)
            table.append(error / y.numel() / size**2)
        print(
            f"# {name}: {fit.about['training']['steps']} steps; losses",
            np.array2string(np.array(table), precision=4),
        )
        show(f"{name}, {seconds:.0f} s: validation loss", "lower", f"{np.mean(table):.4f}")
        power = ps.power_spectrum(fit.sample(1024, seed=1, steps=24, progress=True), grid).power[:, :4]
        error = power.std(axis=0) / np.sqrt(len(power)) / power.mean(axis=0)
        for part, value in expected.items():
            off = power.mean(axis=0) / value[:4] - 1
            show(
                f"{name}, {seconds:.0f} s: P(k) over {part}, lowest four bins; rms; errors of the new",
                "nearer",
                f"{np.array2string(1 + off, precision=3)}; {np.sqrt((off**2).mean()):.3f}; "
                f"{np.sqrt((error**2).mean()):.3f}",
            )


PARTS = {
    "mixture": mixture_errors, "times": step_times, "linear": linear_models, "likelihoods": likelihoods,
    "samplers": samplers, "log-z": learned_log_z, "wiener": wiener,
}  # fmt: skip


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=[*PARTS, "equal-time"])
    parser.add_argument("--maps", type=Path)
    parser.add_argument("--seconds", type=float, default=2700.0)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--json")
    options = parser.parse_args()
    versions = {name: metadata.version(name) for name in ("physscore", "torch", "numpy")}
    about = {"python": platform.python_version(), "cpus": os.cpu_count(), **versions}
    print("#", ", ".join(f"{key} {value}" for key, value in about.items()))
    if options.maps and options.only == "equal-time":
        equal_time(options.maps, options.seconds)
    elif options.maps:
        maps(options.maps, options.seconds, options.out)
    else:
        for name, part in PARTS.items():
            if options.only in (None, name):
                part()
    if options.json:
        Path(options.json).write_text(json.dumps({"about": about, "rows": ROWS}, indent=1) + "\n")


if __name__ == "__main__":
    main()
