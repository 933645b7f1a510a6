// What evidence/tempered.py does to rows (rows, d) of the reference's coordinates y and of its own v, which are
// y = mean + scale v, whose formulas these are. All is in double precision, whatever REAL is.

// Turn y and the gradient of u into v and its score, and sum the squares of y.
extern "C" __global__ void leave(
    const double *y, const double *slope, const double *mean, const double *scale, double beta, long long rows,
    long long d, long long parts, double *v, double *score, double *squares
) {
    for (i64 task = blockIdx.x; task < rows * parts; task += gridDim.x) {
        i64 row = task / parts, part = task % parts;
        double sum = 0.0;
        for (i64 i = part * d / parts + threadIdx.x; i < (part + 1) * d / parts; i += blockDim.x) {
            i64 place = row * d + i;
            double here = y[place];
            v[place] = (here - mean[i]) / scale[i];
            score[place] = -(here + beta * slope[place]) * scale[i];
            sum += here * here;
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) squares[task] = sum;
    }
}

// Turn v and its score back.
extern "C" __global__ void arrive(
    const double *v, const double *score, const double *mean, const double *scale, double beta, long long rows,
    long long d, long long parts, double *y, double *slope, double *squares
) {
    for (i64 task = blockIdx.x; task < rows * parts; task += gridDim.x) {
        i64 row = task / parts, part = task % parts;
        double sum = 0.0;
        for (i64 i = part * d / parts + threadIdx.x; i < (part + 1) * d / parts; i += blockDim.x) {
            i64 place = row * d + i;
            double here = mean[i] + scale[i] * v[place];
            y[place] = here;
            slope[place] = -(score[place] / scale[i] + here) / beta;
            sum += here * here;
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) squares[task] = sum;
    }
}

extern "C" __global__ void dots(
    const double *a, const double *b, long long rows, long long d, long long parts, double *sums
) {
    for (i64 task = blockIdx.x; task < rows * parts; task += gridDim.x) {
        i64 row = task / parts, part = task % parts;
        double sum = 0.0;
        for (i64 i = part * d / parts + threadIdx.x; i < (part + 1) * d / parts; i += blockDim.x)
            sum += a[row * d + i] * b[row * d + i];
        sum = block_sum(sum);
        if (threadIdx.x == 0) sums[task] = sum;
    }
}
