// Energies and scores on periodic lattices; the formulas are those of energies/lattice.py and energies/ising.py.

struct Sides { i64 x, y, z; };

// Where a site is. Index is what counts sites: int where that does, as 64-bit addresses take twice the instructions.
template <class Index> struct Site { Index x, y, z; };

template <class Index> DEVICE Site<Index> site_of(Index i, Site<Index> sides) {
    Index row = i / sides.z;
    Site<Index> site = {row / sides.y, row % sides.y, i % sides.z};
    return site;
}

// Return the site that is so many sites on, without a division: by as much as "step" is from the first.
template <class Index> DEVICE Site<Index> moved(Site<Index> site, Site<Index> step, Site<Index> sides) {
    site.z += step.z;
    site.y += step.y;
    site.x += step.x;
    if (site.z >= sides.z) {
        site.z -= sides.z;
        site.y += 1;
    }
    if (site.y >= sides.y) {
        site.y -= sides.y;
        site.x += 1;
    }
    return site;
}

template <class Index> DEVICE REAL two_neighbours(const REAL *x, Index i, Index place, Index side, Index stride) {
    Index around = (side - 1) * stride;
    return x[place == 0 ? i + around : i - stride] + x[place == side - 1 ? i - around : i + stride];
}

template <class Index>
DEVICE REAL neighbour_sum(const REAL *x, Index i, Site<Index> site, Site<Index> sides, int dims) {
    REAL sum = two_neighbours<Index>(x, i, site.z, sides.z, 1);
    if (dims > 1) sum += two_neighbours<Index>(x, i, site.y, sides.y, sides.z);
    if (dims > 2) sum += two_neighbours<Index>(x, i, site.x, sides.x, sides.y * sides.z);
    return sum;
}

// Have "rule" say what is written at each site, and its energy, summed for each state in parts whose rounding does
// not depend on the order of threads; null where there is no energy.
template <class Index, class Rule>
DEVICE void over_sites(
    Rule rule, const REAL *__restrict__ x, REAL *__restrict__ out, i64 n, i64 parts, int dims, Sides given, double *sums
) {
    Site<Index> sides = {(Index)given.x, (Index)given.y, (Index)given.z};
    Site<Index> step = site_of<Index>((Index)blockDim.x, sides);
    i64 d = given.x * given.y * given.z;
    for (i64 task = blockIdx.x; task < n * parts; task += gridDim.x) {
        i64 state = task / parts, part = task % parts;
        const REAL *values = x + state * d;
        REAL *written = out + state * d;
        Index first = (Index)(part * d / parts) + (Index)threadIdx.x, last = (Index)((part + 1) * d / parts);
        Site<Index> site = site_of<Index>(first, sides);
        double sum = 0.0;
        for (Index i = first; i < last; i += (Index)blockDim.x) {
            sum += at_site(rule, values[i], neighbour_sum<Index>(values, i, site, sides, dims), written[i]);
            site = moved(site, step, sides);
        }
        if (!sums) continue;
        sum = block_sum(sum);
        if (threadIdx.x == 0) sums[task] = sum;
    }
}

template <class Rule>
DEVICE void over_all_sites(
    Rule rule, const REAL *x, REAL *out, i64 n, i64 parts, int dims, Sides sides, double *sums
) {
    if (sides.x * sides.y * sides.z < 1 << 30) {
        over_sites<int>(rule, x, out, n, parts, dims, sides, sums);
    } else {
        over_sites<i64>(rule, x, out, n, parts, dims, sides, sums);
    }
}

struct Phi4 { REAL local, stiffness, quartic; };

DEVICE double at_site(Phi4 theory, REAL value, REAL around, REAL &score) {
    REAL linear = theory.local * value - theory.stiffness * around;
    REAL cube = theory.quartic * value * value * value;
    score = -(linear + 4 * cube);
    return (double)(value * (linear / 2 + cube));
}

extern "C" __global__ void phi4(
    const REAL *x, REAL *score, long long n, long long parts, int dims, long long nx, long long ny, long long nz,
    REAL local, REAL stiffness, REAL quartic, double *sums
) {
    Phi4 theory = {local, stiffness, quartic};
    Sides sides = {nx, ny, nz};
    over_all_sites(theory, x, score, n, parts, dims, sides, sums);
}

struct Couplings { REAL shift, coupling; };

struct Ising { Couplings times; REAL field; };

DEVICE REAL product(Couplings times, REAL value, REAL around) { return times.shift * value + times.coupling * around; }

// Write what the spins' mean, given the state, has more than the state. The score is the couplings times that.
DEVICE double at_site(Ising model, REAL value, REAL around, REAL &surplus) {
    REAL local = product(model.times, value, around), total = local + model.field, size = fabs(total);
    REAL log_cosh = size + (log1p(exp(-2 * size)) - (REAL)0.6931471805599453);
    surplus = tanh(total) - value;
    return (double)(value * local / 2 - log_cosh);
}

DEVICE double at_site(Couplings times, REAL value, REAL around, REAL &out) {
    out = product(times, value, around);
    return 0.0;
}

extern "C" __global__ void ising(
    const REAL *x, REAL *surplus, long long n, long long parts, int dims, long long nx, long long ny, long long nz,
    REAL shift, REAL coupling, REAL field, double *sums
) {
    Ising model = {{shift, coupling}, field};
    Sides sides = {nx, ny, nz};
    over_all_sites(model, x, surplus, n, parts, dims, sides, sums);
}

extern "C" __global__ void times_couplings(
    const REAL *x, REAL *out, long long n, long long parts, int dims, long long nx, long long ny, long long nz,
    REAL shift, REAL coupling
) {
    Couplings times = {shift, coupling};
    Sides sides = {nx, ny, nz};
    over_all_sites(times, x, out, n, parts, dims, sides, (double *)0);
}
