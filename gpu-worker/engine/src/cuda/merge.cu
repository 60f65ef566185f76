/* A tensor with changes, on a CUDA device: what `lora/kernel` does on the processor, sum by sum, so that the bytes are the same.
 *
 * `merge.ptx` beside this file is what NVRTC makes of it for compute capability 5.0 (`--gpu-architecture=compute_50 --fmad=false`),
 * with the version of its language set back to 7.0, which drivers of CUDA 11 read. The scripted driver of the tests compiles this file
 * as C, with a thread's place as variables. */

typedef unsigned long long u64;

/* A product (rank > 0) of two factors of 32-bit floats, row by row, the left one scaled already; or every entry, at `left`. */
struct added {
    u64 left, right;
    float scale;
    unsigned rank;
};

enum { STORED_F32, STORED_F16, STORED_BF16 };
enum { ROWS = 4 };

#ifdef __CUDACC__
static __device__ float of_f16(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
static __device__ unsigned short to_f16(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
static __device__ unsigned bits_of(float value) { return __float_as_uint(value); }
static __device__ float of_bits(unsigned bits) { return __uint_as_float(bits); }
#define PROGRAM extern "C" __global__
#endif

static __device__ float widened(const void *from, unsigned stored, u64 at) {
    if (stored == STORED_F16) return of_f16(((const unsigned short *)from)[at]);
    if (stored == STORED_BF16) return of_bits((unsigned)((const unsigned short *)from)[at] << 16);
    return ((const float *)from)[at];
}

/* Rounds to the nearest, ties to even; 1 when what is written is no number. */
static __device__ unsigned rounded(void *to, unsigned stored, u64 at, float value) {
    unsigned bits = bits_of(value);
    if (stored == STORED_F16) {
        unsigned short half = to_f16(value);
        ((unsigned short *)to)[at] = half;
        return (half & 0x7c00u) == 0x7c00u;
    }
    if (stored == STORED_BF16) {
        unsigned nan = (bits & 0x7fffffffu) > 0x7f800000u;
        unsigned short half = nan ? (bits | 0x00400000u) >> 16 : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        ((unsigned short *)to)[at] = half;
        return (half & 0x7f80u) == 0x7f80u;
    }
    ((float *)to)[at] = value;
    return (bits & 0x7f800000u) == 0x7f800000u;
}

/* Each thread makes four entries of a column; `lost` counts those that are no numbers. */
PROGRAM void change(const void *from, void *to, unsigned stored, unsigned rows, unsigned columns,
                    const struct added *changes, unsigned count, unsigned *lost) {
    unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned first = (blockIdx.y * blockDim.y + threadIdx.y) * ROWS;
    unsigned there, bad = 0;
    float sums[ROWS];
    if (column >= columns || first >= rows) return;
    there = rows - first < ROWS ? rows - first : ROWS;
    for (unsigned i = 0; i < ROWS; i++) sums[i] = i < there ? widened(from, stored, (u64)(first + i) * columns + column) : 0.0f;
    for (unsigned at = 0; at < count; at++) {
        const float *left = (const float *)changes[at].left, *right = (const float *)changes[at].right;
        unsigned rank = changes[at].rank;
        if (rank == 0) {
            for (unsigned i = 0; i < ROWS; i++) {
                if (i < there) sums[i] = __fadd_rn(sums[i], __fmul_rn(changes[at].scale, left[(u64)(first + i) * columns + column]));
            }
        }
        for (unsigned k = 0; k < rank; k++) {
            float value = right[(u64)k * columns + column];
            for (unsigned i = 0; i < ROWS; i++) {
                unsigned row = i < there ? first + i : first;
                sums[i] = __fmaf_rn(left[(u64)row * rank + k], value, sums[i]);
            }
        }
    }
    for (unsigned i = 0; i < ROWS; i++) {
        if (i < there) bad += rounded(to, stored, (u64)(first + i) * columns + column, sums[i]);
    }
    if (bad) atomicAdd(lost, bad);
}
