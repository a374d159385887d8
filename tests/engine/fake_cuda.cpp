// SPDX-FileCopyrightText: 2026 The cwm_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// A CUDA driver that is none: memory is the processor's, work is done at once, and kernels.cu is
// compiled for the processor. It counts what is taken and not given back, and fails when told to.
// It says nothing about a GPU; it lets the code around one be tested without one.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#define CWM_HOST
#define __device__
#define __global__
struct Dim { unsigned x; };
static thread_local Dim blockIdx, threadIdx, blockDim;

struct __half { uint16_t bits; };
static float __half2float(__half h) { _Float16 f; memcpy(&f, &h, 2); return (float)f; }
static __half __float2half_rn(float x) { _Float16 f = (_Float16)x; __half h; memcpy(&h, &f, 2); return h; }
static __half __ushort_as_half(uint16_t bits) { return {bits}; }
static uint16_t __half_as_ushort(__half h) { return h.bits; }
static float __fmul_rn(float a, float b) { return a * b; }
static float __fdiv_rn(float a, float b) { return a / b; }
static uint32_t __float_as_uint(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static float __uint_as_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
static std::mutex atomics;
static void atomicMax(unsigned* to, unsigned value) {
    std::lock_guard<std::mutex> lock(atomics);
    if (value > *to) *to = value;
}

#include "kernels.cu"

typedef std::function<void(unsigned, unsigned, void**)> Kernel;

template <class... A, size_t... I>
static Kernel loop(void (*kernel)(A...), std::index_sequence<I...>) {
    return [kernel](unsigned blocks, unsigned threads, void** args) {
        blockDim.x = threads;
        for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
            for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++)
                kernel(*(A*)args[I]...);
    };
}
template <class... A>
static std::pair<Kernel, std::vector<size_t>> made(void (*kernel)(A...)) {
    return {loop(kernel, std::index_sequence_for<A...>{}), {sizeof(A)...}};
}
static std::map<std::string, std::pair<Kernel, std::vector<size_t>>> kernels = {
    {"append", made(append)},         {"dequantize", made(dequantize)},
    {"dequantize4", made(dequantize4)}, {"store", made(store)},
    {"load", made(load)},             {"quantize", made(quantize)},
    {"relocate", made(relocate)},     {"inspect", made(inspect)},
};

typedef std::function<void()> Work;
static std::vector<Work>* recording;
static std::map<void*, size_t> memory;
static std::mutex mutex;
static size_t used, limit = (size_t)1 << 40;
static std::string failing;
static int fail_after, fail_status, broken;
static std::map<std::string, long> calls;

static int enter(const char* name) {
    std::lock_guard<std::mutex> lock(mutex);
    calls[name]++;
    if (broken) return broken;
    if (failing == name && fail_after-- <= 0) { failing = ""; return fail_status; }
    return 0;
}
#define ENTER if (int status = enter(__func__)) return status

static int work(Work todo) {
    if (recording) recording->push_back(todo); else todo();
    return 0;
}

extern "C" {
void fake_limit(size_t bytes) { limit = bytes; }
size_t fake_used() { return used; }
void fake_fail(const char* name, int after, int status) { failing = name; fail_after = after; fail_status = status; }
void fake_break(int status) { broken = status; }  // of all calls from now on; 0 mends it
long fake_calls(const char* name) { return calls[name]; }
void fake_host_call(void (*function)()) { work([=] { function(); }); }

int cuInit(unsigned) { ENTER; return 0; }
int cuDeviceGet(int* device, int) { ENTER; *device = 0; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { *context = (void*)8; return 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void*) { return 0; }
int cuCtxGetDevice(int* device) { *device = 0; return 0; }
int cuDeviceGetName(char* name, int, int) { strcpy(name, "Fake GPU"); return 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = limit; return 0; }
int cuDriverGetVersion(int* version) { *version = 12060; return 0; }
int cuDeviceGetAttribute(int* value, int which, int) { *value = which == 75 ? 8 : which == 76 ? 7 : 0; return 0; }
int cuGetErrorString(int, const char** text) { *text = "injected"; return 0; }
int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) { *free_bytes = limit > used ? limit - used : 0; *total = limit; return 0; }

static int take(void** pointer, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    if (used + bytes > limit) return 2;
    *pointer = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(*pointer, 0xFF, bytes);  // NaN: whoever relies on what is there is wrong
    memory[*pointer] = bytes;
    used += bytes;
    return 0;
}
static int give(void* pointer) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!memory.count(pointer)) return 1;
    used -= memory[pointer];
    memory.erase(pointer);
    free(pointer);
    return 0;
}
int cuMemAlloc_v2(void** pointer, size_t bytes) { ENTER; return take(pointer, bytes); }
int cuMemFree_v2(void* pointer) { ENTER; return give(pointer); }
int cuMemHostAlloc(void** pointer, size_t bytes, unsigned) { ENTER; return take(pointer, bytes); }
int cuMemFreeHost(void* pointer) { ENTER; return give(pointer); }
int cuMemHostGetDevicePointer_v2(void** there, void* here, unsigned) { *there = here; return 0; }

int cuStreamCreateWithPriority(void** stream, unsigned, int) { ENTER; *stream = (void*)16; return 0; }
int cuStreamSynchronize(void*) { ENTER; return 0; }
// A copy must not leave the allocation that it begins in.
static bool leaves(const void* start, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    auto next = memory.upper_bound((void*)start);
    if (next == memory.begin()) return false;
    auto found = std::prev(next);
    char* end = (char*)found->first + found->second;
    return (char*)start < end && (char*)start + bytes > end;
}
int cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t bytes, void*) { ENTER; if (leaves(from, bytes) || leaves(to, bytes)) return 1; return work([=] { memcpy(to, from, bytes); }); }
int cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t bytes, void*) { ENTER; return work([=] { memcpy(to, from, bytes); }); }
int cuMemsetD8Async(void* to, unsigned char value, size_t bytes, void*) { ENTER; return work([=] { memset(to, value, bytes); }); }

int cuModuleLoadData(void** module, const void*) { ENTER; *module = (void*)24; return 0; }
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(void** function, void*, const char* name) {
    ENTER;
    auto found = kernels.find(name);
    if (found == kernels.end()) return 500;
    *function = &found->second;
    return 0;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty,
                   unsigned tz, unsigned, void*, void** args, void** extra) {
    ENTER;
    if (y != 1 || z != 1 || ty != 1 || tz != 1 || extra) return 1;
    auto& kernel = *(std::pair<Kernel, std::vector<size_t>>*)function;
    std::vector<std::vector<char>> copies;
    for (size_t i = 0; i < kernel.second.size(); i++)
        copies.emplace_back((char*)args[i], (char*)args[i] + kernel.second[i]);
    return work([=]() mutable {
        std::vector<void*> pointers;
        for (auto& copy : copies) pointers.push_back(copy.data());
        kernel.first(x, threads, pointers.data());
    });
}

int cuStreamBeginCapture_v2(void*, int) { ENTER; recording = new std::vector<Work>; return 0; }
int cuStreamEndCapture(void*, void** graph) { ENTER; *graph = recording; recording = nullptr; return 0; }
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    ENTER;
    *executable = new std::vector<Work>(*(std::vector<Work>*)graph);
    return 0;
}
int cuGraphDestroy(void* graph) { delete (std::vector<Work>*)graph; return 0; }
int cuGraphExecDestroy(void* graph) { delete (std::vector<Work>*)graph; return 0; }
int cuGraphLaunch(void* graph, void*) { ENTER; for (auto& todo : *(std::vector<Work>*)graph) todo(); return 0; }
}
