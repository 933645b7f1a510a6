// The loops of evidence/control.py, whose formulas these are. All is in double precision, whatever REAL is.

// The weighted means over islands of n particles; a thread takes a coordinate of an island.
extern "C" __global__ void means(
    const double *v, const double *score, const double *slope, const double *weights, long long islands,
    long long n, long long d, double *projections, double *fields
) {
    for (i64 t = blockIdx.x * (i64)blockDim.x + threadIdx.x; t < islands * d; t += (i64)gridDim.x * blockDim.x) {
        i64 island = t / d, i = t - island * d;
        double p0 = 0.0, p1 = 0.0, p2 = 0.0, p3 = 0.0, f0 = 0.0, f1 = 0.0, f2 = 0.0, f3 = 0.0;
        for (i64 row = island * n; row < (island + 1) * n; row++) {
            double w = weights[row], x = v[row * d + i], s = w * score[row * d + i], b = w * slope[row * d + i];
            double two = x * x - 1.0, three = x * (x * x - 3.0);
            p0 += b;
            p1 += b * x / 2.0;
            p2 += b * two / 6.0;
            p3 += b * three / 24.0;
            f0 += s;
            f1 += w + x * s;
            f2 += 2.0 * w * x + two * s;
            f3 += 3.0 * w * two + three * s;
        }
        i64 order = islands * d;
        projections[t] = p0;
        projections[order + t] = p1;
        projections[2 * order + t] = p2;
        projections[3 * order + t] = p3;
        fields[t] = f0;
        fields[order + t] = f1;
        fields[2 * order + t] = f2;
        fields[3 * order + t] = f3;
    }
}

// The means over groups of the items of rows (rows, d). "order" lists the items of a group from its start on, so
// that a sum rounds alike each time, which atomic additions would not do.
extern "C" __global__ void group_means(
    const double *values, const long long *order, const long long *starts, long long rows, long long d,
    long long groups, double *found
) {
    for (i64 task = blockIdx.x; task < rows * groups; task += gridDim.x) {
        i64 row = task / groups, group = task - row * groups, start = starts[group], stop = starts[group + 1];
        double sum = 0.0;
        for (i64 t = start + threadIdx.x; t < stop; t += blockDim.x) sum += values[row * d + order[t]];
        sum = block_sum(sum);
        if (threadIdx.x == 0) found[task] = sum / (double)(stop - start);
    }
}

DEVICE void put_sum(double value, double *place) {
    value = block_sum(value);
    if (threadIdx.x == 0) *place = value;
}

extern "C" __global__ void values(
    const double *v, const double *score, const double *factors, long long rows, long long d, long long parts,
    double *sums
) {
    for (i64 task = blockIdx.x; task < rows * parts; task += gridDim.x) {
        i64 row = task / parts, part = task % parts;
        double a = 0.0, b = 0.0, c = 0.0, e = 0.0;
        for (i64 i = part * d / parts + threadIdx.x; i < (part + 1) * d / parts; i += blockDim.x) {
            double x = v[row * d + i], s = score[row * d + i], two = x * x - 1.0, three = x * (x * x - 3.0);
            a += factors[i] * s;
            b += factors[d + i] * (1.0 + x * s);
            c += factors[2 * d + i] * (2.0 * x + two * s);
            e += factors[3 * d + i] * (3.0 * two + three * s);
        }
        put_sum(a, sums + task);
        put_sum(b, sums + rows * parts + task);
        put_sum(c, sums + 2 * rows * parts + task);
        put_sum(e, sums + 3 * rows * parts + task);
    }
}

// |v|^2 and v . s, of which the radial field is made.
extern "C" __global__ void radial(
    const double *v, const double *score, long long rows, long long d, long long parts, double *sums
) {
    for (i64 task = blockIdx.x; task < rows * parts; task += gridDim.x) {
        i64 row = task / parts, part = task % parts;
        double squares = 0.0, along = 0.0;
        for (i64 i = part * d / parts + threadIdx.x; i < (part + 1) * d / parts; i += blockDim.x) {
            double x = v[row * d + i];
            squares += x * x;
            along += x * score[row * d + i];
        }
        put_sum(squares, sums + task);
        put_sum(along, sums + rows * parts + task);
    }
}

extern "C" __global__ void of_cells(
    const double *x, const double *score, const double *variances, long long rows, long long d, long long parts,
    double *sums
) {
    for (i64 task = blockIdx.x; task < rows * parts; task += gridDim.x) {
        i64 row = task / parts, part = task % parts;
        double one = 0.0, two = 0.0, three = 0.0;
        for (i64 i = part * d / parts + threadIdx.x; i < (part + 1) * d / parts; i += blockDim.x) {
            double a = x[row * d + i], s = score[row * d + i], wide = variances[i];
            one += wide + a * s;
            two += a * (2.0 * wide + a * s);
            three += a * a * (3.0 * wide + a * s);
        }
        put_sum(one, sums + task);
        put_sum(two, sums + rows * parts + task);
        put_sum(three, sums + 2 * rows * parts + task);
    }
}
