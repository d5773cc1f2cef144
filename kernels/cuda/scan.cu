// The selective scan over many tokens, with the state carried in and out:
//
//     dt[t,c] = softplus(dt_raw[t,c] + dt_bias[c])                (the identity above 20)
//     h[n]    = exp(dt[t,c] A[c,n]) h[n] + dt[t,c] u[t,c] B[t,n]
//     y[t,c]  = sum_n C[t,n] h[n] + D[c] u[t,c]                   (times silu(z[t,c]) where there is z)
//
//     scan_{f32,bf16}(u, dt_raw, dt_bias, a, b, c, bc_stride, d, z, z_stride, state, y, tickets, length, channels,
//                     states)
//       u, dt_raw, y  (length, channels) T, dense               a        (channels, states) float32
//       b, c          (length, states) T, rows bc_stride apart   dt_bias  (channels) float32, or null for 0
//       z             (length, channels) T, rows z_stride apart, or null
//       d             (channels) float32, or null for 0          state    (states, channels) float32, read and written
//       tickets       a uint32 for each CTA: zeros before the first launch, zeros again after each; unused where the
//                     grid is ceil(channels / 8)
//     T is float32 (exact) or bf16 (fast). length, channels >= 1, 1 <= states <= 16.
//     scan_wide_{f32,bf16}(the same) for 17 to 64 states.
//     Launch: grid ceil(channels / 8), or less, at most 16/17 of it, which changes no bit of the results;
//     block 96, no dynamic shared memory. No scratch. Strides below 2^24, grid and jobs below 2^20.
//     Any alignment is right. Full speed: channels a multiple of 8, states of 16; z, b, c and their rows' distances
//     multiples of 16 bytes.
//
// The cost is the exponentials: 16 a token and channel on a unit that does 16 a clock. So each is computed once, which
// leaves no room for scanning stretches of time from a state yet unknown. Instead the warps of a CTA pass the state
// around in a ring. A job is 8 channels for all of time; time is cut into segments of 8 steps, and of a CTA that has a
// job for itself warp w takes the segments w, w + 3, w + 6, ...:
//
//     warp 0  [decays, inputs of segment 0][h 0]·[y 0][decays, inputs of segment 3      ][h 3]·[y 3]
//     warp 1  [decays, inputs of segment 1]     [h 1]·[y 1][decays, inputs of segment 4      ][h 4]·[y 4]
//     warp 2  [decays, inputs of segment 2]          [h 2]·[y 2][decays, inputs of segment 5      ][h 5]·
//
// Only [h], 8 dependent multiply-adds and a handover through shared memory, is serial; a and b = dt u B wait for it in
// registers.
//
// A lane works in two roles. As owner it holds step lane / 4 and the 2 channels 2 (lane % 4), which makes loads and
// stores adjacent; as scanner it holds channel lane / 4 and the 4 states 4 (lane % 4) of a block of 16. dt and u go
// from owners to scanners through shared memory of the warp, y comes back the same way. More than 16 states are done 16
// at a time within a segment.
//
// 3 warps, because 4 CTAs of them, with all they need in registers, keep an SM busy.
//
// Jobs rarely divide evenly: 4608 channels are 576, or 4.36 for each of 132 SMs, and those with 5 would end 15% later.
// So a grid may have as many CTAs as suit the chip. Each, a worker, then has an equal share of the jobs' time, and jobs
// are cut where shares meet. Say 5 jobs, their time in quarters 0 to 3, on 4 workers:
//
//     worker 0   [A 0 1 2 3][B 3]
//     worker 1   [B 0 1 2][C 2 3]
//     worker 2   [C 0 1][D 1 2 3]
//     worker 3   [D 0][E 0 1 2 3]     time ->
//
// The early part of a cut job comes first in its worker's share, the late part last in that of the worker before. A
// share is no shorter than a job, so the state in between, handed over through `state`, is there when it is wanted. But
// nothing relies on that: one worker takes a ticket after the early part, the other before the late part, and who is
// second does the late part. So nobody waits for long, whatever CTAs run together and in whatever order.
#include "common.cuh"

constexpr int CHANNELS = 8, STEPS = 8, STATES = 16, MAX_BLOCKS = 4;
// Warps of a CTA; items of a warp under way: one used, one scanned, one prepared, the others arriving.
constexpr int WARPS = 3, SLOTS = 4;
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;
// Times that a worker looks for the early part of a job, a microsecond or less each.
constexpr int PATIENCE = 40;
constexpr float NO_STEP = -1e30f; // softplus of it is 0, whatever the bias

// How steps are kept. Exact: as they are. Fast: in units of ln 2, so that softplus is one log2 and a decay one exp2.
template <typename T> struct Numerics;
template <> struct Numerics<float> {
    static INLINE float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
    static INLINE float input(float dt, float u) { return dt * u; }
    static INLINE float decay(float dt, float a) { return expf(dt * a); }
    static INLINE float gate(float z) { return silu(z); }
};
template <> struct Numerics<bf16_t> {
    static INLINE float softplus(float x) {
        float v = x * LOG2_E, e = ex2_approx(v);
        // Where 1 + e would lose what e has: the series of log(1 + e).
        float small = e * (LOG2_E + e * (-0.5f * LOG2_E + e * (LOG2_E / 3)));
        float y = e < 0.03125f ? small : lg2_approx(1.0f + e);
        return x > 20.0f ? v : y;
    }
    static INLINE float input(float dt, float u) { return dt * (LN_2 * u); }
    static INLINE float decay(float dt, float a) { return ex2_approx(dt * a); }
    static INLINE float gate(float z) { return z * rcp_approx(1.0f + ex2_approx(-LOG2_E * z)); }
};

// What a warp shares among its lanes. `Arrived` is one segment as it comes from memory, 16-byte chunks without gaps.
template <typename T> struct __align__(512 * sizeof(T)) Arrived {
    T u[STEPS][CHANNELS], dt[STEPS][CHANNELS], z[STEPS][CHANNELS], b[STEPS][STATES], c[STEPS][STATES];
};
// What owners made of it, and y on its way back.
template <typename T> struct Prepared {
    static constexpr bool FAST = sizeof(T) == 2;
    float dt[STEPS / 2][CHANNELS][2][2]; // [step / 2][channel][step % 2]: dt, dt u
    float b[FAST ? STEPS : 1][STATES];   // fast mode: as float32
    float own[32][4];                    // D u and the gate of an owner's two channels
    float y[STEPS][FAST ? 10 : 36];      // 8 sums, or 32 partial ones
};

// Something at an offset from something in shared memory.
template <typename To, typename From> INLINE To& at_offset(From& start, int bytes) {
    return *(To*)((char*)&start + bytes);
}

// Segments [begin, end) of a job.
struct Part {
    int job, begin, end;
};

// One part, from the state in memory to the state in memory. BLOCKS: blocks of 16 states, 0: any number.
template <typename T, int BLOCKS>
INLINE void scan_part(Part its, const T* __restrict__ u, const T* __restrict__ dt_raw,
                      const float* __restrict__ dt_bias, const float* __restrict__ a, const T* __restrict__ b,
                      const T* __restrict__ c, int bc_stride, const float* __restrict__ d, const T* __restrict__ z,
                      int z_stride, float* state, T* __restrict__ y, int length, int channels, int states) {
    using Math = Numerics<T>;
    constexpr bool FAST = sizeof(T) == 2;
    // One object, so that there is one address to keep.
    __shared__ struct Shared {
        Arrived<T> arrivals[WARPS][SLOTS];
        Prepared<T> prepared[WARPS][2];
        float handover[WARPS][BLOCKS ? BLOCKS : MAX_BLOCKS][32][4];
        float constant[WARPS][CHANNELS / 2][4]; // dt_bias and D of an owner's two channels
    } object;
    Shared& shared = kept_shared(object);
    // The shuffle tells the compiler that the warp agrees on its number.
    const int warp = __shfl_sync(FULL_WARP, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const int row = lane / 4, quarter = lane % 4;
    const int first = its.job * CHANNELS, blocks = BLOCKS ? BLOCKS : (states + STATES - 1) / STATES;
    const int owned = first + 2 * quarter, scanned = first + row;

    float rate[4]; // A of the 4 states
    auto load_rates = [&](int block) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int n = block * STATES + 4 * quarter + i;
            rate[i] = scanned < channels && n < states ? a[(int64_t)scanned * states + n] : 0.0f;
        }
    };
    if (row < 4) {
        int channel = owned + row % 2;
        const float* of = row < 2 ? dt_bias : d;
        shared.constant[warp][quarter][row] = of && channel < channels ? of[channel] : 0.0f;
    }
    if (BLOCKS == 1) load_rates(0);
    previous_kernel_wait();

    // The state before the first segment and after the last one passes through the same places as between segments.
    auto state_at = [&](int block, int i) {
        int n = block * STATES + 4 * quarter + i;
        return scanned < channels && n < states ? state + ((int64_t)n * channels + scanned) : nullptr;
    };
    if (warp == 0) {
        for (int block = 0; block < blocks; ++block)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float* p = state_at(block, i);
                shared.handover[0][block][lane][i] = p ? __ldcg(p) : 0.0f;
            }
    }

    // Byte offsets by which this lane finds its places. The shuffle, of each lane with itself, keeps the compiler from
    // computing them anew at each use.
    auto held = [&](int x) { return __shfl_sync(FULL_WARP, x, lane); };
    constexpr int SLOT = sizeof(Arrived<T>), PREPARED = sizeof(Prepared<T>);
    constexpr int HANDOVER = sizeof shared.handover[0];
    const int slots = warp * SLOTS * SLOT;
    const int slot_chunk = held(slots + lane * 16), slot_owned = held(slots + lane * 2 * (int)sizeof(T));
    const int slot_states = held(slots + lane * 4 * (int)sizeof(T));
    const int at_lane = held(lane * 16), at_row = held(row * 16), at_quarter = held(quarter * 16);
    const int at_dt = held(row / 2 * 128 + quarter * 32 + row % 2 * 8);
    const int y_write = held(quarter * 80 + row * 4), y_read = held(row * 40 + quarter * 8);
    const int from_before = held(warp * HANDOVER + lane * 16);
    const int to_next = held((warp + 1) % WARPS * HANDOVER + lane * 16);

    // What comes from memory is cut into 16-byte chunks; chunk lane + 32 k is this lane's. Where chunks are whole and
    // aligned, its address goes from segment to segment by a fixed step.
    constexpr int IN_ROW = CHANNELS * sizeof(T) / 16, CHUNKS = 14 * STEPS * IN_ROW / 2, MINE = (CHUNKS + 31) / 32;
    const bool whole = first + CHANNELS <= channels && states % STATES == 0 && is_aligned(u, channels, 16) &&
                       is_aligned(dt_raw, channels, 16) && is_aligned(y, channels, 16) &&
                       (!z || is_aligned(z, z_stride, 16)) && is_aligned(b, bc_stride, 16) &&
                       is_aligned(c, bc_stride, 16);
    const int whole_end = whole ? min(its.end, length / STEPS) : its.begin; // of the segments read in whole chunks
    const char* source[MINE];
    int onward[MINE], sideways[MINE]; // bytes to the warp's next segment, to the next block of states
#pragma unroll
    for (int k = 0; k < MINE; ++k) {
        int chunk = lane + 32 * k;
        const bool of_channels = chunk < 3 * STEPS * IN_ROW;
        int matrix, at, in_row;
        if (of_channels) {
            matrix = chunk / (STEPS * IN_ROW), at = chunk % (STEPS * IN_ROW), in_row = IN_ROW;
            if (matrix == 2 && !z) matrix = 0; // anything that may be read
        } else {
            chunk -= 3 * STEPS * IN_ROW;
            matrix = 3 + chunk / (2 * STEPS * IN_ROW), at = chunk % (2 * STEPS * IN_ROW), in_row = 2 * IN_ROW;
        }
        const T* start = matrix == 0 ? u : matrix == 1 ? dt_raw : matrix == 2 ? z : matrix == 3 ? b : c;
        const int stride = matrix < 2 ? channels : matrix == 2 ? z_stride : bc_stride;
        int64_t t = (its.begin + warp) * STEPS + at / in_row;
        source[k] = (const char*)(start + (t * stride + (of_channels ? first : 0))) + at % in_row * 16;
        onward[k] = stride * (int)(WARPS * STEPS * sizeof(T));
        sideways[k] = of_channels ? 0 : STATES * sizeof(T);
    }
    auto fetch = [&](int slot, int segment, int block) {
        if (segment < whole_end) {
#pragma unroll
            for (int k = 0; k < MINE; ++k) {
                if (32 * (k + 1) <= CHUNKS || lane + 32 * k < CHUNKS)
                    copy_async16(&at_offset<char>(shared.arrivals, slot_chunk + slot + 512 * k), source[k]);
                if (BLOCKS == 1) source[k] += onward[k];
                else source[k] += block + 1 < blocks ? sideways[k] : onward[k] - block * sideways[k];
            }
        } else if (segment < its.end) {
            Arrived<T>& to = at_offset<Arrived<T>>(shared.arrivals[warp], slot);
            const int t = segment * STEPS + row, n = block * STATES + 4 * quarter;
            const int valid = t < length ? channels - owned : 0, valid_n = t < length ? states - n : 0;
            const int64_t at = (int64_t)t * channels + owned, at_z = (int64_t)t * z_stride + owned;
            const int64_t at_bc = (int64_t)t * bc_stride + n;
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                to.u[row][2 * quarter + j] = j < valid ? u[at + j] : T(0);
                // A step of 0 leaves the state as it is.
                store(&to.dt[row][2 * quarter + j],
                      t >= length ? NO_STEP : j < valid ? load(dt_raw + at + j) : 0.0f);
                if (z) to.z[row][2 * quarter + j] = j < valid ? z[at_z + j] : T(0);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                to.b[row][4 * quarter + i] = i < valid_n ? b[at_bc + i] : T(0);
                to.c[row][4 * quarter + i] = i < valid_n ? c[at_bc + i] : T(0);
            }
        }
        copy_async_commit();
    };

    // A turn of the loop is about several items, each a block of states in a segment: the present one gets its state,
    // the next its decays, the one after is prepared, one far ahead fetched. So nothing waits for what was just begun;
    // and the compiler cannot move decays behind the wait for the state.
    struct Item {
        int segment, block;
    };
    auto after = [&](Item i) {
        if (BLOCKS == 1) return Item{i.segment + WARPS, 0};
        return i.block + 1 < blocks ? Item{i.segment, i.block + 1} : Item{i.segment + WARPS, 0};
    };
    Item coming = {its.begin + warp, 0};
    Item item = BLOCKS == 1 || blocks == 1 ? Item{coming.segment - 2 * WARPS, 0}
                                           : Item{coming.segment - WARPS, blocks - 2};
    int slot = (SLOTS - 2) * SLOT, part = 0; // of the present item: arrived, prepared
#pragma unroll
    for (int i = 0; i < SLOTS - 3; ++i, coming = after(coming)) fetch(i * SLOT, coming.segment, coming.block);
    T* out_at = y + ((int64_t)((its.begin + warp) * STEPS + row) * channels + owned);
    float decays[STEPS][4], x[STEPS][4]; // x: the inputs, then the states after them
    float sum[STEPS];                    // exact mode: of this lane's states
    float products[STEPS / 2][4];        // fast mode: of all states, of which a part is of use

    auto slot_on = [&](int items) {
        int to = slot + items * SLOT;
        return to < SLOTS * SLOT ? to : to - SLOTS * SLOT;
    };
    for (; item.segment < its.end; item = after(item), slot = slot_on(1), part ^= PREPARED) {
        const Item next = after(item), later = after(next);
        const bool outputs = item.segment >= its.begin && (BLOCKS == 1 || item.block + 1 == blocks);
        auto prepared = [&](int part) -> Prepared<T>& {
            return at_offset<Prepared<T>>(shared.prepared[warp][0], part);
        };
        if (item.segment >= its.begin) {
            const int block = item.block;
            // The ring: `handover[w][block]` brings warp w its state. Its last reader is done before it is written
            // again, since the state comes around through that reader. Barriers have constant numbers if they can: the
            // chip has 64 for all CTAs of an SM. Number 0 is __syncthreads.
            if (item.segment > its.begin) {
                if (BLOCKS == 1) {
#pragma unroll
                    for (int w = 0; w < WARPS; ++w)
                        if (warp == w) barrier_sync(1 + w, 64);
                } else {
                    barrier_sync(1 + block * WARPS + warp, 64);
                }
            }
            float4 before = at_offset<const float4>(shared.handover, from_before + block * 512);
            float h[4] = {before.x, before.y, before.z, before.w};
#pragma unroll
            for (int s = 0; s < STEPS; ++s)
#pragma unroll
                for (int i = 0; i < 4; ++i) h[i] = x[s][i] = decays[s][i] * h[i] + x[s][i];
            at_offset<float4>(shared.handover, to_next + block * 512) = make_float4(h[0], h[1], h[2], h[3]);
            if (item.segment + 1 < its.end) {
                if (BLOCKS == 1) {
#pragma unroll
                    for (int w = 0; w < WARPS; ++w)
                        if (warp == w) barrier_arrive(1 + (w + 1) % WARPS, 64);
                } else {
                    barrier_arrive(1 + block * WARPS + (warp + 1) % WARPS, 64);
                }
            }

            if (BLOCKS == 1 || block == 0) {
#pragma unroll
                for (int s = 0; s < STEPS; ++s) sum[s] = 0.0f;
#pragma unroll
                for (int p = 0; p < STEPS / 2; ++p)
#pragma unroll
                    for (int i = 0; i < 4; ++i) products[p][i] = 0.0f;
            }
            if constexpr (FAST) {
                // Sums over states by the tensor cores: rows are the channels at step 2 p, then those at step 2 p + 1;
                // columns are the C of the 8 steps. Two columns of 8 are of use: those of these two steps.
                Packed<T, 4> of_c;
                of_c.load_whole(&at_offset<T>(shared.arrivals[0][0].c, slot_states + slot));
#pragma unroll
                for (int p = 0; p < STEPS / 2; ++p)
#pragma unroll
                    for (int i = 0; i < 4; i += 2) {
                        const float rows[4] = {x[2 * p][i], x[2 * p + 1][i], x[2 * p][i + 1], x[2 * p + 1][i + 1]};
                        mma_tf32(products[p], rows, of_c[i], of_c[i + 1]);
                    }
            } else {
#pragma unroll
                for (int s = 0; s < STEPS; ++s) {
                    float v[4];
                    load_vector(v, &at_offset<T>(shared.arrivals[warp][0].c[s], slot + at_quarter));
                    sum[s] += (x[s][0] * v[0] + x[s][1] * v[1]) + (x[s][2] * v[2] + x[s][3] * v[3]);
                }
            }
            if (outputs) {
                if constexpr (FAST) {
                    // This lane's product p = quarter: [0] is its channel at step 2 p, [3] at step 2 p + 1.
                    float even = products[0][0], odd = products[0][3];
#pragma unroll
                    for (int p = 1; p < STEPS / 2; ++p) {
                        even = quarter == p ? products[p][0] : even;
                        odd = quarter == p ? products[p][3] : odd;
                    }
                    at_offset<float>(prepared(part).y[0], y_write) = even;
                    at_offset<float>(prepared(part).y[1], y_write) = odd;
                } else {
#pragma unroll
                    for (int s = 0; s < STEPS; ++s) prepared(part).y[s][lane] = sum[s];
                }
            }
        }

        // The one meeting of the warp in a turn: y is there, `later` has arrived, `next` is prepared.
        copy_async_wait<SLOTS - 4>();
        __syncwarp();
        fetch(slot_on(SLOTS - 1), coming.segment, coming.block);
        coming = after(coming);

        // What is needed of the present item before the one after next takes its place.
        float out[2];
        if constexpr (FAST) {
            float2 v = at_offset<const float2>(prepared(part).y[0], y_read);
            out[0] = v.x, out[1] = v.y;
        } else {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                float4 v = *(const float4*)&prepared(part).y[row][8 * quarter + 4 * j];
                out[j] = (v.x + v.y) + (v.z + v.w);
            }
        }
        const float4 own = at_offset<const float4>(prepared(part).own, at_lane);

        // Without conditions, so that all of this is scheduled together: what does not exist is computed from anything
        // and not used.
        {
            if (BLOCKS != 1) load_rates(next.block);
#pragma unroll
            for (int s = 0; s < STEPS; s += 2) {
                auto& from = prepared(part ^ PREPARED);
                float4 two = at_offset<const float4>(from.dt[s / 2], at_row);
                const float dt[2] = {two.x, two.z}, dt_u[2] = {two.y, two.w};
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    float v[4];
                    if constexpr (FAST) load_vector(v, &at_offset<float>(from.b[s + j], at_quarter));
                    else load_vector(v, &at_offset<T>(shared.arrivals[warp][0].b[s + j], slot_on(1) + at_quarter));
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        decays[s + j][i] = Math::decay(dt[j], rate[i]);
                        x[s + j][i] = dt_u[j] * v[i];
                    }
                }
            }
        }

        const float4 constant = at_offset<const float4>(shared.constant[warp], at_quarter);
        const int from = slot_on(2);
        auto& to = prepared(part);
        auto& arrived = shared.arrivals[0][0];
        Packed<T, 2> of_u, of_dt, of_z;
        of_u.load_whole(&at_offset<T>(arrived.u, slot_owned + from));
        of_dt.load_whole(&at_offset<T>(arrived.dt, slot_owned + from));
        if (z) of_z.load_whole(&at_offset<T>(arrived.z, slot_owned + from));
        const float dt[2] = {Math::softplus(of_dt[0] + constant.x), Math::softplus(of_dt[1] + constant.y)};
        at_offset<float4>(to.own, at_lane) = make_float4(constant.z * of_u[0], constant.w * of_u[1],
                                                         z ? Math::gate(of_z[0]) : 1.0f,
                                                         z ? Math::gate(of_z[1]) : 1.0f);
#pragma unroll
        for (int j = 0; j < 2; ++j)
            at_offset<float2>(to.dt[0][j], at_dt) = make_float2(dt[j], Math::input(dt[j], of_u[j]));
        if constexpr (FAST) {
            float v[4];
            load_vector(v, &at_offset<T>(arrived.b, slot_states + from));
            store_vector(&at_offset<float>(to.b, at_lane), v);
        }

        if (outputs) {
            const float y0 = (out[0] + own.x) * own.z, y1 = (out[1] + own.y) * own.w;
            if (item.segment < whole_end) {
                if constexpr (FAST) *(uint32_t*)out_at = pack_bf16x2(y0, y1);
                else *(float2*)out_at = make_float2(y0, y1);
            } else if (item.segment * STEPS + row < length) {
                if (owned < channels) store(out_at, y0);
                if (owned + 1 < channels) store(out_at + 1, y1);
            }
            out_at += (int64_t)channels * (WARPS * STEPS);
        }
    }
    if (warp == (its.end - its.begin - 1) % WARPS) {
        for (int block = 0; block < blocks; ++block)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (float* p = state_at(block, i)) *p = shared.handover[(warp + 1) % WARPS][block][lane][i];
    }
}

// Whether the other worker of this cut was here before: then what it wrote before its last barrier is visible here.
INLINE bool arrives_second(uint32_t* ticket) { return take_ticket(ticket, 1) == 1; }

// Puts the part of its share that comes after `*part` into it, an empty one after the last; the first one where `first` says so. Not
// inlined: what it computes with shall not have its registers in the loop over segments.
NOT_INLINE void plan(Part* part, bool first, int jobs, int segments, uint32_t* tickets) {
    const int workers = gridDim.x, worker = blockIdx.x;
    // The workers before w have these jobs, and the `late` last segments of the next one, whose ticket is number w.
    struct Border {
        int jobs, late;
    };
    auto border = [&](int w) {
        if (workers == jobs) return Border{w, 0};
        const float before = (float)jobs * ((float)w / (float)workers);
        return Border{(int)before, (int)((before - (float)(int)before) * (float)segments)};
    };
    if (first) {
        const Border left = border(worker);
        *part = {left.jobs, 0, segments - left.late};
        return;
    }
    const Border right = border(worker + 1);
    const Part done = *part;
    *part = {};
    if (done.job == right.jobs) return;
    if (done.end < segments && arrives_second(tickets + worker)) {
        *part = {done.job, done.end, segments};
    } else if (done.job + 1 < right.jobs) {
        *part = {done.job + 1, 0, segments};
    } else if (right.late > 0) {
        // Worth a little patience: what is left to the other keeps it from the rest of its share.
        for (int i = 0; i < PATIENCE && __ldcg(tickets + worker + 1) == 0; ++i) nap(200);
        if (arrives_second(tickets + worker + 1)) *part = {right.jobs, segments - right.late, segments};
    }
}

// A worker's share, part by part.
template <typename T, int BLOCKS>
INLINE void scan(const T* u, const T* dt_raw, const float* dt_bias, const float* a, const T* b, const T* c,
                 int bc_stride, const float* d, const T* z, int z_stride, float* state, T* y, uint32_t* tickets,
                 int length, int channels, int states) {
    const int jobs = (channels + CHANNELS - 1) / CHANNELS, segments = (length + STEPS - 1) / STEPS;
    __shared__ Part part;
    for (bool first = true;; first = false) {
        // One thread plans, while no part is under way.
        if (threadIdx.x == 0) plan(&part, first, jobs, segments, tickets);
        __syncthreads();
        // The shuffles tell the compiler that the warp agrees.
        const Part now = {__shfl_sync(FULL_WARP, part.job, 0), __shfl_sync(FULL_WARP, part.begin, 0),
                          __shfl_sync(FULL_WARP, part.end, 0)};
        if (now.begin == now.end) break;
        scan_part<T, BLOCKS>(now, u, dt_raw, dt_bias, a, b, c, bc_stride, d, z, z_stride, state, y, length, channels,
                             states);
        __syncthreads();
    }
    next_kernel_start();
}

#define SCAN(name, T, BLOCKS, CTAS)                                                                                    \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, CTAS)                                                     \
    name(const T* u, const T* dt_raw, const float* dt_bias, const float* a, const T* b, const T* c, int bc_stride,     \
         const float* d, const T* z, int z_stride, float* state, T* y, uint32_t* tickets, int length, int channels,    \
         int states) {                                                                                                 \
        scan<T, BLOCKS>(u, dt_raw, dt_bias, a, b, c, bc_stride, d, z, z_stride, state, y, tickets, length, channels,   \
                        states);                                                                                       \
    }
SCAN(scan_f32, float, 1, 4)
SCAN(scan_bf16, bf16_t, 1, 5)
SCAN(scan_wide_f32, float, 0, 4)
SCAN(scan_wide_bf16, bf16_t, 0, 4)
