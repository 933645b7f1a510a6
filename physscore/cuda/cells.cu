// Likelihoods that are a product over the cells; the formulas are those of energies/likelihoods.py.

const int GAUSSIAN = 0, EXPONENTIAL = 1;  // else linear

DEVICE double cell(int kind, double here, double a, double b, double scale, double &slope) {
    if (kind == GAUSSIAN) {
        slope = b * (here - a);
        return 0.5 * slope * (here - a);
    }
    if (kind == EXPONENTIAL) {
        double mean = b * exp(scale * here);
        slope = scale * (mean - a);
        return mean - a * (scale * here);
    }
    double mean = b * (1.0 + scale * here), safe = mean > 0.0 ? mean : 1.0;
    bool outside = mean <= 0.0 && b > 0.0;
    slope = outside ? 0.0 : scale * b * (1.0 - a / safe);
    return outside ? bits_of<double>(0x7FF0000000000000ull) : mean - a * log(safe);
}

// "uniform": one weight, for all cells. A thread takes four cells, all of which are asked for before one is written.
extern "C" __global__ void cells(
    int kind, const REAL *x, const REAL *data, const REAL *weight, bool uniform, double scale, REAL *score,
    long long chains, long long d, long long parts, double *sums
) {
    for (i64 task = blockIdx.x; task < chains * parts; task += gridDim.x) {
        Piece piece = piece_of(task, parts, d);
        Four b;
        b.at[0] = b.at[1] = b.at[2] = b.at[3] = weight[0];
        double sum = 0.0;
        for (i64 block = piece.low + threadIdx.x; block < piece.high; block += blockDim.x) {
            i64 i = 4 * block;
            Four states = four_of(x, piece.chain, i, d), a = four_of(data, 0, i, d), slopes;
            if (!uniform) b = four_of(weight, 0, i, d);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                double slope, energy = cell(kind, (double)states.at[j], (double)a.at[j], (double)b.at[j], scale, slope);
                slopes.at[j] = (REAL)-slope;
                if (i + j < d) sum += energy;
            }
            put_four(slopes, score, piece.chain, i, d);
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) sums[task] = sum;
    }
}
