// Batches of states (chains, d) in parts of whole blocks of four components, and the formulas of kernels/moves.py.

const int IDENTITY = 0, DIAGONAL = 1;  // as in kernels/moves.py; what is dense is multiplied before and after

struct Piece { i64 chain, low, high; };

struct alignas(4 * sizeof(REAL)) Four {
    REAL at[4];
};

// Return components i, ..., i + 3 of one chain; at once, where all rows are whole fours.
DEVICE Four four_of(const REAL *rows, i64 chain, i64 i, i64 d) {
    if (d % 4 == 0) return *(const Four *)(rows + chain * d + i);
    Four four = {{0, 0, 0, 0}};
#pragma unroll
    for (int j = 0; j < 4; j++)
        if (i + j < d) four.at[j] = rows[chain * d + i + j];
    return four;
}

DEVICE void put_four(Four four, REAL *rows, i64 chain, i64 i, i64 d) {
    if (d % 4 == 0) {
        *(Four *)(rows + chain * d + i) = four;
        return;
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
        if (i + j < d) rows[chain * d + i + j] = four.at[j];
}

// Cut chains into parts of whole blocks of four components.
DEVICE Piece piece_of(i64 task, i64 parts, i64 d) {
    i64 blocks = (d + 3) / 4, part = task % parts;
    Piece piece = {task / parts, part * blocks / parts, (part + 1) * blocks / parts};
    return piece;
}

// How far momenta are kicked and states drift; where it is harmonic, drift is an angle, and the kick is beyond the
// normal's.
struct Motion { REAL kick, drift, cosine, sine; bool harmonic; };

DEVICE Motion motion_of(double kick, double drift, bool harmonic) {
    Motion motion = {(REAL)kick, (REAL)drift, 0, 0, harmonic};
    if (harmonic) {
        motion.cosine = (REAL)cos(drift);
        motion.sine = (REAL)sin(drift);
    }
    return motion;
}

DEVICE REAL kicked(Motion motion, REAL p, REAL width, REAL force, REAL here) {
    return motion.harmonic ? p + motion.kick * (force + here) : p + motion.kick * (width * force);
}

// Return where x drifts to; the flow of a normal turns the momentum as well.
DEVICE REAL drifted(Motion motion, REAL here, REAL width, REAL &p) {
    if (!motion.harmonic) return here + motion.drift * (width * p);
    REAL there = motion.cosine * here + motion.sine * p;
    p = motion.cosine * p - motion.sine * here;
    return there;
}

// Where the next deviates of chains are, the first of which is "first".
struct Draw { i64 first; u32 step, k0, k1; };

// Return whether a chain accepts, and add up what is counted: the probability of acceptance, or the log ratio where
// nothing is rejected, and trajectories that ran away. An infinite energy is a place outside a prior's bounds.
DEVICE bool accepts(double log_ratio, bool adjusted, double diverged, i64 chain, i64 chains, Draw draw, double *tally) {
    double xi[4];
    four_normals(0, (u32)(draw.first + chain), draw.step, CHAIN + 1, draw.k0, draw.k1, false, xi);
    double log_u = -0.5 * (xi[0] * xi[0] + xi[1] * xi[1]);
    double probability = exp(log_ratio < 0.0 ? log_ratio : (log_ratio >= 0.0 ? 0.0 : log_ratio));
    bool finite = probability - probability == 0.0, infinite = log_ratio < 0.0 && 1.0 / log_ratio == 0.0;
    tally[chain] += adjusted ? (finite ? probability : 0.0) : log_ratio;
    tally[chains + chain] += !(log_ratio > -diverged || infinite);
    return !adjusted || log_u < log_ratio;
}
