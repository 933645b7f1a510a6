// Philox4x32-10 and Box-Muller, operation by operation what philox.py does, so that the bits are the same.
// Compiled by NVRTC for a card, and by a C++ compiler for the tests; without contraction to fused
// multiply-adds where none is written.

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#else
#include <math.h>
#include <string.h>
#define DEVICE static inline
#endif

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

const u32 FIELD = 0u << 24, CHAIN = 2u << 24;  // what a counter is for: the upper bits of its last word
const u32 LOWER_BITS = 1u << 24;               // added to it for the lower halves of 64-bit deviates

struct Words { u32 w0, w1, w2, w3; };

DEVICE Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u64 p0 = (u64)c0 * 0xD2511F53u, p1 = (u64)c2 * 0xCD9E8D57u;
        c0 = (u32)(p1 >> 32) ^ c1 ^ k0;
        c1 = (u32)p1;
        c2 = (u32)(p0 >> 32) ^ c3 ^ k1;
        c3 = (u32)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    Words words = {c0, c1, c2, c3};
    return words;
}

template <class To, class From> DEVICE To bits_of(From value) {
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}

#define TWO_32 4294967296.0f
#define TWO_64 18446744073709551616.0

// The uniform is u = (w + 1/2) / 2^bits, kept as t = u or u - 1 to be exact near both ends; philox.py says more.
DEVICE void box_muller(u32 w0, u32 w1, bool fixed, float &x0, float &x1) {
    float t = fmaf((float)(int)w0, 1.0f / TWO_32, 0.5f / TWO_32);
    float u = t > 0.0f ? t : 1.0f + t;
    int bits = bits_of<int>(u);
    int exponent = (bits - 0x3F3504F3) >> 23;
    float m = bits_of<float>((u32)bits - ((u32)exponent << 23));
    float f = (t < 0.0f && exponent == 0) ? t : m - 1.0f;
    float q = f / (2.0f + f);
    float z = q * q;
    float series = fmaf(z, fmaf(z, fmaf(z, (float)(1.0 / 9), (float)(1.0 / 7)), (float)(1.0 / 5)), (float)(1.0 / 3));
    float atanh = fmaf(z * q, series, q);
    float minus_2_log = fmaf((float)exponent, (float)(-2 * 0.6931471805599453), -4.0f * atanh);
    float r = fixed ? (float)1.4142135623730951 : sqrtf(minus_2_log);
    u32 quarter = (w1 + (1u << 29)) >> 30;
    float angle = (float)(int)(w1 - (quarter << 30)) * (float)(2 * 3.141592653589793 / TWO_32);
    float y = angle * angle;
    float sine = fmaf(y, fmaf(y, (float)(1.0 / 362880), (float)(-1.0 / 5040)), (float)(1.0 / 120));
    sine = fmaf(y * angle, fmaf(y, sine, (float)(-1.0 / 6)), angle);
    float cosine = fmaf(y, fmaf(y, (float)(1.0 / 40320), (float)(-1.0 / 720)), (float)(1.0 / 24));
    cosine = fmaf(y, fmaf(y, cosine, -0.5f), 1.0f);
    bool odd = (quarter & 1u) != 0;
    x0 = r * (odd ? sine : cosine);
    x1 = r * (odd ? cosine : sine);
    x0 = bits_of<float>(bits_of<u32>(x0) ^ (((quarter + 1u) << 30) & (1u << 31)));
    x1 = bits_of<float>(bits_of<u32>(x1) ^ ((quarter << 30) & (1u << 31)));
}

DEVICE void box_muller(u64 w0, u64 w1, bool fixed, double &x0, double &x1) {
    double t = fma((double)(i64)w0, 1.0 / TWO_64, 0.5 / TWO_64);
    double u = t > 0.0 ? t : 1.0 + t;
    i64 bits = bits_of<i64>(u);
    i64 exponent = (bits - 0x3FE6A09E667F3BCDll) >> 52;
    double m = bits_of<double>((u64)bits - ((u64)exponent << 52));
    double f = (t < 0.0 && exponent == 0) ? t : m - 1.0;
    double q = f / (2.0 + f);
    double z = q * q;
    double series = fma(z, fma(z, fma(z, fma(z, 1.0 / 21, 1.0 / 19), 1.0 / 17), 1.0 / 15), 1.0 / 13);
    series = fma(z, fma(z, fma(z, fma(z, fma(z, series, 1.0 / 11), 1.0 / 9), 1.0 / 7), 1.0 / 5), 1.0 / 3);
    double atanh = fma(z * q, series, q);
    double minus_2_log = fma((double)exponent, -2 * 0.6931471805599453, -4.0 * atanh);
    double r = fixed ? 1.4142135623730951 : sqrt(minus_2_log);
    u64 quarter = (w1 + (1ull << 61)) >> 62;
    double angle = (double)(i64)(w1 - (quarter << 62)) * (2 * 3.141592653589793 / TWO_64);
    double y = angle * angle;
    double sine = fma(y, fma(y, 1.0 / 355687428096000, -1.0 / 1307674368000), 1.0 / 6227020800);
    sine = fma(y, fma(y, fma(y, sine, -1.0 / 39916800), 1.0 / 362880), -1.0 / 5040);
    sine = fma(y * angle, fma(y, fma(y, sine, 1.0 / 120), -1.0 / 6), angle);
    double cosine = fma(y, fma(y, 1.0 / 20922789888000, -1.0 / 87178291200), 1.0 / 479001600);
    cosine = fma(y, fma(y, fma(y, cosine, -1.0 / 3628800), 1.0 / 40320), -1.0 / 720);
    cosine = fma(y, fma(y, fma(y, cosine, 1.0 / 24), -0.5), 1.0);
    bool odd = (quarter & 1u) != 0;
    x0 = r * (odd ? sine : cosine);
    x1 = r * (odd ? cosine : sine);
    x0 = bits_of<double>(bits_of<u64>(x0) ^ (((quarter + 1u) << 62) & (1ull << 63)));
    x1 = bits_of<double>(bits_of<u64>(x1) ^ ((quarter << 62) & (1ull << 63)));
}

// Fill four deviates, those of one block of a counter.
DEVICE void four_normals(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1, bool fixed, float out[4]) {
    Words w = philox(c0, c1, c2, c3, k0, k1);
    box_muller(w.w0, w.w1, fixed, out[0], out[1]);
    box_muller(w.w2, w.w3, fixed, out[2], out[3]);
}

DEVICE void four_normals(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1, bool fixed, double out[4]) {
    Words w = philox(c0, c1, c2, c3, k0, k1), low = philox(c0, c1, c2, c3 + LOWER_BITS, k0, k1);
    box_muller((u64)w.w0 << 32 | low.w0, (u64)w.w1 << 32 | low.w1, fixed, out[0], out[1]);
    box_muller((u64)w.w2 << 32 | low.w2, (u64)w.w3 << 32 | low.w3, fixed, out[2], out[3]);
}

#ifdef __CUDACC__
// Return the sum over a block of threads, in its first one.
DEVICE double block_sum(double value) {
    __shared__ double warps[32];
    for (int half = 16; half > 0; half >>= 1) value += __shfl_down_sync(0xFFFFFFFFu, value, half);
    __syncthreads();  // the sum before this one has been read
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x < 32) {
        value = threadIdx.x < (blockDim.x + 31) / 32 ? warps[threadIdx.x] : 0.0;
        for (int half = 16; half > 0; half >>= 1) value += __shfl_down_sync(0xFFFFFFFFu, value, half);
    }
    return value;
}
#else
static inline double block_sum(double value) { return value; }
#endif
