// A step of chains of fields over their modes (energies/coordinates.py), whose formulas are those of moves.cu and
// modes.cu, in as few passes over memory as there can be between two transforms. A chain has two places: in the one it
// is, in the other it may be next. They are (x, s) and (y, t), or the other way round where "away" says so; all are
// arrays (chains, d), where d = 2 nx ny (nz / 2 + 1).

const int OCTANT = 3;  // a metric that is a number for each |kx|, |ky|, |kz|; see octant_of_modes

struct Ends { REAL *here, *force, *there, *pull; };

DEVICE Ends ends_of(REAL *x, REAL *s, REAL *y, REAL *t, bool away) {
    Ends ends = {away ? y : x, away ? t : s, away ? x : y, away ? s : t};
    return ends;
}

struct Mode {
    i64 number, octant;  // of all, and of those with no negative frequency
    Place place;
    int role;
};

DEVICE Mode mode_of(Octant o, i64 number) {
    Mode mode;
    mode.number = number;
    mode.place = place_of(number, o.nx, o.ny, o.hz);
    mode.role = role_of(o, mode.place);
    mode.octant = (size_of(mode.place.x, o.nx) * o.hy + size_of(mode.place.y, o.ny)) * o.hz + mode.place.z;
    return mode;
}

// Return the numbers of a mode's two coordinates, by an octant; "unused" where one plays no part.
DEVICE Complex in_octant(const REAL *octant, Mode mode, REAL unused) {
    REAL value = octant[mode.octant];
    Complex pair = {mode.role == 2 ? unused : value, mode.role ? unused : value};
    return pair;
}

DEVICE Complex width_of(const REAL *w, int metric, Mode mode) {
    if (metric == OCTANT) return in_octant(w, mode, 0);
    if (metric == DIAGONAL) return ((const Complex *)w)[mode.number];
    Complex ones = {1, 1};
    return ones;
}

// Write a mode of a half spectrum, given that times "half", sqrt(1/2) times what the spectrum is scaled by; and the one
// that a real field ties to it.
DEVICE void put_mode(Complex value, REAL root, Complex *modes, Octant o, Mode mode) {
    if (mode.role == 2) return;
    if (mode.role == 1) {
        value.re = value.re / root;
        value.im = 0;
    }
    modes[mode.number] = value;
    if (mode.role == 1 || (mode.place.z != 0 && 2 * mode.place.z != o.nz)) return;
    Complex partner = {value.re, -value.im};
    modes[(mirrored(mode.place.x, o.nx) * o.ny + mirrored(mode.place.y, o.ny)) * o.hz + mode.place.z] = partner;
}

// Kick momenta, let chains drift, and write the half spectra of where they come to. "anew": from where they are, with
// new momenta, the squares of which are summed before the kick; else further on from where they drifted last. "keeps":
// momenta are needed later.
extern "C" __global__ void propose(
    REAL *x, REAL *s, REAL *y, REAL *t, const bool *away, REAL *p, const REAL *w, int metric, double kick,
    double drift, bool harmonic, bool anew, bool keeps, const REAL *scale, REAL *modes, REAL half, REAL root,
    long long chains, long long nx, long long ny, long long nz, long long parts, long long first, u32 step, u32 k0, u32 k1,
    double *kinetic
) {
    Octant o = octant_of(nx, ny, nz);
    i64 n_modes = nx * ny * o.hz, d = 2 * n_modes;
    Motion motion = motion_of(kick, drift, harmonic);
    for (i64 task = blockIdx.x; task < chains * parts; task += gridDim.x) {
        Piece piece = piece_of(task, parts, d);
        i64 chain = piece.chain;
        Ends ends = ends_of(x, s, y, t, away[chain]);
        const REAL *from = anew ? ends.here : ends.there, *force_there = anew ? ends.force : ends.pull;
        double sum = 0.0;
        for (i64 block = piece.low + threadIdx.x; block < piece.high; block += blockDim.x) {
            i64 i = 4 * block;
            Four momentum, force = four_of(force_there, chain, i, d), here = four_of(from, chain, i, d);
            if (anew)
                four_normals((u32)block, (u32)(first + chain), step, CHAIN, k0, k1, false, momentum.at);
            else
                momentum = four_of(p, chain, i, d);
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                if (i + j >= d) break;
                Mode mode = mode_of(o, (i + j) / 2);
                Complex width = width_of(w, metric, mode), factor = in_octant(scale, mode, 0);
                sum += (double)momentum.at[j] * (double)momentum.at[j];
                sum += (double)momentum.at[j + 1] * (double)momentum.at[j + 1];
                momentum.at[j] = kicked(motion, momentum.at[j], width.re, force.at[j], here.at[j]);
                momentum.at[j + 1] = kicked(motion, momentum.at[j + 1], width.im, force.at[j + 1], here.at[j + 1]);
                here.at[j] = drifted(motion, here.at[j], width.re, momentum.at[j]);
                here.at[j + 1] = drifted(motion, here.at[j + 1], width.im, momentum.at[j + 1]);
                Complex value = {half * (factor.re * here.at[j]), half * (factor.im * here.at[j + 1])};
                put_mode(value, root, (Complex *)modes + chain * n_modes, o, mode);
            }
            if (keeps) put_four(momentum, p, chain, i, d);
            put_four(here, ends.there, chain, i, d);
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) kinetic[task] = 0.5 * sum;
    }
}

// Write the score where chains drifted to, given the half spectra of the slopes of what is not diagonal, and sum the
// energies of what is; "last": and those of the momenta after one more kick, which nobody needs otherwise.
extern "C" __global__ void respond(
    REAL *x, REAL *s, REAL *y, REAL *t, const bool *away, const REAL *p, const REAL *w, int metric, double kick,
    bool harmonic, bool last, const REAL *slopes, const REAL *scale, const REAL *precision, REAL unused, REAL twice,
    REAL root, long long chains, long long nx, long long ny, long long nz, long long parts, double *energies,
    double *kinetic
) {
    Octant o = octant_of(nx, ny, nz);
    i64 d = 2 * nx * ny * o.hz;
    Motion motion = motion_of(kick, 0.0, false);
    motion.harmonic = harmonic;
    for (i64 task = blockIdx.x; task < chains * parts; task += gridDim.x) {
        Piece piece = piece_of(task, parts, d);
        i64 chain = piece.chain;
        Ends ends = ends_of(x, s, y, t, away[chain]);
        double energy = 0.0, squares = 0.0;
        for (i64 block = piece.low + threadIdx.x; block < piece.high; block += blockDim.x) {
            i64 i = 4 * block;
            Four momentum = {{0, 0, 0, 0}}, slope = four_of(slopes, chain, i, d), here = four_of(ends.there, chain, i, d);
            if (last) momentum = four_of(p, chain, i, d);
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                if (i + j >= d) break;
                Mode mode = mode_of(o, (i + j) / 2);
                Complex factor = in_octant(scale, mode, 0), weight = in_octant(precision, mode, unused);
                Complex bent = {slope.at[j], slope.at[j + 1]};
                bent = packed(bent, mode.role, twice, root);
                slope.at[j] = bent.re * factor.re - weight.re * here.at[j];
                slope.at[j + 1] = bent.im * factor.im - weight.im * here.at[j + 1];
                energy += (double)weight.re * (double)here.at[j] * (double)here.at[j];
                energy += (double)weight.im * (double)here.at[j + 1] * (double)here.at[j + 1];
                if (!last) continue;
                Complex width = width_of(w, metric, mode);
                double re = kicked(motion, momentum.at[j], width.re, slope.at[j], here.at[j]);
                double im = kicked(motion, momentum.at[j + 1], width.im, slope.at[j + 1], here.at[j + 1]);
                squares += re * re + im * im;
            }
            put_four(slope, ends.pull, chain, i, d);
        }
        energy = block_sum(energy);
        squares = block_sum(squares);
        if (threadIdx.x == 0) {
            energies[task] = 0.5 * energy;
            kinetic[task] = 0.5 * squares;
        }
    }
}

// Have chains go where they drifted to, if they accept; "more" and "offset" are what "energies" leave out.
extern "C" __global__ void decide(
    double *e, const double *kinetic, const double *more, double offset, const double *energies,
    const double *new_kinetic, bool always, bool adjusted, double diverged, long long chains, long long parts, long long first, u32 step, u32 k0,
    u32 k1, bool *away, double *tally
) {
    Draw draw = {first, step, k0, k1};
    for (i64 chain = blockIdx.x; chain < chains; chain += gridDim.x) {
        double before = 0.0, energy = 0.0, after = 0.0;
        for (i64 task = chain * parts + threadIdx.x; task < (chain + 1) * parts; task += blockDim.x) {
            before += kinetic[task];
            energy += energies[task];
            after += new_kinetic[task];
        }
        before = block_sum(before);
        energy = block_sum(energy);
        after = block_sum(after);
        if (threadIdx.x != 0) continue;
        energy += more[chain] + offset;
        if (!always && !accepts(e[chain] + before - energy - after, adjusted, diverged, chain, chains, draw, tally))
            continue;
        e[chain] = energy;
        away[chain] = !away[chain];
    }
}
