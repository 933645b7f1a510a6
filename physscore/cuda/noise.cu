// Integers and deviates by themselves: noise.normal, and what the tests compare with philox.py.

extern "C" __global__ void philox_blocks(const u32 *counters, u32 *words, long long n, u32 k0, u32 k1) {
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) {
        const u32 *c = counters + 4 * i;
        Words w = philox(c[0], c[1], c[2], c[3], k0, k1);
        words[4 * i] = w.w0;
        words[4 * i + 1] = w.w1;
        words[4 * i + 2] = w.w2;
        words[4 * i + 3] = w.w3;
    }
}

extern "C" __global__ void normal_rows(
    REAL *out, long long chains, long long components, long long first, u32 step, u32 draw, u32 k0, u32 k1
) {
    i64 blocks = (components + 3) / 4;
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < chains * blocks; i += (i64)gridDim.x * blockDim.x) {
        i64 chain = i / blocks, block = i % blocks;
        REAL four[4];
        four_normals((u32)block, (u32)(first + chain), step, CHAIN + draw, k0, k1, false, four);
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (4 * block + j < components) out[chain * components + 4 * block + j] = four[j];
    }
}
