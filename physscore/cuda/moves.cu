// What batched.py does to a batch of large states (chains, d): refresh, kick, drift, accept. The formulas are those of
// kernels/moves.py, the deviates those of noise.normal; a thread takes four components, one block of the counter.

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

// Refresh the momenta, and sum their squares.
extern "C" __global__ void renew(
    REAL *p, long long chains, long long d, long long parts, long long first, u32 step, u32 k0, u32 k1, REAL keep,
    REAL change, double *kinetic
) {
    for (i64 task = blockIdx.x; task < chains * parts; task += gridDim.x) {
        Piece piece = piece_of(task, parts, d);
        double sum = 0.0;
        for (i64 block = piece.low + threadIdx.x; block < piece.high; block += blockDim.x) {
            REAL xi[4];
            four_normals((u32)block, (u32)(first + piece.chain), step, CHAIN, k0, k1, false, xi);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (4 * block + j >= d) break;
                REAL *place = p + piece.chain * d + 4 * block + j;
                REAL fresh = keep != 0 ? keep * *place + change * xi[j] : xi[j];
                *place = fresh;
                sum += (double)fresh * (double)fresh;
            }
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) kinetic[task] = 0.5 * sum;
    }
}

// Kick momenta and, if there is a y, let x drift to it; sum the squares of the momenta after the kick. "anew": draw the
// momenta first, and sum the squares before the kick. "harmonic": drift is an angle, and the kick is beyond the normal's.
extern "C" __global__ void push(
    const REAL *x, const REAL *s, REAL *p, const REAL *w, int metric, const double *kicks, const double *drifts,
    bool each, double kick_of_all, double drift_of_all, bool harmonic, bool moving, REAL *y, bool anew, long long chains, long long d, long long parts, long long first,
    u32 step, u32 k0, u32 k1, double *kinetic
) {
    for (i64 task = blockIdx.x; task < chains * parts; task += gridDim.x) {
        Piece piece = piece_of(task, parts, d);
        double angle = each ? drifts[piece.chain] : drift_of_all;
        REAL kick = (REAL)(each ? kicks[piece.chain] : kick_of_all), drift = (REAL)angle;
        REAL cosine = harmonic ? (REAL)cos(angle) : (REAL)0, sine = harmonic ? (REAL)sin(angle) : (REAL)0;
        double sum = 0.0;
        for (i64 block = piece.low + threadIdx.x; block < piece.high; block += blockDim.x) {
            i64 i = 4 * block;
            Four before, there, width = {{1, 1, 1, 1}}, here = {{0, 0, 0, 0}};
            Four force = four_of(s, piece.chain, i, d);
            if (anew)
                four_normals((u32)block, (u32)(first + piece.chain), step, CHAIN, k0, k1, false, before.at);
            else
                before = four_of(p, piece.chain, i, d);
            if (metric == DIAGONAL) width = four_of(w, 0, i, d);
            if (moving || harmonic) here = four_of(x, piece.chain, i, d);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                REAL after, counted;
                if (harmonic) {
                    after = before.at[j] + kick * (force.at[j] + here.at[j]);
                    there.at[j] = cosine * here.at[j] + sine * after;
                    if (moving) after = cosine * after - sine * here.at[j];
                } else {
                    after = before.at[j] + kick * (width.at[j] * force.at[j]);
                    there.at[j] = here.at[j] + drift * (width.at[j] * after);
                }
                counted = anew ? before.at[j] : after;
                before.at[j] = after;
                if (i + j < d) sum += (double)counted * (double)counted;
            }
            put_four(before, p, piece.chain, i, d);
            if (moving) put_four(there, y, piece.chain, i, d);
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) kinetic[task] = 0.5 * sum;
    }
}

// Accept or not, and add up what is counted: the probability of acceptance, or the log ratio where nothing is rejected,
// and trajectories that ran away. An infinite energy is a place outside a prior's bounds.
extern "C" __global__ void accept(
    const double *e, const double *kinetic, const double *new_e, const double *new_kinetic, bool adjusted,
    double diverged, long long chains, long long first, u32 step, u32 k0, u32 k1, bool *taken, double *tally
) {
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < chains; i += (i64)gridDim.x * blockDim.x) {
        double log_ratio = e[i] + kinetic[i] - new_e[i] - new_kinetic[i], xi[4];
        four_normals(0, (u32)(first + i), step, CHAIN + 1, k0, k1, false, xi);
        double log_u = -0.5 * (xi[0] * xi[0] + xi[1] * xi[1]);
        double probability = exp(log_ratio < 0.0 ? log_ratio : (log_ratio >= 0.0 ? 0.0 : log_ratio));
        bool finite = probability - probability == 0.0, infinite = log_ratio < 0.0 && 1.0 / log_ratio == 0.0;
        taken[i] = !adjusted || log_u < log_ratio;
        tally[i] += adjusted ? (finite ? probability : 0.0) : log_ratio;
        tally[chains + i] += !(log_ratio > -diverged || infinite);
    }
}

// Put the new in the place of the old where it is taken.
extern "C" __global__ void take(
    const bool *taken, REAL *x, const REAL *y, REAL *s, const REAL *new_s, double *e, const double *new_e,
    long long chains, long long d, long long parts
) {
    for (i64 task = blockIdx.x; task < chains * parts; task += gridDim.x) {
        Piece piece = piece_of(task, parts, d);
        if (!taken[piece.chain]) continue;
        if (threadIdx.x == 0 && task % parts == 0) e[piece.chain] = new_e[piece.chain];
        i64 low = piece.chain * d + 4 * piece.low, high = piece.chain * d + (4 * piece.high < d ? 4 * piece.high : d);
        for (i64 i = low + threadIdx.x; i < high; i += blockDim.x) {
            x[i] = y[i];
            s[i] = new_s[i];
        }
    }
}
