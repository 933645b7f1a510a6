// What evidence/tempered.py does to rows (rows, d) of the reference's coordinates y and of its own v, which are
// y = mean + scale v, whose formulas these are. All is in double precision, whatever REAL is.

// Turn y and the gradient of u into v and its score, or "back", and sum the squares of y.
extern "C" __global__ void change(
    const double *x, const double *slope, const double *mean, const double *scale, double beta, bool back,
    long long rows, long long d, long long parts, double *to, double *made, double *squares
) {
    for (i64 task = blockIdx.x; task < rows * parts; task += gridDim.x) {
        i64 row = task / parts, part = task % parts;
        double sum = 0.0;
        for (i64 i = part * d / parts + threadIdx.x; i < (part + 1) * d / parts; i += blockDim.x) {
            i64 place = row * d + i;
            double y = back ? mean[i] + scale[i] * x[place] : x[place];
            to[place] = back ? y : (y - mean[i]) / scale[i];
            made[place] = back ? -(slope[place] / scale[i] + y) / beta : -(y + beta * slope[place]) * scale[i];
            sum += y * y;
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
