"""The coordinates in which a prior is a standard normal, compiled for blocks of points."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from physscore.arrays import cholesky
from physscore.core import Prior
from physscore.elementary import exp, sinh_and_cosh, upper_tail
from physscore.energies import kinds
from physscore.energies.gaussian import Gaussian
from physscore.energies.hartley import Waves, pull_back_waves, unwhiten_waves
from physscore.energies.johnson import JohnsonSU
from physscore.energies.priors import Parameters, Univariate
from physscore.parts import inline, part, spliced

_DIAGONAL, _DENSE, _NAMED, _WAVES, _JOHNSON = 0, 1, 2, 3, 4
_TABLE = -1
_NODES = 64  # in one unit of z: a spline's error is some 1e-10 of the change in such a unit
_DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)


def compiled_whitening(prior: Prior | Waves) -> npt.NDArray[np.float64] | None:
    """Return a prior as numbers for :func:`unwhiten`; None if it has no compiled whitening."""
    if type(prior) is JohnsonSU:
        numbers = compiled_whitening(prior._normal)
        assert numbers is not None
        return np.concatenate([[_JOHNSON], prior.tails, numbers])
    if type(prior) is Gaussian:
        covariance = np.asarray(prior.covariance, np.float64)
        mean = np.broadcast_to(np.asarray(prior.mean, np.float64).ravel(), (prior.dim,))
        if covariance.ndim == 2:
            return np.concatenate([[_DENSE], mean, cholesky(covariance, "covariance").ravel()])
        std = np.sqrt(np.broadcast_to(covariance.ravel(), (prior.dim,)))
        return np.concatenate([[_DIAGONAL], mean, std])
    if isinstance(prior, Waves):
        return np.concatenate([[_WAVES], prior.numbers])
    if isinstance(prior, Parameters):
        rows, tables, start = [], [], 1 + 3 * prior.dim
        for one in prior.priors:
            if one.kind <= kinds.HALF_NORMAL:
                rows.append([one.kind, *(one.bounds if one.kind < kinds.NORMAL else one.numbers)])
            else:
                tables.append(_table(one))
                rows.append([_TABLE, start, one.link])
                start += len(tables[-1])
        return np.concatenate([[_NAMED], np.array(rows, np.float64).ravel(), *tables])
    return None


def _table(prior: Univariate) -> npt.NDArray[np.float64]:
    """Return the bounds, and a cubic spline's values and slopes times the distance of its nodes."""
    from scipy.interpolate import CubicSpline  # half a second, which few need

    z = np.linspace(-kinds.DEEPEST, kinds.DEEPEST, round(2 * kinds.DEEPEST * _NODES) + 1)
    values = prior._linked(z)
    slopes = CubicSpline(z, values)(z, 1) / _NODES
    return np.concatenate([prior.bounds, np.stack([values, slopes], axis=1).ravel()])


@inline
def _below(z):
    """Return the standard normal probability below z, and above it, each accurate where it is small."""
    tail = upper_tail(abs(z))
    return (tail, 1.0 - tail) if z < 0.0 else (1.0 - tail, tail)


@part
def _half_normal(z):
    """Return t > 0 with erf(t / sqrt 2) = Phi(z), by Newton's steps, which come from one side."""
    root = math.sqrt(0.5)
    if z < 0.0:
        goal = 0.5 * math.erfc(-z * root)
        t = goal * math.sqrt(0.5 * math.pi)
        for _ in range(6):
            t += (goal - math.erf(t * root)) / (2.0 * _DENSITY_AT_0 * math.exp(-0.5 * t * t))
        return t
    goal = math.log(0.5 * math.erfc(z * root))
    t = math.sqrt(z * z + 1.0)
    for _ in range(6):
        tail = math.erfc(t * root)
        t += (math.log(tail) - goal) * tail / (2.0 * _DENSITY_AT_0 * math.exp(-0.5 * t * t))
    return t


@part
def _interpolated(numbers, start, z):
    """Return the spline of ``_table`` at z, and its derivative; nothing changes any more beyond its ends."""
    inside = min(max(z, -kinds.DEEPEST), kinds.DEEPEST)
    place = (inside + kinds.DEEPEST) * _NODES
    node = min(int(place), round(2 * kinds.DEEPEST * _NODES) - 1)
    s, at = place - node, start + 2 + 2 * node
    a, b, slope_a, slope_b = numbers[at], numbers[at + 2], numbers[at + 1], numbers[at + 3]
    bend, twist = 3.0 * (b - a) - 2.0 * slope_a - slope_b, 2.0 * (a - b) + slope_a + slope_b
    value = a + s * (slope_a + s * (bend + s * twist))
    return value, _NODES * (slope_a + s * (2.0 * bend + s * 3.0 * twist)) if inside == z else 0.0


@part
def _of_table(numbers, start, link, z):
    """Return x(z) and its derivative."""
    value, rate = _interpolated(numbers, start, z)
    if link == kinds.LOG:
        x = exp(value)
        return x, x * rate
    if link == kinds.LOGIT:
        small = exp(-abs(value))
        share = 1.0 / (1.0 + small)
        return small * share if value < 0.0 else share, rate * small * share * share
    return min(max(value, numbers[start]), numbers[start + 1]), rate


@part
def _mixed(numbers, z, x):
    """Fill ``x`` with mean + L z."""
    d, n = z.shape
    if numbers[0] == _DIAGONAL:
        for i in range(d):
            mean, std = numbers[1 + i], numbers[1 + d + i]
            for j in range(n):
                x[i, j] = mean + std * z[i, j]
    else:
        factor = numbers[1 + d :].reshape(d, d)
        for i in range(d):
            x[i] = numbers[1 + i]
            for k in range(i + 1):
                w = factor[i, k]
                for j in range(n):
                    x[i, j] += w * z[k, j]


@part
def _mixed_back(numbers, gradient):
    """Turn ``gradient`` into L^T gradient."""
    d, n = gradient.shape
    if numbers[0] == _DIAGONAL:
        for i in range(d):
            std = numbers[1 + d + i]
            for j in range(n):
                gradient[i, j] *= std
    else:
        factor = numbers[1 + d :].reshape(d, d)
        for i in range(d):  # row i of L^T takes what stands below it, which is still as it was
            w = factor[i, i]
            for j in range(n):
                gradient[i, j] *= w
            for k in range(i + 1, d):
                w = factor[k, i]
                for j in range(n):
                    gradient[i, j] += w * gradient[k, j]


@spliced
def unwhiten(numbers, z, x):
    """Fill the block ``x`` with the states at whitened coordinates ``z``, both of shape (d, n)."""
    d, n = z.shape
    kind = int(numbers[0])
    if kind <= _DENSE:
        _mixed(numbers, z, x)
    elif kind == _JOHNSON:
        t = np.empty((d, n))
        for i in range(d):
            tail = numbers[1 + i]
            for j in range(n):
                t[i, j] = sinh_and_cosh(tail * z[i, j])[0] / tail if tail != 0.0 else z[i, j]
        _mixed(numbers[1 + d :], t, x)
    elif kind == _WAVES:
        unwhiten_waves(numbers[1:], z, x)
    else:
        for i in range(d):
            which, a, b = int(numbers[1 + 3 * i]), numbers[2 + 3 * i], numbers[3 + 3 * i]
            if which == _TABLE:
                for j in range(n):
                    x[i, j] = _of_table(numbers, int(a), int(b), z[i, j])[0]
            elif which == kinds.NORMAL:
                for j in range(n):
                    x[i, j] = a + b * z[i, j]
            elif which == kinds.HALF_NORMAL:
                for j in range(n):
                    x[i, j] = b * _half_normal(z[i, j])
            elif which == kinds.LOG_UNIFORM:
                low, high = math.log(a), math.log(b)
                for j in range(n):
                    below, above = _below(z[i, j])
                    u = low + (high - low) * below if z[i, j] < 0.0 else high - (high - low) * above
                    x[i, j] = min(max(exp(u), a), b)  # rounding must not lead outside
            else:
                for j in range(n):
                    below, above = _below(z[i, j])
                    x[i, j] = a + (b - a) * below if z[i, j] < 0.0 else b - (b - a) * above


@spliced
def pull_back(numbers, z, x, gradient):
    """Turn a gradient over x into one over z, in place."""
    d, n = z.shape
    kind = int(numbers[0])
    if kind <= _DENSE:
        _mixed_back(numbers, gradient)
    elif kind == _JOHNSON:
        _mixed_back(numbers[1 + d :], gradient)
        for i in range(d):
            tail = numbers[1 + i]
            for j in range(n):
                gradient[i, j] *= sinh_and_cosh(tail * z[i, j])[1]
    elif kind == _WAVES:
        pull_back_waves(numbers[1:], gradient)
    else:
        for i in range(d):
            which, a, b = int(numbers[1 + 3 * i]), numbers[2 + 3 * i], numbers[3 + 3 * i]
            for j in range(n):
                if which == _TABLE:
                    rate = _of_table(numbers, int(a), int(b), z[i, j])[1]
                elif which == kinds.NORMAL:
                    rate = b
                else:
                    density = _DENSITY_AT_0 * exp(-0.5 * z[i, j] * z[i, j])
                    if which == kinds.LOG_UNIFORM:
                        rate = x[i, j] * (math.log(b) - math.log(a)) * density
                    elif which == kinds.HALF_NORMAL:
                        t = x[i, j] / b
                        rate = b * density / (2.0 * _DENSITY_AT_0 * exp(-0.5 * t * t))
                    else:
                        rate = (b - a) * density
                gradient[i, j] *= rate
