"""The card gives what the CPU gives: the same tests on a card (pytest -m gpu) and on its stand-in, which
compiles the CUDA sources for the host and refuses what CuPy refuses.

Everything is compared with the CPU to rounding; there are no statistical tests here.
"""

import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import cuda_on_host
import numpy as np
import pytest
from commands import physscore
from contracts.systems import build, states

import physscore as ps
from physscore import arrays, cuda, noise, philox
from physscore.arrays import on_gpu, to_host
from physscore.cuda import fft
from physscore.diagnostics.comparison import check_field
from physscore.evidence import excess
from physscore.evidence.tempered import Tempered
from physscore.kernels.loops import Loop
from physscore.plots import plot_run
from physscore.sampling.engine import Engine

SPECTRUM = ps.spectra.PowerLaw(index=-1.5, amplitude=20.0)
SHAPES = [(16,), (15,), (8, 12), (7, 9), (8, 8, 8), (5, 6, 7), (4, 12, 10)]


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def card(request: pytest.FixtureRequest) -> Iterator[Any]:
    """CuPy on a card, or its stand-in."""
    caches = (arrays.cupy, cuda._function, fft._plan)
    if request.param == "gpu":
        yield pytest.importorskip("cupy")
        return
    if not cuda_on_host.available():
        pytest.skip("there is no C++ compiler, or no array_api_strict")
    with cuda_on_host.install() as cupy:
        for cache in caches:
            cache.cache_clear()
        yield cupy
        cuda._kept.clear()
    for cache in caches:
        cache.cache_clear()


def close(found: Any, expected: Any, dtype: Any, scale: float = 1.0) -> None:
    """See that a result is on the card, and that of the CPU to rounding."""
    assert on_gpu(found)
    rounding = (3e-6 if np.dtype(dtype) == np.float32 else 1e-13) * scale
    size = np.abs(expected).max() if np.size(expected) else 1.0
    assert found.dtype == expected.dtype
    assert np.abs(to_host(found) - expected).max() <= rounding * size


def grid(shape: tuple[int, ...]) -> ps.Grid:
    return ps.Grid(shape, tuple(10.0 + 3 * axis for axis in range(len(shape))))


def test_the_integers_are_the_same_bit_for_bit(card: Any) -> None:
    counters = np.random.default_rng(1).integers(0, 2**32, (1000, 4), dtype=np.uint32)
    words = card.empty((1000, 4), np.uint32)
    cuda.launch(
        "noise", "philox_blocks", np.float32, 1000, card.asarray(counters), words, 1000, np.uint32(123),
        np.uint32(2**32 - 5),
    )  # fmt: skip
    assert (to_host(words) == philox.philox(counters, (123, 2**32 - 5))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_deviates_are_the_same(card: Any, dtype: Any) -> None:
    place = {"seed": 2**40 + 17, "step": 5, "draw": 3, "first": 1000}
    expected = noise.normal(301, 1003, dtype=dtype, **place)
    found = noise.normal(301, 1003, dtype=dtype, device="gpu", **place)
    assert on_gpu(found)
    # Almost all bits are the same too: only the root may round otherwise.
    assert np.abs(to_host(found) - expected).max() <= 4 * np.finfo(dtype).eps
    assert (to_host(found) == expected).mean() > 0.99


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [{}, {"fixed": True}, {"paired": True, "first": 3}])
def test_fields_are_the_same(card: Any, shape: tuple[int, ...], dtype: Any, options: dict[str, Any]) -> None:
    prior = ps.GaussianRandomField(grid(shape), SPECTRUM)
    expected = prior.sample(3, seed=11, dtype=dtype, **options)
    close(prior.sample(3, seed=11, dtype=dtype, device="gpu", **options), expected, dtype)
    close(prior.sample(1, seed=11, dtype=dtype, device="gpu", **options), expected[:1], dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", [ps.GaussianRandomField, ps.LognormalField])
def test_what_a_field_can_do_is_the_same(card: Any, family: Any, shape: tuple[int, ...], dtype: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        prior = family(grid(shape), ps.spectra.PowerLaw(index=-1.5, amplitude=0.3))
    x = prior.sample(3, seed=2, dtype=dtype)
    there = card.asarray(x)
    close(prior.energy(there), prior.energy(x), dtype, 10)
    close(prior.score(there), prior.score(x), dtype, 10)
    energy, score = prior.energy_and_score(there)
    close(energy, prior.energy(x), dtype, 10)
    close(score, prior.score(x), dtype, 10)
    white = prior.whiten(x)
    close(prior.whiten(there), white, dtype, 10)
    close(prior.unwhiten(card.asarray(white)), prior.unwhiten(white), dtype, 10)
    close(prior.pull_back(card.asarray(white), there), prior.pull_back(white, x), dtype, 10)
    assert (to_host(there) == x).all()  # the caller's array is left as it was
    close(prior.sample(2, seed=2, dtype=dtype, device="gpu"), x[:2], dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_power_spectra_are_the_same(card: Any, shape: tuple[int, ...], dtype: Any) -> None:
    box = grid(shape)
    prior = ps.GaussianRandomField(box, SPECTRUM)
    x = prior.sample(2, seed=2, dtype=dtype)
    for options in ({}, {"bins": "shells"}, {"mass_assignment": "cic"}):
        expected = ps.power_spectrum(x, box, **options)
        found = ps.power_spectrum(card.asarray(x), box, **options)
        np.testing.assert_allclose(found.power, expected.power, rtol=1e-4 if dtype == np.float32 else 1e-9)
    expected = ps.power_spectrum(x[0], box, x[1])
    found = ps.power_spectrum(card.asarray(x[0]), box, card.asarray(x[1]))
    size = np.abs(expected.power).max()
    np.testing.assert_allclose(found.power, expected.power, atol=1e-5 * size)
    assert ps.power_spectrum(card.asarray(x), box).compare(SPECTRUM).dof > 0


def posterior(shape: tuple[int, ...]) -> ps.core.Energy:
    prior = ps.GaussianRandomField(grid(shape), ps.spectra.PowerLaw(index=-1.5, amplitude=0.5))
    truth = prior.sample(1, seed=9)[0]
    mask = np.random.default_rng(0).uniform(size=shape) < 0.8
    return prior + ps.GaussianNoise(truth, 0.3, mask=mask).simulate(truth, seed=1)


KERNELS = [
    ps.ULA(step_size=0.05), ps.MALA(step_size=0.2), ps.HMC(step_size=0.2, leapfrogs=4),
    ps.HMC(step_size=0.2, leapfrogs=3, harmonic=True), ps.Underdamped(step_size=0.2),
    ps.Underdamped(step_size=0.2, metropolised=True), ps.CrankNicolson(step_size=0.3),
    ps.AutoMALA(step_size=0.2),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("shape", [(6, 8), (5, 4, 6), (7,), (3, 5, 7)])
def test_a_field_moves_the_same(card: Any, shape: tuple[int, ...], kernel: Any, dtype: Any) -> None:
    target = posterior(shape)
    if kernel.needs_energy is False and kernel.metric == "diagonal":
        kernel = kernel.tuned(metric="fourier")
    kernel = kernel.tuned(metric="fourier") if not kernel.whitened else kernel
    init = target.prior.sample(3, seed=5, dtype=dtype)
    options = {"chains": 3, "steps": 12, "warmup": 0, "seed": 3, "dtype": dtype}
    expected = ps.sample(target, kernel, init=init, **options)
    found = ps.sample(target, kernel, init=card.asarray(init), **options)
    assert on_gpu(found.draws)
    size = np.abs(expected.draws).max()
    rounding = 1e-3 if dtype == np.float32 else 1e-9
    assert np.abs(to_host(found.draws) - expected.draws).max() <= rounding * size
    np.testing.assert_allclose(found.energies, expected.energies, rtol=1e-4 if dtype == np.float32 else 1e-9)
    np.testing.assert_allclose(found.acceptance, expected.acceptance, atol=rounding)


METRICS = {
    "identity": lambda box: "identity",
    "of no symmetry": lambda box: ps.kernels.Fourier(
        box, np.linspace(0.01, 0.2, 2 * np.prod(box.half_shape))
    ),
}


@pytest.mark.parametrize("kernel", [ps.MALA(), ps.ULA()], ids=repr)
@pytest.mark.parametrize("metric", METRICS)
def test_a_field_moves_the_same_by_any_metric(card: Any, metric: str, kernel: Any) -> None:
    target = posterior((6, 5, 4))
    step_size = 0.002 if metric == "identity" else 0.05
    kernel = kernel.tuned(metric=METRICS[metric](target.prior.grid), step_size=step_size)
    init = target.prior.sample(3, seed=5)
    options = {"chains": 3, "steps": 12, "warmup": 0, "seed": 3}
    expected = ps.sample(target, kernel, init=init, **options)
    found = ps.sample(target, kernel, init=card.asarray(init), **options)
    close(found.draws, expected.draws, np.float64, 1e3)
    if kernel.goal:
        assert 0.2 < expected.acceptance.mean() < 0.9


@pytest.mark.parametrize("kernel", KERNELS[:4] + KERNELS[6:7], ids=repr)
def test_steps_in_few_passes_are_those_in_many(
    card: Any, kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = posterior((6, 8))
    kernel = kernel if kernel.whitened else kernel.tuned(metric="fourier")
    options = {"chains": 3, "steps": 12, "warmup": 0, "seed": 3, "device": "gpu"}
    few = ps.sample(target, kernel, **options)
    monkeypatch.setattr(Loop, "_in_few_passes", lambda *args: False)
    many = ps.sample(target, kernel, **options)
    assert np.abs(to_host(few.draws - many.draws)).max() <= 1e-12
    np.testing.assert_allclose(few.energies, many.energies, rtol=1e-12)
    np.testing.assert_array_equal(few.divergent, many.divergent)


def test_a_step_of_a_field_is_four_kernels(card: Any) -> None:
    if not hasattr(card, "launches"):
        pytest.skip("a card does not say what was launched on it; the stand-in does")
    target = posterior((6, 8))
    engine = Engine(target, ps.MALA(step_size=0.2, metric="fourier"), device="gpu")
    state = engine.start(target.prior.sample(2, seed=5, device="gpu"), 1)
    card.launches.clear()
    engine.advance(state, 5)
    names = [name for name, _, _ in card.launches]
    assert names == 5 * ["propose", "cells", "respond", "decide"] + ["take"]


@pytest.mark.parametrize("target", [
    ps.Ising((4, 6), coupling=0.4), ps.Phi4((4, 5), mass2=-0.5, coupling=0.2),
    ps.Phi4((3, 4, 4), kappa=0.2, lam=0.5),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("metric", ["identity", "diagonal", "dense"])
@pytest.mark.parametrize("kernel", [
    ps.MALA(step_size=0.1), ps.HMC(step_size=0.1, leapfrogs=3), ps.ULA(step_size=0.05),
    ps.Underdamped(step_size=0.1),
], ids=repr)  # fmt: skip
def test_a_lattice_moves_the_same(card: Any, target: Any, metric: str, kernel: Any) -> None:
    widths = np.linspace(0.5, 1, target.dim)
    metrics = {
        "identity": "identity",
        "diagonal": ps.kernels.Diagonal(widths),
        "dense": ps.kernels.Dense(0.5 * np.eye(target.dim) + 0.1),
    }
    kernel = kernel.tuned(metric=metrics[metric])
    options = {"chains": 5, "steps": 12, "warmup": 0, "seed": 3}
    expected = ps.sample(target, kernel, **options)
    found = ps.sample(target, kernel, device="gpu", **options)
    assert np.abs(to_host(found.draws) - expected.draws).max() <= 1e-9
    np.testing.assert_allclose(found.energies, expected.energies, rtol=1e-9)


@pytest.mark.parametrize("likelihood", [
    ps.GaussianNoise(np.linspace(-1, 1, 30).reshape(5, 6), 0.3),
    ps.PoissonCounts(np.arange(30).reshape(5, 6), 4.0, bias=0.7),
    ps.PoissonCounts(np.arange(30).reshape(5, 6), 4.0, bias=0.7, link="linear"),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_likelihoods_are_the_same(card: Any, likelihood: Any, dtype: Any) -> None:
    x = noise.normal(4, 30, seed=1, dtype=dtype).reshape(4, 5, 6)
    energy, score = likelihood.energy_and_score(x)
    found, slope = likelihood.energy_and_score(card.asarray(x))
    finite = np.isfinite(energy)
    assert (np.isfinite(to_host(found)) == finite).all()
    np.testing.assert_allclose(
        to_host(found)[finite], energy[finite], rtol=1e-5 if dtype == np.float32 else 1e-12
    )
    close(slope, score, dtype, 10)


def test_a_warm_up_on_the_card_tunes_alike(card: Any) -> None:
    target = posterior((6, 8))
    for kernel in (ps.MALA(), ps.ULA(), ps.CrankNicolson()):
        options = {"chains": 4, "steps": 8, "warmup": 100, "seed": 3}
        expected = ps.sample(target, kernel, **options)
        found = ps.sample(target, kernel, device="gpu", **options)
        assert float(found.kernel.step_size) == pytest.approx(float(expected.kernel.step_size), rel=1e-6)


@pytest.mark.parametrize("likelihood", [
    ps.PoissonCounts(np.arange(48).reshape(6, 8) % 7, 4.0, link="linear"),
    ps.GaussianNoise(np.linspace(-0.5, 1.5, 48).reshape(6, 8), 0.3),
], ids=repr)  # fmt: skip
def test_a_warm_up_of_a_lognormal_posterior_finds_the_same_metric(card: Any, likelihood: Any) -> None:
    target = ps.LognormalField(grid((6, 8)), ps.spectra.PowerLaw(index=-1.5, amplitude=0.1)) + likelihood
    options = {"chains": 4, "steps": 8, "warmup": 40, "seed": 3}
    expected = ps.sample(target, ps.MALA(), **options)
    found = ps.sample(target, ps.MALA(), device="gpu", **options)
    np.testing.assert_allclose(found.kernel.metric.octant, expected.kernel.metric.octant, rtol=1e-6)
    close(found.draws, expected.draws, np.float64, 1e7)


@pytest.mark.parametrize("metric", ["diagonal", "dense"])
@pytest.mark.parametrize("target", [
    ps.Phi4((3, 4), mass2=-0.5, coupling=0.2),
    ps.Gaussian([0.0, 1.0], 2.0) + ps.from_functions(
        energy=lambda x: (x**4).sum(axis=1), score=lambda x: -4 * x**3, shape=2
    ),
], ids=["lattice", "functions"])  # fmt: skip
def test_a_warm_up_measures_the_same_metric(card: Any, target: Any, metric: str) -> None:
    options = {"chains": 4, "steps": 8, "warmup": 40, "seed": 3}
    expected = ps.sample(target, ps.MALA(metric=metric), **options)
    found = ps.sample(target, ps.MALA(metric=metric), device="gpu", **options)
    np.testing.assert_allclose(found.kernel.metric.factor, expected.kernel.metric.factor, rtol=1e-6)
    close(found.draws, expected.draws, np.float64, 1e7)


def test_a_run_on_the_card_goes_to_a_file_and_on(card: Any, tmp_path: Any) -> None:
    target = posterior((6, 8))
    options = {"chains": 4, "steps": 8, "warmup": 20, "seed": 3, "device": "gpu"}
    whole = ps.sample(target, ps.MALA(step_size=0.2), **options)
    run = ps.sample(target, ps.MALA(step_size=0.2), output=tmp_path / "run.h5", **options)
    np.testing.assert_allclose(run.draws[...], to_host(whole.draws), rtol=1e-12, atol=1e-12)
    assert np.isfinite(whole.mean).all()
    assert np.isfinite(whole.r_hat).all()


SYSTEMS = {name: energy for name, energy in build().items() if name not in ("integrated", "functions")}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_energy_is_the_same(card: Any, name: str) -> None:
    energy = SYSTEMS[name]
    x = states(energy, 5)
    expected = energy.energy_and_score(x)
    found = energy.energy_and_score(card.asarray(x))
    for a, b in zip(found, expected, strict=True):
        close(a, b, np.float64, 100)
    close(energy.energy(card.asarray(x)), expected[0], np.float64, 100)
    close(energy.score(card.asarray(x)), expected[1], np.float64, 100)


def test_replica_exchange_is_the_same(card: Any) -> None:
    options = {"chains": 3, "steps": 6, "warmup": 10, "rungs": 3, "seed": 2}
    kernel = ps.MALA(step_size=0.1, metric="fourier")
    for target, reference in ((posterior((6, 8)), None), (ps.Ring(), ps.Gaussian(0.0, 2.0, dim=2))):
        kernel = kernel if reference is None else ps.MALA(step_size=0.1, metric="identity")
        expected = ps.temper(target, reference, kernel, **options)
        found = ps.temper(target, reference, kernel, device="gpu", **options)
        assert on_gpu(found.draws)
        assert np.abs(to_host(found.draws) - expected.draws).max() <= 1e-9
        np.testing.assert_allclose(found.rejection, expected.rejection, atol=1e-9)


@pytest.mark.parametrize("kind", ["energy", "score"])
def test_learned_scores_are_the_same(card: Any, kind: str) -> None:
    torch = pytest.importorskip("torch")
    from physscore import learning

    torch.manual_seed(0)
    network = learning.MLP(3, (8, 8), kind=kind)
    on_cpu = ps.from_torch(network, 3)
    x = noise.normal(5, 3, seed=1, dtype=np.float32)
    expected = on_cpu.score(x), on_cpu.energy(x) if kind == "energy" else None
    if not hasattr(card, "transfers"):
        network.to("cuda")
    learned = ps.from_torch(network, 3)
    close(learned.score(card.asarray(x)), expected[0], np.float32, 10)
    if kind == "energy":
        close(learned.energy(card.asarray(x)), expected[1], np.float32, 10)
        run = ps.sample(learned, ps.MALA(step_size=0.1, metric="identity"), chains=5, steps=5, warmup=0,
                        init=card.asarray(x), dtype="float32")  # fmt: skip
        assert on_gpu(run.draws)


@pytest.mark.parametrize(
    ("target", "reference"),
    [(posterior((6, 8)), None), (posterior((6, 8)), "fitted"), (ps.Ising((4, 6), coupling=0.4), None)],
    ids=["field", "field-fitted", "ising"],
)
def test_log_z_is_the_same(card: Any, target: Any, reference: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excess, "_WAVES_UP_TO", 0)  # so that both move in Fourier modes
    options = {"reference": reference, "particles": 128, "islands": 16, "schedule": 6, "seed": 3}
    expected, found = (ps.estimate_log_z(target, device=device, **options) for device in ("cpu", "gpu"))
    if target.log_z is not None:
        assert abs(found.log_z - target.log_z) < 5 * found.error + 0.5
    # A trajectory that is rejected where the CPU's is accepted, for its rounding, makes another estimate.
    assert abs(found.log_z - expected.log_z) < 3 * (found.error + expected.error)
    assert found.error == pytest.approx(expected.error, rel=0.5)


@pytest.mark.parametrize("shape", [(6, 8), (5, 7), (4, 6, 5), (9,)])
@pytest.mark.parametrize("reference", ["prior", "normal"])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_densities_on_the_way_are_the_same(
    card: Any, shape: tuple[int, ...], reference: str, beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E_beta and its score over v, the way there and back, and |y|^2."""
    monkeypatch.setattr(excess, "_WAVES_UP_TO", 0)
    target, rng = posterior(shape), np.random.default_rng(1)
    begin = target.prior
    if reference == "normal":
        free = excess.as_modes(begin).variances
        begin = ps.FourierGaussian(
            begin.grid, rng.normal(size=free.shape), free * rng.uniform(0.5, 2, free.shape)
        )
    here, there = (Tempered(excess.excess_of(begin, target, device)) for device in ("cpu", "gpu"))
    mean, scale = rng.normal(size=here.dim), rng.uniform(0.5, 2.0, here.dim)
    here.place(beta, mean, scale)
    there.place(beta, card.asarray(mean), card.asarray(scale))
    v, other = rng.normal(size=(2, 3, here.dim))
    on_card = [card.asarray(a) for a in (v, other)]
    for found, expected in zip(there.energy_and_score(on_card[0]), here.energy_and_score(v), strict=True):
        close(found, expected, np.float64, 10)
    ways = [(there.leave, here.leave)] + ([(there.arrive, here.arrive)] if beta else [])
    for ours, theirs in ways:
        for found, expected in zip(ours(*on_card), theirs(v, other), strict=True):
            close(found, expected, np.float64)
    close(arrays.row_dots(*on_card), arrays.row_dots(v, other), np.float64)


def test_log_z_on_a_card_is_for_fields(card: Any) -> None:
    with pytest.raises(ps.InputError, match="for fields and lattices"):
        ps.estimate_log_z(ps.Funnel(3), ps.Gaussian(0.0, 1.0, dim=3), device="gpu")
    with pytest.raises(ps.InputError, match="one process"):
        ps.estimate_log_z(posterior((6, 8)), device="gpu", workers=2)


def test_the_order_of_axes_in_memory_does_not_matter(card: Any) -> None:
    target = ps.Ising((8, 9), coupling=0.3)
    kernel = ps.MALA(step_size=0.1, metric="identity")
    options = {"chains": 3, "steps": 5, "warmup": 0, "seed": 3}
    one = noise.normal(1, 72, seed=1).reshape(8, 9)
    many = np.asfortranarray(noise.normal(3, 72, seed=2).reshape(3, 8, 9))
    for init in (one, many, many.transpose(0, 2, 1).copy().transpose(0, 2, 1)):
        expected = ps.sample(target, kernel, init=init, **options)
        found = ps.sample(target, kernel, init=card.asarray(init), **options)
        assert np.abs(to_host(found.draws) - expected.draws).max() <= 1e-9
    prior = ps.GaussianRandomField(grid((6, 6)), SPECTRUM)
    x = prior.sample(2, seed=1)
    turned = card.asarray(x).transpose(0, 2, 1)
    for a, b in zip(
        prior.energy_and_score(turned), prior.energy_and_score(x.transpose(0, 2, 1)), strict=True
    ):
        close(a, b, np.float64, 10)


def test_cross_spectra_of_two_precisions(card: Any) -> None:
    box = grid((8, 8))
    x, y = ps.GaussianRandomField(box, SPECTRUM).sample(2, seed=1)
    single = y.astype(np.float32)
    expected = ps.power_spectrum(x, box, single)
    for a, b in ((x, single), (single, x)):
        found = ps.power_spectrum(card.asarray(a), box, card.asarray(b))
        np.testing.assert_allclose(found.power, expected.power, atol=1e-5 * np.abs(expected.power).max())


def test_a_posterior_of_counts_is_tuned_saved_and_drawn(card: Any, tmp_path: Any) -> None:
    prior = ps.GaussianRandomField(grid((6, 8)), ps.spectra.PowerLaw(index=-1.5, amplitude=0.5))
    truth = prior.sample(1, seed=9)[0]
    target = prior + ps.PoissonCounts(np.zeros((6, 8)), 5.0).simulate(truth, seed=1)
    run = ps.sample(target, ps.MALA(metric="fourier"), chains=3, steps=8, warmup=30, seed=1, device="gpu")
    ps.save(tmp_path / "run.h5", run)
    assert (ps.load(tmp_path / "run.h5").draws[...] == to_host(run.draws)).all()
    plot_run(tmp_path / "run.png", run)
    fields = prior.sample(2, seed=1, device="gpu")
    ps.save(tmp_path / "fields.h5", ps.Fields(fields, prior.grid))
    lognormal = ps.LognormalField(prior.grid, ps.spectra.PowerLaw(index=-1.5, amplitude=0.1))
    delta = lognormal.sample(2, seed=1)
    for given in (delta, delta[0]):
        expected = check_field(given, lognormal)
        assert check_field(card.asarray(given), lognormal).chi2 == pytest.approx(expected.chi2, rel=1e-9)


@pytest.mark.parametrize("prior", [
    ps.Gaussian([1.0, 2.0], [[2.0, 0.5], [0.5, 1.0]]),
    ps.JohnsonSU([1.0, -2.0], [1.0, 4.0], [0.5, 0.0]),
    ps.Funnel(3),
    ps.Parameters(a=ps.Normal(0.0, 1.0), b=ps.HalfNormal(2.0)),
], ids=repr)  # fmt: skip
def test_vectors_are_whitened_too(card: Any, prior: Any) -> None:
    x, z = prior.sample(4, seed=1), noise.normal(4, prior.dim, seed=1)
    for name, given in (("whiten", (x,)), ("unwhiten", (z,)), ("pull_back", (z, x))):
        on_card = [card.asarray(a) for a in given]
        close(getattr(prior, name)(*on_card), getattr(prior, name)(*given), np.float64, 10)
        for there, here in zip(on_card, given, strict=True):  # the caller's arrays are left as they were
            assert (to_host(there) == here).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9,), (6, 8), (4, 5, 6)])
def test_densities_of_modes_are_the_same(card: Any, shape: tuple[int, ...], dtype: Any) -> None:
    field = ps.GaussianRandomField(grid(shape), SPECTRUM)
    free = excess.as_modes(field).variances
    law = ps.FourierGaussian(field.grid, np.random.default_rng(1).normal(size=free.shape), free)
    x, z = law.sample(3, seed=1).astype(dtype), noise.normal(3, free.size, seed=2, dtype=dtype)
    there = card.asarray(x)
    for found, expected in zip(law.energy_and_score(there), law.energy_and_score(x), strict=True):
        close(found, expected, dtype, 10)
    close(law.energy(there), law.energy(x), dtype, 10)
    close(law.whiten(there), law.whiten(x), dtype, 10)
    close(law.unwhiten(card.asarray(z)), law.unwhiten(z), dtype, 10)
    close(law.pull_back(card.asarray(z), there), law.pull_back(z, x), dtype, 10)


def test_nothing_is_transferred_in_secret(card: Any) -> None:
    if not hasattr(card, "transfers"):
        pytest.skip("a card does not count")
    prior = ps.GaussianRandomField(grid((8, 8, 8)), SPECTRUM)
    target = posterior((8, 8, 8))
    x = prior.sample(2, seed=1, device="gpu")
    z = prior.whiten(x)

    def work() -> None:
        prior.sample(2, seed=1, device="gpu")
        prior.energy_and_score(x)
        prior.score(x)
        prior.unwhiten(z)
        prior.pull_back(z, x)
        target.energy_and_score(x)

    work()  # tables and offsets are sent once
    card.transfers.to_host = card.transfers.to_device = 0
    work()
    assert (card.transfers.to_host, card.transfers.to_device) == (0, 0)


def test_devices_are_not_mixed(card: Any) -> None:
    box = grid((8, 8))
    prior = ps.GaussianRandomField(box, SPECTRUM)
    x = prior.sample(2, seed=1)
    with pytest.raises(ps.InputError, match="arrays are on CPU and GPU"):
        ps.power_spectrum(x[0], box, card.asarray(x[1]))
    target = ps.from_functions(energy=lambda x: np.zeros(len(x)), score=lambda x: np.zeros(x.shape), shape=3)
    with pytest.raises(ps.InputError, match="arrays on the CPU for states on the GPU"):
        ps.sample(target, ps.MALA(step_size=0.1), chains=2, steps=2, warmup=0, device="gpu")


def test_a_device_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = ps.GaussianRandomField(grid((8, 8)), SPECTRUM)
    with pytest.raises(ps.InputError, match='must be "cpu" or "gpu"'):
        prior.sample(1, seed=1, device="cuda")
    arrays.cupy.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ps.InputError, match=r'needs CuPy: pip install "physscore\[gpu\]"'):
        prior.sample(1, seed=1, device="gpu")


def test_a_card_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver")

    prior = ps.GaussianRandomField(grid((8, 8)), SPECTRUM)

    def no_library() -> int:
        raise ImportError("Failure finding libcufft.so")

    for place, name, found, message in (
        ("runtime", "getDeviceCount", no_driver, "finds no driver or no card: cudaError"),
        ("runtime", "getDeviceCount", lambda: 0, "there is no card"),
        ("cufft", "getVersion", no_library, "finds no cuFFT .Failure finding libcufft.so"),
    ):
        with cuda_on_host.install() as cupy:
            arrays.cupy.cache_clear()
            monkeypatch.setattr(getattr(cupy.cuda, place), name, found)
            with pytest.raises(ps.InputError, match=message):
                prior.sample(1, seed=1, device="gpu")
            monkeypatch.undo()
    arrays.cupy.cache_clear()


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is there")
@pytest.mark.parametrize("command", ["field --grid 8 --box 1 -o x.h5", "sample ising", "logz ising"])
def test_commands_name_the_extra(command: str, tmp_path: Any) -> None:
    done = physscore(*command.split(), "--device", "gpu", cwd=tmp_path, code=2)
    assert 'pip install "physscore[gpu]"' in done.stderr
