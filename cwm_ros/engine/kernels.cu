// SPDX-FileCopyrightText: 2026 The cwm_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// How KV enters and leaves a cache on the GPU.
//
// A cache is one buffer [2, H, S, D] for each layer; `layers` holds their addresses. A row is one
// (layer, K or V, head), r = (layer * 2 + kind) * H + head. No kernel shares memory between
// threads, so each also runs as a plain loop over its threads.
//
// Compiled twice, with CWM_HALF 1 for a cache of float16 and 0 for one of float32.

#ifndef CWM_HOST
#include <cuda_fp16.h>
#endif

#if CWM_HALF
typedef __half Element;
__device__ inline float widen(Element x) { return __half2float(x); }
__device__ inline Element narrow(float x) {
    return __float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f));
}
#else
typedef float Element;
__device__ inline float widen(Element x) { return x; }
__device__ inline Element narrow(float x) { return x; }
#endif

typedef unsigned long long Address;
typedef unsigned int Index;  // counts threads; the caller sees to it that they are fewer than 2^32
typedef long long Offset;

#define GROUP 128
#define LARGEST 0x4AFDE040u  // 127 * 65504

__device__ inline Index thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

__device__ inline Element* row_start(const Address* layers, Index row, int heads, int slots, int dim) {
    Element* layer = (Element*)layers[row / (2 * heads)];
    return layer + (Offset)(row % (2 * heads)) * slots * dim;
}

// Copies new rows to positions start[0] + 0 .. T - 1, and shows them in the mask of the next step:
// mask[position] = 0. Rows are [H, T, D] for each layer's K and V, `stride` elements apart.
extern "C" __global__ void append(
    const Address* layers, const Element* rows, Element* mask, const int* start, int num_layers,
    int heads, int tokens, int slots, int dim, int stride)
{
    Index index = thread_index();
    Index count = (Index)num_layers * 2 * heads * tokens * dim;
    if (index < tokens) mask[*start + index] = narrow(0.0f);
    if (index >= count) return;
    Index in_row = index % ((Index)tokens * dim), row = index / ((Index)tokens * dim);
    Index source = row / heads * stride + row % heads * ((Index)tokens * dim) + in_row;
    row_start(layers, row, heads, slots, dim)[(Offset)*start * dim + in_row] = rows[source];
}

// Writes code * scale to [start, start + T); blocks[b] is the address of block b = layer * 2 +
// kind, H * T * D codes, at any alignment. scales is [R, G, D], float16 bits.
extern "C" __global__ void dequantize(
    const Address* layers, const Address* blocks, const unsigned short* scales, int num_layers,
    int heads, int tokens, int slots, int dim, int start)
{
    Index index = thread_index() * 4;
    Index per_row = (Index)tokens * dim;
    if (index >= (Index)num_layers * 2 * heads * per_row) return;
    int groups = (tokens + GROUP - 1) / GROUP;
    for (Index i = index; i < index + 4 && i < (Index)num_layers * 2 * heads * per_row; i++) {
        Index row = i / per_row, in_row = i % per_row;
        const signed char* block = (const signed char*)blocks[row / heads];
        Index group = in_row / dim / GROUP, channel = in_row % dim;
        float scale = __half2float(
            __ushort_as_half(scales[(row * groups + group) * dim + channel]));
        float code = (float)block[(row % heads) * per_row + in_row];
        row_start(layers, row, heads, slots, dim)[(Offset)start * dim + in_row] =
            narrow(__fmul_rn(code, scale));
    }
}

// The same where every block is aligned to 4 bytes and D is a multiple of 4: one word a thread.
extern "C" __global__ void dequantize4(
    const Address* layers, const Address* blocks, const unsigned short* scales, int num_layers,
    int heads, int tokens, int slots, int dim, int start)
{
    Index index = thread_index() * 4;
    Index per_row = (Index)tokens * dim;
    if (index >= (Index)num_layers * 2 * heads * per_row) return;
    int groups = (tokens + GROUP - 1) / GROUP;
    Index row = index / per_row, in_row = index % per_row;
    const signed char* block = (const signed char*)blocks[row / heads];
    Index group = in_row / dim / GROUP, channel = in_row % dim;
    unsigned int codes = *(const unsigned int*)(block + (row % heads) * per_row + in_row);
    const unsigned short* factors = scales + (row * groups + group) * dim + channel;
    Element* target =
        row_start(layers, row, heads, slots, dim) + (Offset)start * dim + in_row;
    for (int i = 0; i < 4; i++) {
        float code = (float)(signed char)(codes >> (8 * i));
        target[i] = narrow(__fmul_rn(code, __half2float(__ushort_as_half(factors[i]))));
    }
}

// Writes float32 rows [L, 2, H, T, D] to [start, start + T), rounded to nearest even.
extern "C" __global__ void store(
    const Address* layers, const float* rows, int num_layers, int heads, int tokens, int slots,
    int dim, int start)
{
    Index index = thread_index();
    Index per_row = (Index)tokens * dim;
    if (index >= (Index)num_layers * 2 * heads * per_row) return;
    row_start(layers, index / per_row, heads, slots, dim)[(Offset)start * dim + index % per_row] =
        narrow(rows[index]);
}

// Reads [start, start + T) as float32 [L, 2, H, T, D].
extern "C" __global__ void load(
    const Address* layers, float* rows, int num_layers, int heads, int tokens, int slots, int dim,
    int start)
{
    Index index = thread_index();
    Index per_row = (Index)tokens * dim;
    if (index >= (Index)num_layers * 2 * heads * per_row) return;
    rows[index] = widen(
        row_start(layers, index / per_row, heads, slots, dim)
            [(Offset)start * dim + index % per_row]);
}

// The smallest float16 s with 127 s >= peak, as bits. Rounding the quotient to float32 and to
// float16 gives it or the one below.
__device__ inline unsigned short smallest_scale(float peak) {
    __half scale = __float2half_rn(__fdiv_rn(peak, 127.0f));
    unsigned short bits = __half_as_ushort(scale);
    return __fmul_rn(__half2float(scale), 127.0f) < peak ? bits + 1 : bits;
}

// Quantises [start, start + T): one thread for each (row, group, channel). codes is
// [R, T, D], scales [R, G, D]; largest[0] becomes the largest magnitude's float32 bits.
extern "C" __global__ void quantize(
    const Address* layers, signed char* codes, unsigned short* scales, unsigned int* largest,
    int num_layers, int heads, int tokens, int slots, int dim, int start)
{
    Index index = thread_index();
    int groups = (tokens + GROUP - 1) / GROUP;
    if (index >= (Index)num_layers * 2 * heads * groups * dim) return;
    Index channel = index % dim, group = index / dim % groups, row = index / dim / groups;
    int first = group * GROUP, last = first + GROUP < tokens ? first + GROUP : tokens;
    const Element* source =
        row_start(layers, row, heads, slots, dim) + (Offset)start * dim + channel;
    unsigned int bits = 0;
    for (int token = first; token < last; token++) {
        unsigned int other = __float_as_uint(widen(source[(Index)token * dim])) & 0x7FFFFFFF;
        bits = other > bits ? other : bits;
    }
    atomicMax(largest, bits);
    float peak = __uint_as_float(bits > LARGEST ? LARGEST : bits);
    unsigned short scale_bits = smallest_scale(peak);
    scales[index] = scale_bits;
    float scale = __half2float(__ushort_as_half(scale_bits));
    float inverse = scale > 0 ? __fdiv_rn(1.0f, scale) : 0.0f;
    signed char* target = codes + row * (Index)tokens * dim + channel;
    for (int token = first; token < last; token++) {
        float value = __fmul_rn(widen(source[(Index)token * dim]), inverse);
        target[(Index)token * dim] = (signed char)(int)rintf(value);
    }
}

// Moves the first `kept` positions of one layer's rows into a buffer of other slots.
extern "C" __global__ void relocate(
    const Element* from, Element* to, int rows, int old_slots, int new_slots, int kept, int dim)
{
    Index index = thread_index();
    Index per_row = (Index)kept * dim;
    if (index >= (Index)rows * per_row) return;
    Index row = index / per_row, in_row = index % per_row;
    to[(Offset)row * new_slots * dim + in_row] = from[(Offset)row * old_slots * dim + in_row];
}

// Sets bad[position] where a value of a layer [rows, S, D] is not finite.
extern "C" __global__ void inspect(
    const Element* layer, unsigned int* bad, int rows, int slots, int dim)
{
    Index index = thread_index();
    Index per_row = (Index)slots * dim;
    if (index >= rows * per_row) return;
    if ((__float_as_uint(widen(layer[index])) & 0x7FFFFFFF) >= 0x7F800000u) {
        bad[index % per_row / dim] = 1;
    }
}
