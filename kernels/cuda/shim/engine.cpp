// The scheduler: runs the fibers of a CTA, and the CTAs of a launch over a few OS threads.
//
// Plain order: a warp runs until all of its lanes wait, then the next. With SHIM_SEED=n the order is random after the
// manner of probabilistic concurrency testing: warps have random priorities that are shuffled now and then, so that
// some lag far behind others, and an asynchronous copy lands at any time between its issue and its wait. Results of a
// correct kernel are the same under every seed.
//
// CTAs start in the order of their number, so a CTA may spin on what an earlier one writes.
#include "engine.hpp"
#include <atomic>
#include <condition_variable>
#include <link.h>
#include <mutex>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <thread>
#include <time.h>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__) || defined(SHIM_UCONTEXT)
#include <ucontext.h>
#endif

namespace shim {

Kernel*& Kernel::first() {
    static Kernel* list;
    return list;
}

// ---- Switching stacks -----------------------------------------------------------------------------------------------

#if defined(__x86_64__) && !defined(SHIM_UCONTEXT) // that macro: to test the slow way of other CPUs
// Pushes what a call must preserve, changes stacks, pops. void shim_switch(void** save_stack_pointer_here, void*
// stack_pointer)
extern "C" void shim_switch(void** from, void* to);
asm(R"(
    .text
    .globl shim_switch
    .hidden shim_switch
    .type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size shim_switch, .-shim_switch
)");

static void* prepare(void* top, void (*entry)()) {
    void** sp = (void**)top;
    *--sp = nullptr; // where `entry` would return to; also makes the stack aligned as after a call
    *--sp = (void*)entry;
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    return sp;
}
#else
extern "C" void shim_switch(void** from, void* to) {
    ucontext_t here; // lies on the stack that is left
    *from = &here;
    swapcontext(&here, (ucontext_t*)to);
}

static void* prepare(void* top, void (*entry)()) {
    ucontext_t* context = (ucontext_t*)((char*)top - sizeof(ucontext_t) - 64);
    getcontext(context);
    context->uc_stack.ss_sp = (char*)top - STACK + 3 * 4096;
    context->uc_stack.ss_size = (size_t)((char*)context - (char*)context->uc_stack.ss_sp) & ~(size_t)63;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    return context;
}
#endif

static unsigned char* stack_of(Cta& c, const Lane& lane) { return (unsigned char*)&c + HEADER + STACK * (&lane - c.lanes); }

// From lane or, where null, from the scheduler's own stack, to another; `last` where the lane left never runs again.
static void change(Cta& c, Lane* from, Lane* to, bool last = false) {
    c.current = to;
#if defined(__SANITIZE_ADDRESS__)
    void** fake = from ? &from->fake_stack : &c.main_fake_stack;
    if (to) __sanitizer_start_switch_fiber(last ? nullptr : fake, stack_of(c, *to) + 4096, STACK - 4096);
    else __sanitizer_start_switch_fiber(last ? nullptr : fake, c.main_bottom, c.main_size);
#else
    (void)last;
#endif
    shim_switch(from ? &from->stack : &c.main_stack, to ? to->stack : c.main_stack);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(*fake, nullptr, nullptr);
#endif
}

// ---- Choosing who runs ----------------------------------------------------------------------------------------------

static u32 random_below(Cta& c, u32 n) {
    c.random ^= c.random << 13;
    c.random ^= c.random >> 7;
    c.random ^= c.random << 17;
    return (u32)((c.random >> 32) * n >> 32);
}

static void shuffle_order(Cta& c) {
    for (u32 i = c.warps; i > 1; i--) {
        u32 j = random_below(c, i);
        unsigned char t = c.order[i - 1];
        c.order[i - 1] = c.order[j];
        c.order[j] = t;
    }
}

// First set bit at or after `from`, cyclically. bits != 0.
static u32 next_bit(u32 bits, u32 from) {
    u32 above = bits & (~0u << (from & 31));
    return __builtin_ctz(above ? above : bits);
}

static void make_runnable(Cta& c, u32 warp, u32 lanes) {
    c.warp_list[warp].runnable |= lanes;
    if (lanes) c.ready |= 1u << warp;
}

static Lane* pick(Cta& c) {
    if (!c.ready) return nullptr;
    if (c.random) {
        if (random_below(c, 32) == 0) shuffle_order(c);
        u32 i = 0;
        while (!(c.ready >> c.order[i] & 1)) i++;
        c.warp = c.order[i];
        Warp& w = c.warp_list[c.warp];
        return &c.lanes[c.warp * 32 + next_bit(w.runnable, random_below(c, 32))];
    }
    if (!(c.ready >> c.warp & 1)) c.warp = next_bit(c.ready, c.warp);
    Warp& w = c.warp_list[c.warp];
    return &c.lanes[c.warp * 32 + next_bit(w.runnable, w.next)];
}

static void deadlock(Cta& c) {
    fprintf(stderr, "shim: %u of %u threads wait for something that cannot come:\n", c.live, c.threads);
    for (u32 i = 0; i < 16; i++)
        if (c.barriers[i].arrived)
            fprintf(stderr, "  barrier %u: %u arrived, %u expected\n", i, c.barriers[i].arrived, c.barriers[i].expected);
    for (u32 w = 0; w < c.warps; w++)
        for (u32 m = 0; m < c.warp_list[w].open; m++)
            fprintf(stderr, "  warp %u: mask %08x, arrived %08x, returned %08x\n", w, c.warp_list[w].meetings[m].mask,
                    c.warp_list[w].meetings[m].arrived, c.warp_list[w].gone);
    fail("deadlock");
}

// The current lane waits until somebody makes it runnable.
static void leave(Cta& c) {
    Lane& me = *c.current;
    Warp& w = *me.warp;
    w.runnable &= ~me.bit;
    if (!w.runnable) c.ready &= ~(1u << (&w - c.warp_list));
    Lane* to = pick(c);
    if (!to) deadlock(c);
    change(c, &me, to);
}

constexpr int PATIENCE = 20;

void yield() {
    Cta& c = cta();
    Lane& me = *c.current;
    u32 warp = (u32)(me.warp - c.warp_list);
    me.warp->next = me.number + 1;
    c.warp = (warp + 1) & 31;
    if (c.random) { // the spinner falls behind all others
        u32 i = 0;
        while (c.order[i] != warp) i++;
        memmove(c.order + i, c.order + i + 1, c.warps - 1 - i);
        c.order[c.warps - 1] = (unsigned char)warp;
    }
    if (c.spins++ % (1 << 20) == 0) {
        long now = (long)time(nullptr);
        if (c.spins == 1) c.spinning_since = now;
        else if (now > c.spinning_since + PATIENCE) fail("spins for %d s on what does not come", PATIENCE);
    }
    Lane* to = pick(c);
    if (to == &me || c.live == 1) sched_yield(); // only a CTA on another OS thread can help
    if (to != &me) change(c, &me, to);
}

void poll() {
    if (++cta().polls % 64 == 0) yield();
}

// ---- Meetings of lanes, barriers ------------------------------------------------------------------------------------

static void close_meeting(Cta& c, Warp& w, u32 i) {
    c.spins = 0;
    Meeting m = w.meetings[i];
    w.meetings[i] = w.meetings[--w.open];
    m.work(w, m.arrived);
    make_runnable(c, (u32)(&w - c.warp_list), m.arrived);
}

void meet(u32 mask, Together work) {
    Cta& c = cta();
    Lane& me = *c.current;
    Warp& w = *me.warp;
    if (!(mask & me.bit)) fail("a lane outside of the mask %08x it passes", mask);
    u32 i = 0;
    while (i < w.open && w.meetings[i].mask != mask) i++;
    if (i == w.open) {
        w.meetings[i] = {mask, 0, work};
        w.open++;
    }
    Meeting& m = w.meetings[i];
    if (m.work != work) fail("lanes %08x of mask %08x are at another kind of warp operation than this one", m.arrived, mask);
    m.arrived |= me.bit;
    if (((m.arrived | w.gone) & mask) == mask) {
        close_meeting(c, w, i);
        if (c.random && random_below(c, 16) == 0) {
            shuffle_order(c);
            Lane* to = pick(c);
            if (to != &me) change(c, &me, to);
        }
    } else {
        leave(c);
    }
}

static void open_barrier(Cta& c, Barrier& b) {
    c.spins = 0;
    // Others may open before all that waited here have read.
    if (&b == c.barriers) c.reduced[0] = b.sum, c.reduced[1] = b.any, c.reduced[2] = b.all;
    for (u32 w = 0; w < c.warps; w++) {
        make_runnable(c, w, b.waiting[w]);
        b.waiting[w] = 0;
    }
    b.arrived = b.expected = b.sum = b.any = 0;
    b.all = 1;
}

void barrier(u32 id, u32 count, bool wait, u32 predicate) {
    Cta& c = cta();
    Lane& me = *c.current;
    Barrier& b = c.barriers[id];
    if (b.arrived && b.expected != count) fail("barrier %u expects %u threads and here %u", id, b.expected, count);
    b.expected = count;
    b.sum += predicate != 0, b.any |= predicate != 0, b.all &= predicate != 0;
    b.arrived++;
    bool last = b.arrived == (count ? count : c.live);
    if (last) {
        open_barrier(c, b);
        if (c.random) { // nor does the last to come go on first
            Lane* to = pick(c);
            if (to != &me) change(c, &me, to);
        }
    } else if (wait) {
        b.waiting[me.warp - c.warp_list] |= me.bit;
        leave(c);
    }
}

// ---- Asynchronous copies --------------------------------------------------------------------------------------------

void phase_arrive(u64* phase) {
    u64 count = *phase & 0xffff, missing = (*phase >> 16 & 0xffff) - 1, number = *phase >> 32;
    if (missing == 0) missing = count, number++;
    *phase = count | missing << 16 | number << 32;
}

static void land(const Copy& copy) {
    if (copy.size == 0) {
        cta().deferred--;
        return phase_arrive((u64*)copy.to);
    }
    memcpy(copy.to, copy.from, copy.valid);
    memset((char*)copy.to + copy.valid, 0, copy.size - copy.valid);
}

static void add_copy(Lane& me, const Copy& copy) {
    if (me.first_copy == me.copy_count) me.first_copy = me.copy_count = 0;
    if (me.copy_count == me.copy_space) {
        me.copy_space = me.copy_space ? me.copy_space * 2 : 64;
        me.copies = (Copy*)realloc(me.copies, me.copy_space * sizeof(Copy));
    }
    me.copies[me.copy_count++] = copy;
}

// Until it lands, the destination holds poison: neither what was there before nor what comes may be read.
void copy_async(void* to, const void* from, u32 size, u32 valid) {
    Cta& c = cta();
    Lane& me = *c.current;
    if ((size_t)to % size || (valid && (size_t)from % size))
        fail("asynchronous copy of %u bytes, not aligned: to %p from %p", size, to, from);
    Copy copy = {to, from, size, valid, me.group};
    if (c.random && random_below(c, 4) == 0) return land(copy);
    memset(to, POISON, size);
    add_copy(me, copy);
}

void copy_async_commit() { self().group++; }

void copy_async_wait(u32 under_way) {
    Lane& me = self();
    while (me.first_copy < me.copy_count && me.copies[me.first_copy].group + under_way < me.group) land(me.copies[me.first_copy++]);
}

// The copies land when somebody waits for the phase, or earlier.
void phase_arrive_after_copies(u64* phase) {
    Cta& c = cta();
    Lane& me = *c.current;
    c.deferred++;
    add_copy(me, {phase, nullptr, 0, 0, me.group});
    if (c.random && random_below(c, 2) == 0)
        while (me.first_copy < me.copy_count) land(me.copies[me.first_copy++]);
}

void phase_wait(const u64* phase, u32 parity) {
    Cta& c = cta();
    while ((*(volatile const u64*)phase >> 32 & 1) == parity) {
        for (u32 i = 0; c.deferred && i < c.threads; i++) {
            Lane& lane = c.lanes[i];
            u32 last = lane.copy_count; // one after the last arrival
            while (last > lane.first_copy && lane.copies[last - 1].size) last--;
            while (lane.first_copy < last) land(lane.copies[lane.first_copy++]);
        }
        yield();
    }
    asm volatile("" ::: "memory");
}

void previous_kernel_wait() {
    Cta& c = cta();
    c.waited = true;
    if (c.launch->finish_previous) c.launch->finish_previous();
}

// ---- Asynchronous matrix products ------------------------------------------------------------------------------------------------

void product_begin(Product product, float* d, u32 size) {
    Lane& me = self();
    if (!me.products) me.products = (Products*)calloc(1, sizeof(Products));
    Products& p = *me.products;
    auto* kept = p.kept;
    while (kept < p.kept + 4 && kept->d != d) kept++;
    if (kept == p.kept + 4) { // the first of these sums under way
        kept = p.kept;
        while (kept < p.kept + 4 && kept->d) kept++;
        if (kept == p.kept + 4) fail("more than 4 sums of matrix products under way");
        kept->d = d, kept->size = size;
        memcpy(kept->sum, d, size * sizeof(float));
        memset(d, POISON, size * sizeof(float));
    }
    if (p.count == 128) fail("more than 128 matrix products under way");
    product.sum = kept->sum, product.group = p.group;
    p.list[p.count++] = product;
}

void product_commit() {
    Lane& me = self();
    if (me.products) me.products->group++;
}

void product_wait(u32 under_way) {
    Lane& me = self();
    if (!me.products) return;
    Products& p = *me.products;
    u32 due = 0;
    while (due < p.count && p.list[due].group + under_way < p.group) due++;
    for (u32 i = 0; i < due; i++) {
        me.warp->pointer[me.number] = &p.list[i];
        meet(~0u, p.list[i].work);
    }
    memmove(p.list, p.list + due, (p.count - due) * sizeof(Product));
    p.count -= due;
    for (auto& kept : p.kept) {
        bool more = !kept.d;
        for (u32 i = 0; i < p.count; i++) more |= p.list[i].sum == kept.sum;
        if (more) continue;
        memcpy(kept.d, kept.sum, kept.size * sizeof(float));
        kept.d = nullptr;
    }
}

// ---- A CTA ----------------------------------------------------------------------------------------------------------

void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "shim: ");
    vfprintf(stderr, format, arguments);
    Cta& c = cta();
    if (c.launch) {
        fprintf(stderr, "\nshim: in %s, block (%u, %u, %u)", c.launch->kernel->name, c.block.x, c.block.y, c.block.z);
        if (c.current) fprintf(stderr, ", thread (%u, %u, %u)", c.current->thread.x, c.current->thread.y, c.current->thread.z);
    }
    fprintf(stderr, "\n");
    abort();
}

static void run_lane() {
    Cta& c = cta();
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!c.main_bottom) c.main_bottom = bottom, c.main_size = size;
#endif
    c.launch->kernel->call(c.launch->kernel->function, c.launch->parameters);

    Lane& me = *c.current;
    Warp& w = *me.warp;
    while (c.deferred && me.first_copy < me.copy_count) land(me.copies[me.first_copy++]);
    if (me.products && me.products->count) fail("returned with matrix products under way");
    w.gone |= me.bit;
    w.runnable &= ~me.bit;
    if (!w.runnable) c.ready &= ~(1u << (&w - c.warp_list));
    c.live--;
    // Whoever waited for this lane alone need not any more.
    for (u32 i = w.open; i-- > 0;)
        if (((w.meetings[i].arrived | w.gone) & w.meetings[i].mask) == w.meetings[i].mask) close_meeting(c, w, i);
    for (u32 i = 0; i < 16; i++)
        if (c.barriers[i].arrived && !c.barriers[i].expected && c.barriers[i].arrived == c.live) open_barrier(c, c.barriers[i]);
    Lane* to = pick(c);
    if (!to && c.live) deadlock(c);
    change(c, &me, to, true);
    __builtin_unreachable();
}

constexpr size_t SHARED_SPACE = 228 << 10, SHARED_GUARD = 256;
constexpr int GUARD_BYTE = 0xa5;

// What one OS thread needs to run CTAs.
struct Worker {
    Cta* cta = nullptr;
    u32 stacks = 0;
    unsigned char* shared;
    pthread_t thread; // that runs a launch

    void reserve(u32 threads) {
        if (!cta) {
            size_t raw = (size_t)mmap(nullptr, 2 * REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (raw == (size_t)MAP_FAILED) perror("shim: mmap"), abort();
            cta = (Cta*)((raw + REGION - 1) & ~(REGION - 1));
            mprotect(cta, HEADER, PROT_READ | PROT_WRITE);
#if !defined(__SANITIZE_ADDRESS__)
            stack_t alternate; // for the handler, should a fiber's stack be full
            if (!sigaltstack(nullptr, &alternate) && alternate.ss_flags & SS_DISABLE) {
                alternate = {malloc(1 << 16), 0, 1 << 16};
                sigaltstack(&alternate, nullptr);
            }
#endif
            shared = (unsigned char*)aligned_alloc(256, SHARED_SPACE + 512) + 128; // aligned to 128 bytes and no more
        }
        for (; stacks < threads; stacks++) {
            char* stack = (char*)cta + HEADER + STACK * stacks;
            if (mprotect(stack + 4096, STACK - 4096, PROT_READ | PROT_WRITE)) perror("shim: mprotect"), abort();
        }
    }

    void run(const Launch& launch, u64 number, u64 seed) {
        Cta& c = *cta;
        u32 threads = launch.block.x * launch.block.y * launch.block.z;
        c.current = nullptr;
        c.launch = &launch;
        u64 row = number / launch.grid.x;
        c.block = {(u32)(number % launch.grid.x), (u32)(row % launch.grid.y), (u32)(row / launch.grid.y)};
        c.block_dim = launch.block, c.grid_dim = launch.grid;
        c.threads = c.live = threads;
        c.warps = (threads + 31) / 32;
        c.ready = 0, c.warp = 0;
        c.deferred = 0, c.spins = 0;
        c.waited = false;
        c.dynamic_shared = shared, c.dynamic_size = launch.shared;
#if defined(__SANITIZE_ADDRESS__)
        c.main_bottom = nullptr;
        __asan_unpoison_memory_region(shared, SHARED_SPACE + SHARED_GUARD);
        __asan_poison_memory_region(shared + (launch.shared + 7) / 8 * 8, SHARED_SPACE + SHARED_GUARD - (launch.shared + 7) / 8 * 8);
#else
        memset(shared + launch.shared, GUARD_BYTE, SHARED_GUARD);
#endif
        memset(shared, POISON, launch.shared);
        for (Barrier& b : c.barriers) b = {0, 0, 0, 0, 1, {}};
        Index t = {0, 0, 0};
        for (u32 i = 0; i < threads; i++) {
            Lane& lane = c.lanes[i];
            lane.thread = t;
            if (++t.x == launch.block.x) {
                t.x = 0;
                if (++t.y == launch.block.y) t.y = 0, t.z++;
            }
            lane.number = i % 32, lane.bit = 1u << i % 32;
            lane.warp = &c.warp_list[i / 32];
            lane.group = lane.first_copy = lane.copy_count = 0;
            if (lane.products) lane.products->group = 0;
            lane.stack = prepare(stack_of(c, lane) + STACK - i % 16 * 192, run_lane);
        }
        for (u32 w = 0; w < c.warps; w++) {
            u32 lanes = threads - 32 * w < 32 ? (1u << (threads - 32 * w)) - 1 : ~0u;
            c.warp_list[w].gone = ~lanes;
            c.warp_list[w].runnable = c.warp_list[w].open = c.warp_list[w].next = 0;
            make_runnable(c, w, lanes);
            c.order[w] = (unsigned char)w;
        }
        c.random = 0;
        if (seed) {
            c.random = (seed * 0x9e3779b97f4a7c15ull ^ (number + 1) * 0xbf58476d1ce4e5b9ull) | 1;
            for (int i = 0; i < 8; i++) random_below(c, 2);
            shuffle_order(c);
        }
        change(c, nullptr, pick(c));
#if !defined(__SANITIZE_ADDRESS__)
        for (size_t i = 0; i < SHARED_GUARD; i++)
            if (shared[launch.shared + i] != GUARD_BYTE) report(launch, "wrote past its dynamic shared memory", launch.shared + i);
#endif
        if (launch.programmatic && !c.waited) report(launch, "is launched to overlap the kernel before it and never waits for it", number);
        c.launch = nullptr;
    }

    [[noreturn]] static void report(const Launch& launch, const char* what, size_t where) {
        fprintf(stderr, "shim: %s %s (%zu)\n", launch.kernel->name, what, where);
        abort();
    }
};

// ---- A launch -------------------------------------------------------------------------------------------------------

// The thread-local variables of this library are the static __shared__ arrays of all kernels: one block a thread, found
// in the list of loaded objects.
struct Statics {
    void* start = nullptr;
    size_t size = 0;
};

static Statics statics_of_this_thread() {
    Statics s;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
            bool ours = false;
            size_t size = 0, here = (size_t)&statics_of_this_thread;
            for (int i = 0; i < info->dlpi_phnum; i++) {
                const auto& p = info->dlpi_phdr[i];
                if (p.p_type == PT_LOAD) ours |= here - (info->dlpi_addr + p.p_vaddr) < p.p_memsz;
                if (p.p_type == PT_TLS) size = p.p_memsz;
            }
            if (ours && info->dlpi_tls_data) *(Statics*)out = {info->dlpi_tls_data, size};
            return (int)ours;
        },
        &s);
    return s;
}

// Makes the thread's block exist before it is looked for.
static thread_local unsigned char statics_anchor;

struct Engine {
    std::mutex one_launch, mutex;
    std::condition_variable wake, done;
    std::vector<Worker> workers;
    const Launch* launch = nullptr;
    u64 generation = 0, ctas = 0, launches = 0, seed;
    u32 busy = 0;
    std::atomic<u64> next{0};

    Engine() {
        const char* text = getenv("SHIM_THREADS");
        u32 n = text ? (u32)atoi(text) : std::thread::hardware_concurrency();
        workers.resize(n < 1 ? 1 : n > 8 ? 8 : n);
        for (u32 i = 1; i < workers.size(); i++) std::thread([this, i] { serve(i); }).detach();
    }

    void work(u32 worker) {
        statics_anchor = 0;
        asm volatile("" ::"r"(&statics_anchor) : "memory");
        Statics statics = statics_of_this_thread();
        workers[worker].thread = pthread_self();
        workers[worker].reserve(launch->block.x * launch->block.y * launch->block.z);
        // All of the static shared memory is poisoned once, then only what the kernel is known to write.
        Kernel& kernel = *launch->kernel;
        bool known = kernel.launched;
        size_t begin = known ? kernel.statics_begin : 0, end = known ? kernel.statics_end : statics.size;
        unsigned char* start = (unsigned char*)statics.start;
        if (start) memset(start, POISON, statics.size);
        for (u64 i; (i = next.fetch_add(1)) < ctas;) {
            if (start && begin < end) memset(start + begin, POISON, end - begin);
            workers[worker].run(*launch, i, seed ? seed + launches * 0x100000001b3ull : 0);
        }
        if (!start) return;
        begin = 0, end = statics.size;
        auto clean = [&](size_t i) { return *(const u64*)(start + i) == ~0ull; };
        while (end % 8) end--;
        while (begin < end && clean(begin)) begin += 8;
        while (begin < end && clean(end - 8)) end -= 8;
        if (begin < end && end + 8 > statics.size) end = statics.size;
        static std::mutex kernels;
        std::lock_guard<std::mutex> lock(kernels);
        if (begin < end && begin < kernel.statics_begin) kernel.statics_begin = begin;
        if (begin < end && end > kernel.statics_end) kernel.statics_end = end;
    }

    void serve(u32 worker) {
        u64 seen = 0;
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            wake.wait(lock, [&] { return generation != seen; });
            seen = generation;
            if (!launch) continue;
            busy++;
            lock.unlock();
            work(worker);
            lock.lock();
            if (--busy == 0) done.notify_all();
        }
    }

    void run(const Launch& l, u64 with_seed) {
        std::lock_guard<std::mutex> one(one_launch);
        {
            std::lock_guard<std::mutex> lock(mutex);
            launch = &l;
            seed = with_seed;
            ctas = (u64)l.grid.x * l.grid.y * l.grid.z;
            next = 0;
            generation++;
            launches++;
        }
        if (ctas > 1) wake.notify_all();
        work(0);
        std::unique_lock<std::mutex> lock(mutex);
        done.wait(lock, [&] { return busy == 0; });
        l.kernel->launched = true;
        launch = nullptr;
    }
};

static Engine* engines[2]; // made when needed; their threads live as long as the process
static std::mutex making;
static u64 seed = [] {
    const char* text = getenv("SHIM_SEED");
    return text ? strtoull(text, nullptr, 10) : 0ull;
}();

static Engine& engine(bool nested) {
    std::lock_guard<std::mutex> lock(making);
    if (!engines[nested]) engines[nested] = new Engine;
    return *engines[nested];
}

#if !defined(__SANITIZE_ADDRESS__)
static struct sigaction segv_before;

// A kernel that reads or writes where nothing is, or overflows its stack: says which, then faults again for the handler
// before.
static void on_fault(int, siginfo_t* info, void*) {
    for (Engine* e : engines) {
        if (!e) continue;
        for (Worker& worker : e->workers) {
            Cta* c = worker.cta;
            if (!c || !c->launch || !c->current || !pthread_equal(worker.thread, pthread_self())) continue;
            size_t below = (size_t)info->si_addr - (size_t)stack_of(*c, *c->current);
            Index b = c->block, t = c->current->thread;
            fprintf(stderr, "shim: %s, block (%u, %u, %u), thread (%u, %u, %u): %s (address %p)\n", c->launch->kernel->name, b.x, b.y, b.z, t.x,
                    t.y, t.z, below < 4096 ? "stack overflow" : "illegal address", info->si_addr);
        }
    }
    sigaction(SIGSEGV, &segv_before, nullptr);
}

__attribute__((constructor)) static void catch_faults() {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &segv_before);
}
#endif
void run(const Launch& launch, bool nested) { engine(nested).run(launch, seed); }
void set_seed(u64 n) {
    seed = n;
    for (Engine* e : engines)
        if (e) e->launches = 0;
}

} // namespace shim
