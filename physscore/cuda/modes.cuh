// Half spectra (n, nx, ny, nz / 2 + 1) of real fields, and which of their modes are which.

struct alignas(2 * sizeof(REAL)) Complex {
    REAL re, im;
};

// Return a / b, and what is left of a: with 32 bits where they do, as 64-bit divisions take a hundred instructions.
DEVICE i64 divided(i64 a, i64 b, i64 &rest) {
    if (((u64)a | (u64)b) >> 32 == 0) {
        u32 whole = (u32)a / (u32)b;
        rest = (u32)a - whole * (u32)b;
        return whole;
    }
    i64 whole = a / b;
    rest = a - whole * b;
    return whole;
}

struct Octant {
    i64 nx, ny, nz, hx, hy, hz;  // sides, and how many frequencies that are not negative
};

struct Place {
    i64 field, x, y, z;
};

DEVICE Octant octant_of(i64 nx, i64 ny, i64 nz) {
    Octant o = {nx, ny, nz, nx / 2 + 1, ny / 2 + 1, nz / 2 + 1};
    return o;
}

// Return where item t of arrays (fields, sx, sy, sz) is.
DEVICE Place place_of(i64 t, i64 sx, i64 sy, i64 sz) {
    Place p;
    t = divided(t, sz, p.z);
    t = divided(t, sy, p.y);
    p.field = divided(t, sx, p.x);
    return p;
}

DEVICE i64 mirrored(i64 x, i64 n) { return x ? n - x : 0; }

DEVICE i64 size_of(i64 x, i64 n) { return 2 * x > n ? n - x : x; }

// Return the modes (fields, nx, ny, hz) at (+-x, +-y, z) by number, 0 to 3; null where that is one of the others.
DEVICE Complex *of_signs(REAL *modes, Octant o, Place p, int signs) {
    if ((signs & 1 && (p.y == 0 || 2 * p.y == o.ny)) || (signs & 2 && (p.x == 0 || 2 * p.x == o.nx))) return 0;
    i64 x = signs & 2 ? o.nx - p.x : p.x, y = signs & 1 ? o.ny - p.y : p.y;
    return (Complex *)modes + ((p.field * o.nx + x) * o.ny + y) * o.hz + p.z;
}

// Return what mode (x, y, z) is on the planes that hold both of a pair: 0 for any mode that stands for its own, 1 for
// its own partner, 2 for one whose partner is kept.
DEVICE int role_of(Octant o, Place p) {
    if (p.z != 0 && 2 * p.z != o.nz) return 0;
    i64 x = mirrored(p.x, o.nx), y = mirrored(p.y, o.ny);
    if (x == p.x && y == p.y) return 1;
    return p.x > x || (p.x == x && p.y > y) ? 2 : 0;
}

// Return the coordinates of a mode of a unitary spectrum times "twice", sqrt(2) times what it is to be scaled by.
DEVICE Complex packed(Complex mode, int role, REAL twice, REAL root) {
    REAL re = mode.re * twice, im = mode.im * twice;
    Complex pair = {role == 2 ? (REAL)0 : (role == 1 ? re / root : re), role ? (REAL)0 : im};
    return pair;
}
