// What batched.py does to a batch of large states (chains, d): refresh, kick, drift, accept. The formulas are those of
// kernels/moves.py, the deviates those of noise.normal; a thread takes four components, one block of the counter.

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
// momenta first, and sum the squares before the kick.
extern "C" __global__ void push(
    const REAL *x, const REAL *s, REAL *p, const REAL *w, int metric, const double *kicks, const double *drifts,
    bool each, double kick_of_all, double drift_of_all, bool harmonic, bool moving, REAL *y, bool anew,
    long long chains, long long d, long long parts, long long first, u32 step, u32 k0, u32 k1, double *kinetic
) {
    for (i64 task = blockIdx.x; task < chains * parts; task += gridDim.x) {
        Piece piece = piece_of(task, parts, d);
        Motion motion = motion_of(
            each ? kicks[piece.chain] : kick_of_all, each ? drifts[piece.chain] : drift_of_all, harmonic
        );
        double sum = 0.0;
        for (i64 block = piece.low + threadIdx.x; block < piece.high; block += blockDim.x) {
            i64 i = 4 * block;
            Four momentum, there, width = {{1, 1, 1, 1}}, here = {{0, 0, 0, 0}};
            Four force = four_of(s, piece.chain, i, d);
            if (anew)
                four_normals((u32)block, (u32)(first + piece.chain), step, CHAIN, k0, k1, false, momentum.at);
            else
                momentum = four_of(p, piece.chain, i, d);
            if (metric == DIAGONAL) width = four_of(w, 0, i, d);
            if (moving || harmonic) here = four_of(x, piece.chain, i, d);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                REAL after = kicked(motion, momentum.at[j], width.at[j], force.at[j], here.at[j]);
                REAL counted = anew ? momentum.at[j] : after;
                if (moving) there.at[j] = drifted(motion, here.at[j], width.at[j], after);
                momentum.at[j] = after;
                if (i + j < d) sum += (double)counted * (double)counted;
            }
            put_four(momentum, p, piece.chain, i, d);
            if (moving) put_four(there, y, piece.chain, i, d);
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) kinetic[task] = 0.5 * sum;
    }
}

extern "C" __global__ void accept(
    const double *e, const double *kinetic, const double *new_e, const double *new_kinetic, bool adjusted,
    double diverged, long long chains, long long first, u32 step, u32 k0, u32 k1, bool *taken, double *tally
) {
    Draw draw = {first, step, k0, k1};
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < chains; i += (i64)gridDim.x * blockDim.x) {
        double log_ratio = e[i] + kinetic[i] - new_e[i] - new_kinetic[i];
        taken[i] = accepts(log_ratio, adjusted, diverged, i, chains, draw, tally);
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
