// What modes.py and noise.field_modes do to half spectra (n, nx, ny, nz / 2 + 1). A thread takes the modes
// (+-x, +-y, z), which share their entry of a table over |k|.

struct alignas(4 * sizeof(REAL)) Pair {
    Complex first, second;
};

DEVICE u32 signed_frequency(i64 x, i64 n) { return (u32)(2 * x >= n ? x - n : (2 * x < -n ? x + n : x)); }

// Draw all modes as if each were its own; those of the planes z = 0 and Nyquist are drawn again by draw_planes.
extern "C" __global__ void draw_modes(
    REAL *out, long long nx, long long ny, long long nz, const long long *ox, const long long *oy,
    const long long *oz, const REAL *table, u32 realization, u32 k0, u32 k1, bool fixed
) {
    Octant o = octant_of(nx, ny, nz);
    i64 blocks = (o.hz + 1) / 2, n = o.hx * o.hy * blocks;
    for (i64 t = blockIdx.x * (i64)blockDim.x + threadIdx.x; t < n; t += (i64)gridDim.x * blockDim.x) {
        Place p = place_of(t, o.hx, o.hy, blocks);
        u32 block = (u32)p.z;
        p.z = 2 * p.z;
        bool both = p.z + 1 < o.hz;
        const REAL *base = table + ox[p.x] + oy[p.y];
        REAL a = base[oz[p.z]], b = both ? base[oz[p.z + 1]] : (REAL)0;
#pragma unroll
        for (int signs = 0; signs < 4; signs++) {
            Complex *place = of_signs(out, o, p, signs);
            if (!place) continue;
            i64 x = signs & 2 ? nx - p.x : p.x, y = signs & 1 ? ny - p.y : p.y;
            REAL xi[4];
            four_normals(
                block, signed_frequency(y, ny), signed_frequency(x, nx), FIELD + realization, k0, k1, fixed, xi
            );
            Pair pair = {{xi[0] * a, xi[1] * a}, {xi[2] * b, xi[3] * b}};
            if (both && (u64)place % sizeof(Pair) == 0) {
                *(Pair *)place = pair;
            } else {
                place[0] = pair.first;
                if (both) place[1] = pair.second;
            }
        }
    }
}

// Draw the modes of the planes z = 0 and Nyquist: of two that a real field ties together both use the same place.
extern "C" __global__ void draw_planes(
    REAL *out, long long nx, long long ny, long long nz, const long long *ox, const long long *oy,
    const long long *oz, const REAL *table, u32 realization, u32 k0, u32 k1, bool fixed
) {
    Octant o = octant_of(nx, ny, nz);
    i64 planes = nz % 2 == 0 ? 2 : 1;
    for (i64 t = blockIdx.x * (i64)blockDim.x + threadIdx.x; t < nx * ny * planes; t += (i64)gridDim.x * blockDim.x) {
        Place p = place_of(t, planes, nx, ny);
        i64 x = p.y, y = p.z, z = p.x * (nz / 2);
        bool self_x = x == 0 || 2 * x == nx, self_y = y == 0 || 2 * y == ny;
        bool away = 2 * x > nx || (self_x && 2 * y > ny);
        u32 cx = signed_frequency(away ? -x : x, nx), cy = signed_frequency(away ? -y : y, ny);
        REAL amplitude = table[ox[size_of(x, nx)] + oy[size_of(y, ny)] + oz[z]], xi[4];
        four_normals((u32)(z / 2), cy, cx, FIELD + realization, k0, k1, fixed, xi);
        Complex mode = {(z % 2 ? xi[2] : xi[0]) * amplitude, (z % 2 ? xi[3] : xi[1]) * amplitude};
        if (self_x && self_y) {  // its own partner: real, with all the variance in one number
            double size = fixed ? (double)HYPOT(mode.re, mode.im) : (double)mode.re * 1.4142135623730951;
            mode.re = (REAL)(fixed ? copysign(size, (double)mode.re) : size);
            mode.im = 0;
        } else if (away) {
            mode.im = -mode.im;
        }
        ((Complex *)out)[(x * ny + y) * o.hz + z] = mode;
    }
}

extern "C" __global__ void multiply(
    REAL *modes, long long fields, long long nx, long long ny, long long nz, const long long *ox,
    const long long *oy, const long long *oz, const REAL *table
) {
    Octant o = octant_of(nx, ny, nz);
    i64 n = fields * o.hx * o.hy * o.hz;
    for (i64 t = blockIdx.x * (i64)blockDim.x + threadIdx.x; t < n; t += (i64)gridDim.x * blockDim.x) {
        Place p = place_of(t, o.hx, o.hy, o.hz);
        Complex *places[4], found[4];  // all are asked for before one is written
#pragma unroll
        for (int signs = 0; signs < 4; signs++) {
            places[signs] = of_signs(modes, o, p, signs);
            if (places[signs]) found[signs] = *places[signs];
        }
        REAL factor = table[ox[p.x] + oy[p.y] + oz[p.z]];
#pragma unroll
        for (int signs = 0; signs < 4; signs++) {
            if (!places[signs]) continue;
            found[signs].re *= factor;
            found[signs].im *= factor;
            *places[signs] = found[signs];
        }
    }
}

DEVICE double power_of_signs(const REAL *a, const REAL *b, Octant o, Place p) {
    double sum = 0.0;
#pragma unroll
    for (int signs = 0; signs < 4; signs++) {
        const Complex *u = of_signs((REAL *)a, o, p, signs), *v = of_signs((REAL *)b, o, p, signs);
        if (!u) continue;
        Complex one = *u, other = *v;
        sum += (double)one.re * other.re + (double)one.im * other.im;
    }
    return p.z == 0 || 2 * p.z == o.nz ? sum : 2.0 * sum;  // the half spectrum leaves out the modes with z < 0
}

// Add Re(a conj b) of the full spectrum to the entries of a table. Every thread adds four modes before that, and
// neighbours add to different entries, so atomic additions do not wait for each other.
extern "C" __global__ void sum_power(
    const REAL *a, const REAL *b, long long nx, long long ny, long long nz, const long long *ox, const long long *oy,
    const long long *oz, const double *wx, const double *wy, const double *wz, double *total
) {
    Octant o = octant_of(nx, ny, nz);
    i64 n = o.hx * o.hy * o.hz;
    for (i64 t = blockIdx.x * (i64)blockDim.x + threadIdx.x; t < n; t += (i64)gridDim.x * blockDim.x) {
        Place p = place_of(t, o.hx, o.hy, o.hz);
        double power = wx[p.x] * wy[p.y] * wz[p.z] * power_of_signs(a, b, o, p);
        atomicAdd(total + ox[p.x] + oy[p.y] + oz[p.z], power);
    }
}

// Sum |modes|^2 times a table, for each field in parts whose rounding does not depend on the order of threads; then,
// if there is a second table, multiply the modes by it.
extern "C" __global__ void weighted_power(
    REAL *modes, long long fields, long long parts, long long nx, long long ny, long long nz, const long long *ox,
    const long long *oy, const long long *oz, const double *weights, const REAL *table, bool multiplies, double *sums
) {
    Octant o = octant_of(nx, ny, nz);
    i64 n = o.hx * o.hy * o.hz;
    for (i64 task = blockIdx.x; task < fields * parts; task += gridDim.x) {
        i64 field = task / parts, part = task % parts;
        double sum = 0.0;
        for (i64 t = part * n / parts + threadIdx.x; t < (part + 1) * n / parts; t += blockDim.x) {
            Place p = place_of(t, o.hx, o.hy, o.hz);
            p.field = field;
            Complex *places[4], found[4];
            double power = 0.0;
#pragma unroll
            for (int signs = 0; signs < 4; signs++) {
                places[signs] = of_signs(modes, o, p, signs);
                if (places[signs]) found[signs] = *places[signs];
            }
#pragma unroll
            for (int signs = 0; signs < 4; signs++)
                if (places[signs])
                    power += (double)found[signs].re * found[signs].re + (double)found[signs].im * found[signs].im;
            i64 entry = ox[p.x] + oy[p.y] + oz[p.z];
            sum += weights[entry] * (p.z == 0 || 2 * p.z == nz ? power : 2.0 * power);
            if (!multiplies) continue;
            REAL factor = table[entry];
#pragma unroll
            for (int signs = 0; signs < 4; signs++) {
                if (!places[signs]) continue;
                found[signs].re *= factor;
                found[signs].im *= factor;
                *places[signs] = found[signs];
            }
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) sums[task] = sum;
    }
}

// --- Orthonormal coordinates: modes.to_coordinates and from_coordinates ---------------------------------------------

extern "C" __global__ void to_coordinates(
    REAL *modes, long long fields, long long nx, long long ny, long long nz, REAL twice, REAL root
) {
    Octant o = octant_of(nx, ny, nz);
    i64 n = fields * nx * ny * o.hz;
    for (i64 t = blockIdx.x * (i64)blockDim.x + threadIdx.x; t < n; t += (i64)gridDim.x * blockDim.x) {
        Complex *place = (Complex *)modes + t;
        *place = packed(*place, role_of(o, place_of(t, nx, ny, o.hz)), twice, root);
    }
}

extern "C" __global__ void from_coordinates(
    const REAL *coordinates, const REAL *scale, bool shifted, const REAL *shift, REAL *modes, long long fields,
    long long nx, long long ny, long long nz, REAL half, REAL root
) {
    Octant o = octant_of(nx, ny, nz);
    i64 n = fields * nx * ny * o.hz;
    for (i64 t = blockIdx.x * (i64)blockDim.x + threadIdx.x; t < n; t += (i64)gridDim.x * blockDim.x) {
        Place p = place_of(t, nx, ny, o.hz);
        int role = role_of(o, p);
        i64 x = role == 2 ? mirrored(p.x, nx) : p.x, y = role == 2 ? mirrored(p.y, ny) : p.y;
        i64 kept = (x * ny + y) * o.hz + p.z;
        Complex pair = ((const Complex *)coordinates)[p.field * nx * ny * o.hz + kept];
        Complex factor = ((const Complex *)scale)[kept];
        pair.re = factor.re * pair.re;
        pair.im = factor.im * pair.im;
        if (shifted) {
            pair.re = pair.re + shift[2 * kept];
            pair.im = pair.im + shift[2 * kept + 1];
        }
        Complex mode = {half * pair.re, half * pair.im};
        if (role == 1) mode.re = mode.re / root;
        if (role) mode.im = role == 1 ? (REAL)0 : -mode.im;
        ((Complex *)modes)[t] = mode;
    }
}

// Score and energy of what is diagonal in the coordinates, and of the half spectrum of a slope beyond that, which is
// packed on the way; see energies/coordinates.py. The score takes the place of the slope. "shifted": the energy has
// shift . x besides precision x^2 / 2.
extern "C" __global__ void diagonal(
    const REAL *coordinates, const REAL *precision, bool shifted, const REAL *shift, const REAL *scale, bool bent,
    REAL *score, long long fields, long long nx, long long ny, long long nz, REAL twice, REAL root, long long parts,
    double *sums
) {
    Octant o = octant_of(nx, ny, nz);
    i64 size = nx * ny * o.hz;
    for (i64 task = blockIdx.x; task < fields * parts; task += gridDim.x) {
        i64 field = task / parts, part = task % parts;
        double sum = 0.0;
        for (i64 t = part * size / parts + threadIdx.x; t < (part + 1) * size / parts; t += blockDim.x) {
            Complex x = ((const Complex *)coordinates)[field * size + t], weight = ((const Complex *)precision)[t];
            Complex pull = {weight.re * x.re, weight.im * x.im}, *place = (Complex *)score + field * size + t;
            sum += 0.5 * ((double)weight.re * (double)x.re * (double)x.re + (double)weight.im * (double)x.im * (double)x.im);
            if (shifted) {
                Complex along = ((const Complex *)shift)[t];
                sum += (double)along.re * (double)x.re + (double)along.im * (double)x.im;
                pull.re = pull.re + along.re;
                pull.im = pull.im + along.im;
            }
            Complex total = {-pull.re, -pull.im};
            if (bent) {
                Complex slope = packed(*place, role_of(o, place_of(t, nx, ny, o.hz)), twice, root);
                Complex factor = ((const Complex *)scale)[t];
                total.re = slope.re * factor.re - pull.re;
                total.im = slope.im * factor.im - pull.im;
            }
            *place = total;
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) sums[task] = sum;
    }
}
