// How a kernel runs on a CPU: what the kernels' side (shim.hpp), the scheduler (engine.cpp) and the driver (driver.cpp)
// share.
//
// Each thread of a CTA is a fiber with a stack of its own, and a CTA runs on one OS thread. A fiber leaves the CPU only
// where it waits for other threads: a warp operation, a barrier, a spin. All of a CTA lies in one region of address
// space aligned to its size, so that a fiber finds its CTA by masking its stack pointer:
//
//     region + 0            Cta: what the threads share, the scheduler, 32 warps, 1024 lanes
//     region + HEADER       stack 0, stack 1, ... each STACK bytes, the lowest page a guard that faults
#pragma once
#include <stddef.h>
#include <type_traits>
#include <utility>

namespace shim {

typedef unsigned int u32;
typedef unsigned long long u64;
struct Index { u32 x, y, z; };

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t REGION = 1ull << 29, STACK = 81 * 4096;
#else
constexpr size_t REGION = 1ull << 27, STACK = 17 * 4096; // not a power of two: tops of stacks spread over the cache's sets
#endif
constexpr size_t HEADER = 1 << 20;
constexpr u32 MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / 32;
// One byte of memory nobody has written: as float32, float64, bf16 and f16 a NaN, as an integer -1.
constexpr int POISON = 0xff;

struct Warp;
struct Cta;
// Work of all lanes of a warp at once, run by whichever lane came last; bit i of `present`: lane i takes part.
typedef void (*Together)(Warp& warp, u32 present);

// An asynchronous copy under way: `valid` of `size` bytes are read, the rest is zeros. Where `size` is 0, an arrival at the phase `to` that
// follows the copies before it.
struct Copy {
    void* to;
    const void* from;
    u32 size, valid, group;
};

struct Lane {
    Index thread;
    u32 number, bit; // within the warp
    Warp* warp;
    void* stack; // stack pointer while it does not run
    Copy* copies; // under way, oldest first
    u32 first_copy, copy_count, copy_space, group;
    struct Products* products; // asynchronous matrix products under way
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack;
#endif
};

struct Meeting {
    u32 mask, arrived;
    Together work;
};

struct Warp {
    u32 runnable, gone; // lanes that could run or do, and those that have returned or never were
    u32 next; // where the search for a lane begins
    u32 open; // meetings some lanes wait in, one for each mask
    Meeting meetings[32];
    // What each lane brings to a meeting and takes home.
    u64 value[32], result[32];
    u32 source[32];
    void* pointer[32];
};

struct Barrier {
    u32 arrived, expected;
    u32 sum, any, all; // of the predicates, for __syncthreads_count and its kin
    u32 waiting[MAX_WARPS];
};

struct Cta {
    Lane* current;
    unsigned char* dynamic_shared;
    Index block, block_dim, grid_dim;
    u32 dynamic_size, threads, warps, live;
    u32 ready; // warps with runnable lanes
    u32 warp; // the one that runs
    u32 reduced[3]; // sum, any, all, when barrier 0 opened last
    u32 deferred; // arrivals that wait for copies
    bool waited; // somebody called previous_kernel_wait
    u64 spins; // calls of `yield` since anything else happened
    long spinning_since; // seconds
    u32 polls;
    u64 random; // 0: the plain order
    unsigned char order[MAX_WARPS]; // warps by priority, if random
    const struct Launch* launch;
    void* main_stack;
    Barrier barriers[16];
    Warp warp_list[MAX_WARPS];
    Lane lanes[MAX_THREADS];
#if defined(__SANITIZE_ADDRESS__)
    void* main_fake_stack;
    const void* main_bottom;
    size_t main_size;
#endif
};
static_assert(sizeof(Cta) <= HEADER, "");

inline __attribute__((always_inline)) Cta& cta() { return *(Cta*)((size_t)__builtin_frame_address(0) & ~(REGION - 1)); }
inline __attribute__((always_inline)) Lane& self() { return *cta().current; }

// Waits for all lanes of `mask` that have not returned; the last to come does `work` for all.
void meet(u32 mask, Together work);
// Waits at a barrier for `count` threads (0: all of the CTA that have not returned).
void barrier(u32 id, u32 count, bool wait, u32 predicate);
// Lets other fibers run: called by whatever a kernel may spin on.
void yield();
void poll(); // the same now and then, for loads
void copy_async(void* to, const void* from, u32 size, u32 valid);
void copy_async_commit();
void copy_async_wait(u32 under_way);
// Phases in shared memory (mbarrier): count | missing << 16 | number << 32.
void phase_arrive(u64* phase);
void phase_arrive_after_copies(u64* phase);
void phase_wait(const u64* phase, u32 parity);
void previous_kernel_wait();

// Matrix products that a lane has begun. What they add to is poison until they are waited for, and is kept here meanwhile.
struct Product {
    Together work;
    const u32* a;
    const unsigned char *a_start, *b_start;
    long a_slab, b_slab;
    float* sum; // in `Products::kept`
    u32 group;
    bool add;
};
struct Products {
    u32 count, group;
    Product list[128];
    struct { float* d; u32 size; float sum[128]; } kept[4];
};
void product_begin(Product product, float* d, u32 size);
void product_commit();
void product_wait(u32 under_way);
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// A kernel, its parameters' sizes and how to call it. One is built for each `extern "C" __global__` function by code of
// build.sh.
struct Kernel {
    const char *file, *name;
    u32 max_threads; // __launch_bounds__
    u32 parameters;
    const u32* sizes;
    void (*function)();
    void (*call)(void (*function)(), void** parameters);
    Kernel* next;
    // Set by the host.
    u32 max_dynamic_shared = 48 << 10;
    // Which part of the static shared memory of all kernels this one was seen to write; nothing is known before the first launch.
    bool launched = false;
    size_t statics_begin = ~(size_t)0, statics_end = 0;

    template <typename... A>
    Kernel(const char* file, const char* name, u32 max_threads, void (*f)(A...))
        : file(file), name(name), max_threads(max_threads), parameters(sizeof...(A)), function((void (*)())f) {
        static_assert((std::is_trivially_copyable<A>::value && ... && true), "a parameter is copied as bytes");
        static const u32 list[] = {(u32)sizeof(A)..., 0};
        sizes = list;
        call = [](void (*f)(), void** parameters) {
            apply((void (*)(A...))f, parameters, std::make_integer_sequence<u32, sizeof...(A)>());
        };
        next = first();
        first() = this;
    }
    static Kernel*& first();

  private:
    template <typename... A, u32... I>
    static void apply(void (*f)(A...), void** parameters, std::integer_sequence<u32, I...>) {
        f(*(typename std::remove_const<A>::type*)parameters[I]...);
    }
};
constexpr u32 bounds(u32 threads = MAX_THREADS, u32 = 0, u32 = 0) { return threads; }

struct Launch {
    Kernel* kernel;
    Index grid, block;
    u32 shared;
    bool programmatic; // may overlap the kernel before it, so must call previous_kernel_wait
    void** parameters;
    void (*finish_previous)() = nullptr; // called by whoever waits first
};
// `nested`: while another launch is under way.
void run(const Launch& launch, bool nested = false);
void set_seed(u64 seed);

} // namespace shim
