"""The formulas that kernels are made of: kick, drift, refresh, rotate, accept.

Momenta are standard normal: with a metric M = W W^T, the kick is p += h W^T s and the drift
x += h W p. Each formula stands here once, for one number; below, it is spread over blocks of chains,
arrays (d, n) whose last axis is the chain.
"""

from __future__ import annotations

import math

import numpy as np

from physscore.elementary import exp
from physscore.parts import inline

IDENTITY, DIAGONAL, DENSE = 0, 1, 2
DIVERGED = 1000.0  # the energy error beyond which a trajectory is called divergent
# The multiples of these modulo 1 are spread evenly: which trajectories are long, which steps short.
GOLDEN, SILVER = 0.6180339887498949, 0.41421356237309515


@inline
def kicked(p, h, w, s):
    """Return the momentum after a kick by the score."""
    return p + h * (w * s)


@inline
def drifted(x, h, w, p):
    """Return the position after a drift."""
    return x + h * (w * p)


@inline
def refreshed(p, keep, change, xi):
    """Return a momentum of which a part is new; one that is all new forgets even what is not finite."""
    return keep * p + change * xi if keep != 0.0 else xi


@inline
def rotated(x, p, cos, sin):
    """Return (x, p) after the exact flow of a standard normal."""
    return cos * x + sin * p, cos * p - sin * x


@inline
def log_uniform(a, b):
    """Return the logarithm of a uniform: half the sum of squares of two normals is exponential."""
    return -0.5 * (a * a + b * b)


@inline
def probability(log_ratio):
    """Return min(1, e^log_ratio), and 0 where that is not a number."""
    return np.float64(exp(min(log_ratio, 0.0)) if log_ratio == log_ratio else 0.0)


@inline
def diverged(log_ratio):
    """Return whether a trajectory ran away. An infinite energy is a place outside a prior's bounds."""
    return not (log_ratio > -DIVERGED or log_ratio == -np.inf)


@inline
def n_leaps(length, number):
    """Return the leapfrog steps of trajectory ``number``: from length / 2 to 3 length / 2, evenly.

    With half a length to both sides no frequency comes back in step: the mean of cos(omega T) is below
    0.2 from where it first vanishes.
    """
    low = math.ceil(0.5 * length)
    many = math.floor(1.5 * length) - low + 1
    return low + int((np.float64(number + 1) * GOLDEN) % 1.0 * many)


@inline
def step_of(step, relief, number):
    """Return the step of trajectory ``number``: of a share ``relief`` of them a quarter as long.

    A chain may sit where the step is too long to be accepted, as Langevin proposals are in light tails;
    the short steps free it. Which ones are short does not depend on the chain, so nothing is biased.
    """
    if (np.float64(number + 1) * SILVER) % 1.0 < relief:
        return 0.25 * step
    return step


# --- Over blocks of chains ------------------------------------------------------------------------


@inline
def kick(p, s, h, metric):
    """Kick every chain for its own h."""
    d, n = s.shape
    kind, factor = metric
    if kind == DENSE:
        for i in range(d):
            for k in range(i, d):
                w = factor[k, i]
                for j in range(n):
                    p[i, j] = kicked(p[i, j], h[j], w, s[k, j])
    else:
        for i in range(d):
            w = factor[0, i] if kind == DIAGONAL else 1.0
            for j in range(n):
                p[i, j] = kicked(p[i, j], h[j], w, s[i, j])


@inline
def drift(x, p, h, metric):
    """Let every chain drift for its own h."""
    d, n = x.shape
    kind, factor = metric
    if kind == DENSE:
        for i in range(d):
            for k in range(i + 1):
                w = factor[i, k]
                for j in range(n):
                    x[i, j] = drifted(x[i, j], h[j], w, p[k, j])
    else:
        for i in range(d):
            w = factor[0, i] if kind == DIAGONAL else 1.0
            for j in range(n):
                x[i, j] = drifted(x[i, j], h[j], w, p[i, j])


@inline
def kick_and_drift(p, s, h, x, full, metric):
    """Kick, then drift: in one pass, where the metric allows it."""
    d, n = x.shape
    kind, factor = metric
    if kind == DENSE:
        kick(p, s, h, metric)
        drift(x, p, full, metric)
    else:
        for i in range(d):
            w = factor[0, i] if kind == DIAGONAL else 1.0
            for j in range(n):
                new = kicked(p[i, j], h[j], w, s[i, j])
                p[i, j] = new
                x[i, j] = drifted(x[i, j], full[j], w, new)


@inline
def rotate(x, p, angle):
    """Rotate every chain."""
    cos, sin = math.cos(angle), math.sin(angle)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j], p[i, j] = rotated(x[i, j], p[i, j], cos, sin)


@inline
def kick_beyond_normal(p, s, sign, x, h):
    """Kick by what the score, ``sign`` times s, has beyond that of a standard normal, -x."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            p[i, j] = kicked(p[i, j], h, 1.0, sign * s[i, j] + x[i, j])


@inline
def refresh(p, xi, keep):
    """Refresh the momenta of every chain."""
    change = math.sqrt(1.0 - keep * keep)
    for i in range(p.shape[0]):
        for j in range(p.shape[1]):
            p[i, j] = refreshed(p[i, j], keep, change, xi[i, j])


@inline
def copy(a, b):
    """Copy ``a`` into ``b``."""
    for i in range(b.shape[0]):
        for j in range(b.shape[1]):
            b[i, j] = a[i, j]


@inline
def add_kinetic(p, d, factor, total):
    """Add ``factor`` p^2 / 2 to the total of every chain."""
    for i in range(d):
        for j in range(len(total)):
            total[j] += (0.5 * factor) * (p[i, j] * p[i, j])


@inline
def choose(taken, new, sign, old):
    """Put ``sign`` times the new value in the old one's place where it is taken."""
    for i in range(old.shape[0]):
        for j in range(old.shape[1]):
            a, b = sign * new[i, j], old[i, j]
            old[i, j] = a if taken[j] else b


@inline
def log_uniforms(pair, out):
    """Fill ``out`` from two rows of normals."""
    for j in range(len(out)):
        out[j] = log_uniform(pair[0, j], pair[1, j])


@inline
def one_row(row, d, metric):
    """Return a metric that moves one coordinate only; all of them where there is no such row."""
    kind, factor = metric
    alone = np.zeros((1, d))
    for i in range(d):
        if row == i or row >= d:
            alone[0, i] = factor[0, i] if kind == DIAGONAL else 1.0
    return DIAGONAL, alone
