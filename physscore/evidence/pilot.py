"""The pilot: a small population finds the way from the reference to the target, and measures it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import erfinv

from physscore.arrays import device_of, namespace, to_host
from physscore.core import Array, InputError
from physscore.evidence.annealed import Particles, resampling_uniforms, systematic
from physscore.evidence.bridge import normalised
from physscore.evidence.excess import Excess
from physscore.evidence.plan import SHORT_OF_QUARTER, Knots, gradients_of, settings_of
from physscore.evidence.varying_scale import FAR
from physscore.kernels.kernel import Kernel
from physscore.kernels.langevin import AutoMALA
from physscore.kernels.state import Moves

_SPREAD = 0.8  # a stop is so many standard deviations of u from the last
_LARGE = 10_000  # dimensions
_FORGOTTEN = 0.05  # correlation of what is to be forgotten with what it was
_FEW = 8  # coordinates, of which each one's tails are seen in the virial
_MOST_KNOTS = 64
_MOST_STOPS, _HOPELESS = 10_000, 10  # steps at the end of which more of them would be needed
_LONGEST = SHORT_OF_QUARTER + math.pi  # trajectory: half a period more forgets as much of what is normal
_AT_TEMPERATURES = 3  # a scale that varies does: at one it may by chance
_SHRINK = 5.0  # particles that a measured variance must outnumber


def explore(
    excess: Excess,
    kernel: Kernel,
    *,
    particles: int,
    seed: int,
    dense: bool,
    watched: bool = False,
    device: str = "cpu",
    most_moves: int = 40,
    progress: Callable[[float], None] = lambda beta: None,
) -> tuple[Knots, Particles]:
    """Return what the way is like, and the particles at its end.

    If ``watched``, it is also seen how far the scale varies with the place.

    Raises
    ------
    InputError
        If the target is nowhere finite where the reference is, or is not a number.
    """
    y = excess.draw(particles, 0, seed, device)
    here = Particles(excess, kernel, y, seed=seed, dense=dense)
    check_start(here.u)
    pilot = Pilot(here, kernel, most_moves)
    pilot.watched = watched
    pilot.go(seed, progress)
    return pilot.knots(), here


def check_start(u: Array) -> None:
    """Refuse energies that are nowhere finite, or not numbers, at draws from the reference.

    Raises
    ------
    InputError
        If so.
    """
    if np.isnan(u).any():
        raise InputError(
            f"energy is nan at {np.isnan(u).sum()} of {len(u)} draws from the reference: it must be a number "
            "there, or inf outside of the target"
        )
    if np.isneginf(u).any():
        raise InputError(
            f"energy is -inf at {np.isneginf(u).sum()} of {len(u)} draws from the reference, where exp(-E) "
            "is infinite: it must be a number there, or inf outside of the target"
        )
    if not np.isfinite(u).any():
        raise InputError(
            f"energy is {u[0]} at all of {len(u)} draws from the reference: "
            "give a reference that covers the target"
        )


class Pilot:
    """A population that tunes a kernel at each temperature where it stops."""

    def __init__(self, particles: Particles, kernel: Kernel, most_moves: int) -> None:
        self.particles, self.kernel, self.most_moves = particles, kernel, most_moves
        self.d = particles.y.shape[1]
        self.dense = particles.tempered.dense
        # In large fields means over the modes hardly vary: longer strides show the same.
        self.spread = _SPREAD * max(1.0, math.sqrt(self.d / _LARGE))
        self.step_size = 1.0 / self.d ** (1 / 3)
        self.trajectory = SHORT_OF_QUARTER
        self.rows: list[tuple[float, ...]] = []
        self.lengths: list[float] = []
        self.last: Array = np.zeros(0)
        self.coordinates: list[tuple[Array, Array]] = []
        one = np.eye(self.d) if self.dense else np.ones(self.d)
        self.local = (np.zeros(self.d), one)
        self.n_moves, self.acceptance = 1, 1.0
        self.evaluations = len(particles.y)
        self.searched = self.watched = False
        self.variations: list[float] = []

    def go(self, seed: int, progress: Callable[[float], None] = lambda beta: None) -> None:
        """Go all the way from beta = 0 to 1."""
        beta = 0.0
        self.measure(beta)
        stops = hopeless = 0
        while beta < 1.0:
            step = self.next_step(beta)
            there = 1.0 if 1.0 - beta - step < 1e-12 else beta + step
            hopeless = hopeless + 1 if min(beta, 1.0 - beta) > _MOST_STOPS * step else 0
            if there == beta or stops == _MOST_STOPS or hopeless == _HOPELESS:
                raise InputError(
                    f"energy is down to {self.last.min():.3g} from the reference's at beta = {beta:.4g}, and "
                    f"more than {_MOST_STOPS} temperatures lead from there to the target: it falls without "
                    "end, so that exp(-E) has no finite integral (is its sign wrong?), or a nearer reference "
                    "is needed"
                )
            if self.spread == _SPREAD:  # of few particles and long strides one would be left
                self.reweight(beta, there, resampling_uniforms(seed, 0, 1, stops + 1, back=False)[stops, 0])
            beta = there
            self.settle(beta)
            self.measure(beta)
            if self.watched:
                self.variations.append(self._variation(beta))
            stops += 1
            progress(beta)

    def rates(self) -> Array:
        """Return dE/dbeta at the particles."""
        return self.particles.u

    def measure(self, beta: float) -> None:
        """Write down what this stop is like."""
        rates = self.rates()
        u = rates[np.isfinite(rates)]
        if self.rows:
            step = beta - self.rows[-1][0]
            if self.spread > _SPREAD:
                self.lengths.append(step * 0.5 * float(self.last.std() + rates.std()))
            else:
                self.lengths.append(distance(step, self.last, rates))
        self.last = rates
        settings = (self.step_size, self.trajectory, self.n_moves, self.acceptance)
        self.rows.append((beta, float(u.mean()), float(u.std()), *settings))
        self.coordinates.append(self.local)
        if len(self.rows) > 2 * _MOST_KNOTS:  # every other of those between the ends
            kept = [0, *range(2, len(self.rows) - 1, 2), len(self.rows) - 1]
            self.lengths = list(np.diff(self._length()[kept]))
            self.rows = [self.rows[i] for i in kept]
            self.coordinates = [self.coordinates[i] for i in kept]

    def next_step(self, beta: float) -> float:
        """Return how far beta may go: until weights would differ by a given spread of their logs."""
        u = self.last
        finite = np.isfinite(u)
        if not finite.all():  # what is outside is left behind at once, in the first step
            least = 1e-12
            spread = float(u[finite].std()) if finite.sum() > 1 else 0.0
            return min(1.0 - beta, self.spread / spread if spread > 0 else 1.0, 1.0) if beta == 0 else least
        if self.spread > _SPREAD:
            return min(1.0 - beta, self.spread / max(float(u.std()), 1e-300))
        goal = 1.0 / (1.0 + self.spread**2)  # effective share of weights with this spread

        def share(step: float) -> float:
            weights = normalised(-step * u)
            return float(1.0 / (len(u) * (weights**2).sum()))

        high = 1.0 - beta
        if share(high) >= goal:
            return high
        low = 0.0
        for _ in range(60):
            middle = 0.5 * (low + high) if low > 0 else high * 0.1
            low, high = (middle, high) if share(middle) >= goal else (low, middle)
            if low > 0 and high - low < 1e-3 * high:
                break
        return max(low, 1e-300)

    def reweight(self, here: float, there: float, uniform: float) -> None:
        """Resample for the next stop."""
        weights = normalised(self.particles.gain(here, there))
        self.particles.take(systematic(weights[np.newaxis], np.array([uniform]))[0])

    def settle(self, beta: float) -> None:
        """Tune the kernel at this stop, and move until the particles have forgotten where they were."""
        particles, kernel = self.particles, self.kernel
        particles.place(beta, self.local)
        self.local = self._fitted()
        particles.place(beta, self.local)
        if not self.searched:
            self._search()
        rate = 1.5
        start = self._memories()
        moves, calm, total = 0, 0, 0
        accepted = []
        goal = _goal(kernel)
        n = len(particles.u)
        chance = 1 / math.sqrt(n)  # makes it as large
        while total < 4 * self.most_moves:
            settings = self._settings(self.step_size)
            acceptance = float(particles.move(settings, 1).mean())
            self.evaluations += int(n * gradients_of(kernel, settings))
            total += 1
            if goal is not None:
                change = rate * (acceptance - goal)
                self.step_size = min(
                    self.step_size * math.exp(np.clip(change, -1.0, 1.0)), kernel.longest_step
                )
                rate = max(0.3, 0.8 * rate)
            elif isinstance(kernel, AutoMALA):
                self.step_size *= math.exp(0.5 * float(particles.exponent.mean()) * math.log(4.0))
            accepted.append(acceptance)
            calm += 1
            if calm == 3:  # the step size is about right: from here on moves count
                start, moves = self._memories(), 0
            elif calm > 3:
                moves += 1
                kept = max(map(_correlation, start, self._memories()))
                forgotten = kept < max(_FORGOTTEN, chance)
                if forgotten or moves >= self.most_moves:
                    break
        self.n_moves = max(1, moves)
        self.acceptance = float(np.mean(accepted[3:] or accepted))
        # One long trajectory goes farther than several short ones.
        change = 1.3 if self.n_moves > 2 else 0.9 if self.n_moves == 1 else 1.0
        self.trajectory = float(np.clip(change * self.trajectory, SHORT_OF_QUARTER, _LONGEST))

    def _memories(self) -> list[Array]:
        """Return what moves are to make the particles forget: u, and in few dimensions the virial as well.

        Control variates rest on tails, which fill late where they are exponential. Of the modes of a target,
        among which weights choose, the virial about the mean knows nothing.
        """
        particles = self.particles
        found = [particles.u.copy()]
        if self.d <= _FEW:
            y = to_host(particles.y) - self.local[0]
            found.append((y * to_host(particles.score())).sum(axis=1))
        return found

    def _variation(self, beta: float) -> float:
        """Return how much the powers of 2 vary by which autoMALA would change its steps here."""
        particles = self.particles
        excess, kernel = particles.tempered.excess, AutoMALA()
        step = particles.step + FAR
        others = Particles(
            excess, kernel, particles.y.copy(), seed=particles.seed, step=step, dense=self.dense
        )
        others.place(beta, self.local)
        settings = settings_of(kernel, self.step_size)
        others.move(settings, 1)
        self.evaluations += int(len(particles.y) * gradients_of(kernel, settings))
        return float(others.exponent.std())

    def _settings(self, step_size: float) -> Moves:
        return settings_of(self.kernel, step_size, self.trajectory)

    def _search(self) -> None:
        """Find a step size that is about right."""
        self.searched = True
        goal = _goal(self.kernel)
        if goal is None:
            return
        particles = self.particles

        def acceptance(step_size: float) -> float:
            kept = particles.y, particles.u, particles.slope
            found = float(particles.move(self._settings(step_size), 1).mean())
            particles.y, particles.u, particles.slope = kept
            return found

        up = acceptance(self.step_size) > goal
        for _ in range(40):
            following = min(self.step_size * (2.0 if up else 0.5), self.kernel.longest_step)
            if following == self.step_size or (acceptance(following) > goal) != up:
                break
            self.step_size = following

    def _fitted(self) -> tuple[Array, Array]:
        """Return mean and scale of the normal density that is nearest, in Fisher's divergence.

        Its variance is the root of that of y over that of the score, its mean that of y + variance score.
        """
        particles = self.particles
        y, score = particles.y, particles.score()
        n = len(y)
        share = n / (n + _SHRINK)
        mean = y.mean(axis=0)
        if self.dense:
            centred = y - mean
            found = centred.T @ centred / n
            share = n / (n + _SHRINK + self.d)
            shrunk = share * found + (1 - share) * np.diag(np.diag(found) + 1e-12)
            try:
                return mean, np.linalg.cholesky(shrunk)
            except np.linalg.LinAlgError:
                return mean, np.diag(np.sqrt(np.diag(found) + 1e-12))
        groups = particles.tempered.excess.groups
        scale2 = nearest_variances(y, score, groups)
        beside = namespace(device_of(y)).asarray
        return nearest_mean(y + beside(scale2) * score, groups), np.sqrt(scale2)

    @property
    def variation(self) -> float:
        """By how many powers of 2 the scale varies with the place, at three temperatures at least."""
        largest = sorted(self.variations)[-_AT_TEMPERATURES:]
        return min(largest, default=0.0)

    def _length(self) -> Array:
        return np.cumsum([0.0, *self.lengths])

    def knots(self) -> Knots:
        """Return all that was measured."""
        betas, energy, spread, step_sizes, trajectories, moves, acceptance = np.array(self.rows).T
        means = np.array([mean for mean, _ in self.coordinates])
        scales = np.array([scale for _, scale in self.coordinates])
        step_sizes[0], moves[0] = step_sizes[1], moves[1]
        return Knots(
            betas, self._length(), energy, spread, step_sizes, trajectories, moves, acceptance,
            means, scales, self.evaluations, self.variation,
        )  # fmt: skip


def _goal(kernel: Kernel) -> float | None:
    """Return the acceptance that steps are tuned to; of unadjusted ones, had they been adjusted."""
    return 0.9 if kernel.step_function == "langevin" else kernel.goal


def nearest_variances(y: Array, score: Array, groups: Array | None) -> Array:
    """Return the variances of the normal density that is nearest in Fisher's divergence.

    They are sqrt(var y / var score), over the draws; coordinates of one group share theirs, others are
    drawn towards what all have in common.
    """
    variances, slopes = to_host(y.var(axis=0)), to_host(score.var(axis=0))
    if groups is not None:
        many = np.bincount(groups)
        variances = (np.bincount(groups, variances) / many)[groups]
        slopes = (np.bincount(groups, slopes) / many)[groups]
    usable = (variances > 0) & (slopes > 0) & np.isfinite(slopes)
    found: Array = np.ones(len(variances))
    found[usable] = np.sqrt(variances[usable] / slopes[usable])
    if groups is not None:
        return np.asarray(found)
    share = len(y) / (len(y) + _SHRINK)
    return np.asarray(np.exp(share * np.log(found) + (1 - share) * np.log(found).mean()))


def nearest_mean(values: Array, groups: Array | None) -> Array:
    """Return its mean: that of y + variance score, which hardly varies where the density is normal.

    Given these values for independent draws. A group's means are drawn towards zero by the share of
    them that chance explains (James & Stein 1961).
    """
    mean = to_host(values.mean(axis=0))
    if groups is None:
        return mean
    chance = np.bincount(groups, to_host(values.var(axis=0, ddof=1)) / len(values))
    squares = np.bincount(groups, mean**2)
    return np.asarray(mean * np.maximum(0.0, 1.0 - chance / np.maximum(squares, 1e-300))[groups])


def distance(step: float, lower: Array, upper: Array) -> float:
    """Return how many standard deviations of u two neighbours are apart, from how often they would swap.

    The rejection of swaps is erf(sd / 2) for normal u; unlike a variance it is not ruled by rare values.
    """
    shifts = range(1, min(len(lower), 33))
    with np.errstate(invalid="ignore", over="ignore"):
        ratios = np.concatenate([step * (np.roll(upper, i) - lower) for i in shifts])
        accepted = np.exp(np.minimum(np.nan_to_num(ratios, nan=-np.inf), 0.0)).mean()
    return float(2 * erfinv(min(max(1.0 - accepted, 1e-6), 0.999)))


def _correlation(a: Array, b: Array) -> float:
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = a[finite], b[finite]
    if len(a) < 2:
        return 1.0
    centred, other = a - a.mean(), b - b.mean()
    size = math.sqrt(float((centred**2).sum() * (other**2).sum()))
    return float((centred * other).sum() / size) if size > 0 else 0.0
