// What batched.py does to a batch of large states (chains, d): refresh, kick, drift, accept. The formulas are those of
// kernels/moves.py, the deviates those of noise.normal; a thread takes four components, one block of the counter.

const int IDENTITY = 0, DIAGONAL = 1;  // as in kernels/moves.py; what is dense is multiplied before and after

struct Piece { i64 chain, low, high; };

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
    const REAL *x, const REAL *s, REAL *p, const REAL *w, int metric, const REAL *kicks, const double *drifts,
    bool harmonic, bool moving, REAL *y, bool anew, long long chains, long long d, long long parts, long long first,
    u32 step, u32 k0, u32 k1, double *kinetic
) {
    for (i64 task = blockIdx.x; task < chains * parts; task += gridDim.x) {
        Piece piece = piece_of(task, parts, d);
        REAL kick = kicks[piece.chain], drift = (REAL)drifts[piece.chain];
        REAL cosine = harmonic ? (REAL)cos(drifts[piece.chain]) : (REAL)0;
        REAL sine = harmonic ? (REAL)sin(drifts[piece.chain]) : (REAL)0;
        double sum = 0.0;
        for (i64 block = piece.low + threadIdx.x; block < piece.high; block += blockDim.x) {
            REAL xi[4];
            if (anew) four_normals((u32)block, (u32)(first + piece.chain), step, CHAIN, k0, k1, false, xi);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                i64 i = 4 * block + j, place = piece.chain * d + i;
                if (i >= d) break;
                REAL before = anew ? xi[j] : p[place], width = metric == DIAGONAL ? w[i] : (REAL)1, after;
                if (harmonic) {
                    REAL here = x[place];
                    after = before + kick * (s[place] + here);
                    if (moving) {
                        y[place] = cosine * here + sine * after;
                        p[place] = cosine * after - sine * here;
                    } else {
                        p[place] = after;
                    }
                } else {
                    after = before + kick * (width * s[place]);
                    p[place] = after;
                    if (moving) y[place] = x[place] + drift * (width * after);
                }
                REAL counted = anew ? before : (harmonic && moving ? p[place] : after);
                sum += (double)counted * (double)counted;
            }
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) kinetic[task] = 0.5 * sum;
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
