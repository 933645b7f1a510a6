"""The moves that kernels are made of, for blocks of chains: kick, drift, refresh, rotate, accept.

Positions x, momenta p and gradients g are arrays (d, n), the last axis being the chain. Momenta are
standard normal: with a metric M = W W^T, the kick is p -= h W^T g and the drift x += h W p.
"""

from __future__ import annotations

import math

import numpy as np

from physscore.elementary import exp, inline

IDENTITY, DIAGONAL, DENSE = 0, 1, 2


@inline
def kick(p, g, h, kind, metric):
    """p -= h W^T g, with one h for each chain."""
    d, n = g.shape
    if kind == DENSE:
        for i in range(d):
            for k in range(i, d):
                w = metric[k, i]
                for j in range(n):
                    p[i, j] -= h[j] * (w * g[k, j])
    else:
        for i in range(d):
            w = metric[0, i] if kind == DIAGONAL else 1.0
            for j in range(n):
                p[i, j] -= h[j] * (w * g[i, j])


@inline
def drift(x, p, h, kind, metric):
    """x += h W p, with one h for each chain."""
    d, n = x.shape
    if kind == DENSE:
        for i in range(d):
            for k in range(i + 1):
                w = metric[i, k]
                for j in range(n):
                    x[i, j] += h[j] * (w * p[k, j])
    else:
        for i in range(d):
            w = metric[0, i] if kind == DIAGONAL else 1.0
            for j in range(n):
                x[i, j] += h[j] * (w * p[i, j])


@inline
def rotate(x, p, angle):
    """Turn (x, p): the exact flow of a standard normal."""
    cos, sin = math.cos(angle), math.sin(angle)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            a, b = x[i, j], p[i, j]
            x[i, j] = cos * a + sin * b
            p[i, j] = cos * b - sin * a


@inline
def kick_beyond_normal(p, g, x, h):
    """p -= h (g - x): the kick by what differs from a standard normal."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            p[i, j] -= h * (g[i, j] - x[i, j])


@inline
def refresh(p, xi, keep):
    """p = keep p + sqrt(1 - keep^2) xi."""
    change = math.sqrt(1.0 - keep * keep)
    for i in range(p.shape[0]):
        for j in range(p.shape[1]):
            p[i, j] = keep * p[i, j] + change * xi[i, j]


@inline
def copy(a, b):
    """Copy ``a`` into ``b``."""
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            b[i, j] = a[i, j]


@inline
def add_kinetic(p, d, factor, total):
    """total += factor p^2 / 2."""
    for i in range(d):
        for j in range(len(total)):
            total[j] += (0.5 * factor) * (p[i, j] * p[i, j])


@inline
def choose(taken, new, old):
    """Where ``taken``, put the new value in place of the old one."""
    for i in range(old.shape[0]):
        for j in range(old.shape[1]):
            a, b = new[i, j], old[i, j]
            old[i, j] = a if taken[j] else b


@inline
def log_uniform(pair, out):
    """Logarithms of uniforms: of two normals, half the sum of squares is exponential."""
    for j in range(len(out)):
        out[j] = -0.5 * (pair[0, j] * pair[0, j] + pair[1, j] * pair[1, j])


@inline
def probability(log_ratio):
    """min(1, e^log_ratio), and 0 where that is not a number."""
    return np.float64(exp(min(log_ratio, 0.0)) if log_ratio == log_ratio else 0.0)
