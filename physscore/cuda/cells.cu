// Likelihoods that are a product over the cells; the formulas are those of energies/likelihoods.py.

const int GAUSSIAN = 0, EXPONENTIAL = 1;  // else linear

// "uniform": one weight, for all cells.
extern "C" __global__ void cells(
    int kind, const REAL *x, const REAL *data, const REAL *weight, bool uniform, double scale, REAL *score,
    long long chains, long long d, long long parts, double *sums
) {
    for (i64 task = blockIdx.x; task < chains * parts; task += gridDim.x) {
        i64 chain = task / parts, part = task % parts;
        double sum = 0.0;
        for (i64 i = part * d / parts + threadIdx.x; i < (part + 1) * d / parts; i += blockDim.x) {
            double here = (double)x[chain * d + i], a = data[i], b = weight[uniform ? 0 : i], energy, slope;
            if (kind == GAUSSIAN) {
                slope = b * (here - a);
                energy = 0.5 * slope * (here - a);
            } else if (kind == EXPONENTIAL) {
                double mean = b * exp(scale * here);
                energy = mean - a * (scale * here);
                slope = scale * (mean - a);
            } else {
                double mean = b * (1.0 + scale * here), safe = mean > 0.0 ? mean : 1.0;
                bool outside = mean <= 0.0 && b > 0.0;
                energy = outside ? bits_of<double>(0x7FF0000000000000ull) : mean - a * log(safe);
                slope = outside ? 0.0 : scale * b * (1.0 - a / safe);
            }
            score[chain * d + i] = (REAL)-slope;
            sum += energy;
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) sums[task] = sum;
    }
}
