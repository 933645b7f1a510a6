"""The numbers by which compiled code knows distributions of one parameter, and limits of its arithmetic."""

UNIFORM, LOG_UNIFORM, NORMAL, HALF_NORMAL, TRUNCATED_NORMAL = range(5)
LOG_NORMAL, HALF_CAUCHY, GAMMA, INVERSE_GAMMA, BETA = range(5, 10)

PLAIN, LOG, LOGIT = range(3)
"""What is smooth down to the bounds: the parameter itself, its logarithm, or its log odds."""

DEEPEST = 37.5
"""Where the standard normal's tail is about to be no floating-point number."""

LEAST, MOST = 1e-300, 1e300
"""Of a number whose logarithm and reciprocal are at hand."""

BELOW_1 = 2.0**-54
"""The distance from 1 of what rounds to 1."""
