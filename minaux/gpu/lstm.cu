/* The LSTM of lstm.py on the GPU; kernels.py loads it. The equations, once more:

       z[t] = Wh h[t-1] + zx[t] + b          zx[t] = Wx x[t], made beforehand for many steps in one product
       i, f, o = sigma(z_i), sigma(z_f), sigma(z_o);  g = tanh(z_g)
       c[t] = f * c[t-1] + i * g
       h[t] = o * tanh(c[t])

   Arrays are [step, sequence, row], so that one sequence's numbers of a step lie together; the rows of gates
   stand in the order i, f, g, o. Arrays that may be absent are null.

     lstm_forward, lstm_backward   a whole window of steps in one launch, for 128 units in float32
     decode                        the same for r's decoder where it reads its own outputs: both layers, and
                                   the head
     cell_forward, cell_backward   one step's elementwise part, for other widths and float64; the products
                                   are then left to cuBLAS

   In the first three a block runs its sequence (decode: its two) from the first step to the last. Sequences
   do not depend on each other, so no block waits for another.
*/

#ifdef __CUDACC__
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif
#ifndef REAL
#define REAL float
#endif

constexpr int H = 128;
constexpr unsigned WARP = 0xffffffff;

struct Gates {
    float i, f, g, o;
};

__device__ inline float add_product(float sum, float4 a, float4 b) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/* Of the sums over a group of lanes, each lane wants some only. One exchange with the lane whose number differs
   in `bit`: the upper of the two ends with the upper half of both lanes' sums[2 n], the other with the lower. */
template <int n> __device__ inline void halve(float *sums, int bit) {
    const bool upper = threadIdx.x & bit;
#pragma unroll
    for (int j = 0; j < n; j++) {
        float mine = upper ? sums[n + j] : sums[j], other = upper ? sums[j] : sums[n + j];
        sums[j] = mine + __shfl_xor_sync(WARP, other, bit);
    }
}

/* Wh has 65,536 numbers, 256 for each of 256 threads, in 8 groups of 8 float4. Six of a group stay in the thread's
   registers, of which it has 255, and two in shared memory, where each thread has its own. */
constexpr int THREADS = 256, GROUPS = 8, IN_REGISTERS = 6;

__device__ inline float4 &in_shared(float4 *W_shared, int k, int r) {
    return W_shared[(k * (8 - IN_REGISTERS) + r - IN_REGISTERS) * THREADS + threadIdx.x];
}

/* Steps 0 ... S-1 of N sequences, a block each. From slot 0 of h, c [., N, H]; to slots 1 ... S with all gates
   [S, N, 4H], or if gates is null to slot 0 alone, the last step's. zx [S, N, 4H], b [4H], mask [S, N] or null. */
extern "C" __global__ void __launch_bounds__(THREADS, 1)
lstm_forward(int S, int N, const float *zx, const float *Wh, const float *b, const float *mask, float *h, float *c,
             float *gates) {
    DYNAMIC_SHARED(float4, W_shared);  // [GROUPS][8 - IN_REGISTERS][THREADS], see in_shared
    __shared__ float4 h_shared[2][H / 4];  // of this step and of the next
    // Four lanes share two units: a lane has a quarter of the columns of their eight rows, four columns in every
    // 16, and ends up with one gate of both units, and then with all gates of one unit.
    const int n = blockIdx.x, lane = threadIdx.x % 4, units = threadIdx.x / 4 * 2, unit = units + lane % 2;
    const bool upper = lane & 2, odd = lane & 1;
    float4 W[GROUPS][IN_REGISTERS];
#pragma unroll
    for (int k = 0; k < GROUPS; k++)
#pragma unroll
        for (int r = 0; r < 8; r++) {  // i, i, f, f, g, g, o, o of the two units
            float4 w = *(const float4 *)&Wh[(r / 2 * H + units + r % 2) * H + 16 * k + 4 * lane];
            if (r < IN_REGISTERS) W[k][r] = w;
            else in_shared(W_shared, k, r) = w;
        }
    const int row = lane * H + units;  // in z: this lane's gate of the first of the two units
    const float b0 = b[row], b1 = b[row + 1], half = lane == 2 ? 1 : 0.5f;  // sigma(z) = 1/2 + 1/2 tanh(z/2)
    float c_t = c[(size_t)n * H + unit];
    if (!upper) ((float *)h_shared[0])[unit] = h[(size_t)n * H + unit];
    float2 zx_next = S ? *(const float2 *)&zx[(size_t)n * 4 * H + row] : float2{};
    __syncthreads();

    for (int t = 0; t < S; t++) {
        const size_t here = (size_t)t * N + n;
        float2 zx_t = zx_next;
        if (t + 1 < S) zx_next = *(const float2 *)&zx[(here + N) * 4 * H + row];
        const float keep = mask ? mask[here] : 1;
        float z[8] = {};  // Wh h
#pragma unroll
        for (int k = 0; k < GROUPS; k++) {
            float4 h_k = h_shared[t % 2][4 * k + lane];
#pragma unroll
            for (int r = 0; r < 8; r++) {
                float4 w = r < IN_REGISTERS ? W[k][r % IN_REGISTERS] : in_shared(W_shared, k, r);
                z[r] = add_product(z[r], w, h_k);
            }
        }
        halve<4>(z, 2);
        halve<2>(z, 1);
        float2 a = {tanh(half * (z[0] + zx_t.x + b0)) * half + (1 - half),
                    tanh(half * (z[1] + zx_t.y + b1)) * half + (1 - half)};
        if (gates) *(float2 *)&gates[here * 4 * H + row] = a;
        float mine = odd ? a.y : a.x, other = __shfl_xor_sync(WARP, odd ? a.x : a.y, 1);  // of one unit from here on
        float low = odd ? other : mine, high = odd ? mine : other;  // i, f in the lower two lanes; g, o
        float low2 = __shfl_xor_sync(WARP, low, 2), high2 = __shfl_xor_sync(WARP, high, 2);
        Gates gate = upper ? Gates{low2, high2, low, high} : Gates{low, high, low2, high2};
        c_t = gate.f * c_t + gate.i * gate.g;
        float h_t = gate.o * tanh(c_t);
        c_t *= keep;
        h_t *= keep;
        const size_t slot = gates ? here + N : n;
        if (upper) c[slot * H + unit] = c_t;
        else h[slot * H + unit] = ((float *)h_shared[(t + 1) % 2])[unit] = h_t;
        __syncthreads();
    }
}

/* Back through steps S-1 ... 0. WhT [H, 4H] is Wh transposed; gates [S, N, 4H], c [S+1, N, H], mask [S, N] or null;
   dh [S, N, H] or null: what enters each h[t] from outside. dh_t, dc_t [N, H] hold what enters the last state, in
   the end what leaves the first. dz [S, N, 4H] is written. */
extern "C" __global__ void __launch_bounds__(THREADS, 1)
lstm_backward(int S, int N, const float *WhT, const float *gates, const float *c, const float *mask, const float *dh,
              float *dh_t, float *dc_t, float *dz) {
    DYNAMIC_SHARED(float4, W_shared);  // [GROUPS][8 - IN_REGISTERS][THREADS], see in_shared
    __shared__ float4 dz_shared[2][H];  // of this step and of the one before
    // Sixteen lanes share eight units, columns of Wh: a lane has a sixteenth of their rows, four in every 64, and
    // ends up with the sum for one unit. Two lanes with the same unit do the same elementwise work.
    const int n = blockIdx.x, lane = threadIdx.x % 16, units = threadIdx.x / 16 * 8, unit = units + lane / 2;
    float4 W[GROUPS][IN_REGISTERS];
#pragma unroll
    for (int k = 0; k < GROUPS; k++)
#pragma unroll
        for (int u = 0; u < 8; u++) {
            float4 column = *(const float4 *)&WhT[(units + u) * 4 * H + 64 * k + 4 * lane];
            if (u < IN_REGISTERS) W[k][u] = column;
            else in_shared(W_shared, k, u) = column;
        }
    float dh_sum = dh_t[(size_t)n * H + unit], dc = dc_t[(size_t)n * H + unit];
    Gates next = {};
    float c_t = 0, c_next = 0, dh_next = 0, keep_next = 1;
    auto load = [&](int t) {  // a step ahead
        const size_t here = (size_t)t * N + n;
        const float *gate = &gates[here * 4 * H + unit];
        next = {gate[0], gate[H], gate[2 * H], gate[3 * H]};
        c_next = c[here * H + unit];
        dh_next = dh ? dh[here * H + unit] : 0;
        if (mask) keep_next = mask[here];
    };
    if (S) {
        c_t = c[((size_t)S * N + n) * H + unit];
        load(S - 1);
    }

    for (int t = S - 1; t >= 0; t--) {
        const size_t here = (size_t)t * N + n;
        const Gates gate = next;
        const float c_before = c_next;
        dh_sum = (dh_sum + dh_next) * keep_next;  // h, c = mask * h, mask * c
        dc *= keep_next;
        if (t) load(t - 1);
        const float tanh_c = tanh(c_t);
        dc += dh_sum * gate.o * (1 - tanh_c * tanh_c);  // h[t] = o * tanh(c[t])
        float dz_i = dc * gate.g * gate.i * (1 - gate.i);  // c[t] = f * c[t-1] + i * g
        float dz_f = dc * c_before * gate.f * (1 - gate.f);
        float dz_g = dc * gate.i * (1 - gate.g * gate.g);
        float dz_o = dh_sum * tanh_c * gate.o * (1 - gate.o);
        dc *= gate.f;
        c_t = c_before;
        const int row = lane % 2 * 2 * H + unit;  // the even lane writes dz_i and dz_f, the odd one dz_g and dz_o
        float first = lane % 2 ? dz_g : dz_i, second = lane % 2 ? dz_o : dz_f;
        float *to = (float *)dz_shared[t % 2];
        dz[here * 4 * H + row] = to[row] = first;
        dz[here * 4 * H + row + H] = to[row + H] = second;
        __syncthreads();

        float sums[8] = {};  // z[t] = Wh h[t-1] + ...: dh[t-1] = Wh^T dz
#pragma unroll
        for (int k = 0; k < GROUPS; k++) {
            float4 dz_k = dz_shared[t % 2][16 * k + lane];
#pragma unroll
            for (int u = 0; u < 8; u++) {
                float4 w = u < IN_REGISTERS ? W[k][u % IN_REGISTERS] : in_shared(W_shared, k, u);
                sums[u] = add_product(sums[u], w, dz_k);
            }
        }
        halve<4>(sums, 8);
        halve<2>(sums, 4);
        halve<1>(sums, 2);
        dh_sum = sums[0] + __shfl_xor_sync(WARP, sums[0], 1);
    }
    if (lane % 2 == 0) {
        dh_t[(size_t)n * H + unit] = dh_sum;
        dc_t[(size_t)n * H + unit] = dc;
    }
}

/* r's decoder, reading its own outputs. Weights are transposed, [columns, rows], and far too many for one
   multiprocessor: they come from the L2 cache at every step, for two sequences together. */
constexpr int DECODERS = 2, HEAD = 2 * H;

/* sums[s] += the sum over columns k of W[k, row] v[k][s]. */
__device__ inline void add_products(float *sums, const float *__restrict__ W, int rows, int row,
                                    const float (*v)[DECODERS], int columns) {
#pragma unroll 16
    for (int k = 0; k < columns; k++) {
        float w = W[(size_t)k * rows + row];
        for (int s = 0; s < DECODERS; s++) sums[s] = fmaf(w, v[k][s], sums[s]);
    }
}

/* The equations from z to c[t] and h[t], for one unit; `gates` has room for its four. */
__device__ inline float cell(const float (*z)[DECODERS], int unit, int s, float &c_t, float *gates) {
    auto sigmoid = [](float z) { return 0.5f + 0.5f * tanh(0.5f * z); };
    Gates gate = {sigmoid(z[unit][s]), sigmoid(z[H + unit][s]), tanh(z[2 * H + unit][s]),
                  sigmoid(z[3 * H + unit][s])};
    gates[0] = gate.i, gates[H] = gate.f, gates[2 * H] = gate.g, gates[3 * H] = gate.o;
    c_t = gate.f * c_t + gate.i * gate.g;
    return gate.o * tanh(c_t);
}

/* S steps. truth_x [S, N, D] and truth [S, N] say what is fed where; own [N, D] is fed at step 0 where truth is
   not, and in the end has the last outputs. fed, y [S, N, D]; h, c, gates of either layer as in lstm_forward;
   relu1, relu2 [S, N, 2H] the head's hidden layers. bottom's Wx [D, 4H], Wh [H, 4H]; top's Wh over Wx [2H, 4H];
   the head's W1 [H, 2H], W2 [2H, 2H] transposed, W3 [D, 2H] not. */
extern "C" __global__ void __launch_bounds__(4 * H, 1)
decode(int S, int N, int D, const float *truth_x, const bool *truth, float *own, float *fed,
       const float *Wx1, const float *Wh1, const float *b1, float *h1, float *c1, float *gates1,
       const float *W2, const float *b2, float *h2, float *c2, float *gates2,
       const float *HW1, const float *hb1, float *relu1, const float *HW2, const float *hb2, float *relu2,
       const float *HW3, const float *hb3, float *y) {
    DYNAMIC_SHARED(float, x_shared);  // [D][DECODERS] what is fed
    __shared__ float h_shared[2 * H][DECODERS];  // of top, and of bottom below it, as W2's columns
    __shared__ float z[4 * H][DECODERS], a1[HEAD][DECODERS], a2[HEAD][DECODERS];
    const int first = blockIdx.x * DECODERS, i = threadIdx.x;
    const int unit = i % H, s_cell = i / H, half = i / HEAD, head_row = i % HEAD;
    const bool runs_cell = s_cell < DECODERS && first + s_cell < N;
    float c1_t = 0, c2_t = 0;
    for (int j = i; j < 2 * H * DECODERS; j += 4 * H) ((float *)h_shared)[j] = 0;
    __syncthreads();
    if (runs_cell) {
        const size_t slot = (size_t)(first + s_cell) * H + unit;
        c1_t = c1[slot], c2_t = c2[slot];
        h_shared[unit][s_cell] = h2[slot], h_shared[H + unit][s_cell] = h1[slot];
    }
    for (int j = i; j < D * DECODERS; j += 4 * H) x_shared[j] = 0;

    for (int t = 0; t < S; t++) {
        const size_t here = (size_t)t * N + first;
        for (int j = i; j < D * DECODERS; j += 4 * H) {
            const int d = j / DECODERS, s = j % DECODERS;
            if (first + s < N) {
                float *output = &own[(size_t)(first + s) * D + d];
                fed[(here + s) * D + d] = x_shared[j] = truth[here + s] ? truth_x[(here + s) * D + d] : *output;
            }
        }
        __syncthreads();
        {   // bottom
            float sums[DECODERS] = {};
            for (int s = 0; s < DECODERS; s++) sums[s] = b1[i];
            add_products(sums, Wx1, 4 * H, i, (const float (*)[DECODERS])x_shared, D);
            add_products(sums, Wh1, 4 * H, i, &h_shared[H], H);
            for (int s = 0; s < DECODERS; s++) z[i][s] = sums[s];
        }
        __syncthreads();
        if (runs_cell) {
            const size_t at = here + s_cell;
            float h_t = cell(z, unit, s_cell, c1_t, &gates1[at * 4 * H + unit]);
            h_shared[H + unit][s_cell] = h1[(at + N) * H + unit] = h_t;
            c1[(at + N) * H + unit] = c1_t;
        }
        __syncthreads();
        {   // top
            float sums[DECODERS] = {};
            for (int s = 0; s < DECODERS; s++) sums[s] = b2[i];
            add_products(sums, W2, 4 * H, i, h_shared, 2 * H);
            for (int s = 0; s < DECODERS; s++) z[i][s] = sums[s];
        }
        __syncthreads();
        if (runs_cell) {
            const size_t at = here + s_cell;
            float h_t = cell(z, unit, s_cell, c2_t, &gates2[at * 4 * H + unit]);
            h_shared[unit][s_cell] = h2[(at + N) * H + unit] = h_t;
            c2[(at + N) * H + unit] = c2_t;
        }
        __syncthreads();
        // The head: two threads share a row of its hidden layers.
        for (int layer = 1; layer <= 2; layer++) {
            const int columns = (layer == 1 ? H : HEAD) / 2;
            const float (*inputs)[DECODERS] = layer == 1 ? h_shared : a1;
            float sums[DECODERS] = {};
            add_products(sums, (layer == 1 ? HW1 : HW2) + (size_t)half * columns * HEAD, HEAD, head_row,
                         inputs + half * columns, columns);
            if (half) for (int s = 0; s < DECODERS; s++) z[head_row][s] = sums[s];
            __syncthreads();
            if (!half) for (int s = 0; s < DECODERS; s++) {
                float relu = fmaxf(sums[s] + z[head_row][s] + (layer == 1 ? hb1 : hb2)[head_row], 0);
                (layer == 1 ? a1 : a2)[head_row][s] = relu;
                if (first + s < N) (layer == 1 ? relu1 : relu2)[(here + s) * HEAD + head_row] = relu;
            }
            __syncthreads();
        }
        for (int j = i / 32; j < D * DECODERS; j += 4 * H / 32) {  // a warp for each output
            const int d = j / DECODERS, s = j % DECODERS;
            float sum = 0;
            for (int k = i % 32; k < HEAD; k += 32) sum = fmaf(HW3[(size_t)d * HEAD + k], a2[k][s], sum);
            for (int bit = 16; bit; bit /= 2) sum += __shfl_xor_sync(WARP, sum, bit);
            if (i % 32 == 0 && first + s < N) {
                own[(size_t)(first + s) * D + d] = y[(here + s) * D + d] = sum + hb3[d];
            }
        }
        __syncthreads();
    }
}

/* One step's elementwise part, for H units (here any number) of N sequences, a thread each: z [N, 4H] is Wh h[t-1],
   zx [N, 4H] and b [4H] are added; mask [N] or null. gates [N, 4H] or null. c, h [N, H]. */
extern "C" __global__ void
cell_forward(int N, int H, const REAL *z, const REAL *zx, const REAL *b, const REAL *mask, const REAL *c_before,
             REAL *h, REAL *c, REAL *gates) {
    const size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int n = at / H, unit = at % H;
    if (n >= N) return;
    REAL gate[4];
    for (int k = 0; k < 4; k++) {
        const size_t row = ((size_t)n * 4 + k) * H + unit;
        REAL z_k = z[row] + zx[row] + b[k * H + unit];
        gate[k] = k == 2 ? tanh(z_k) : (REAL)0.5 + (REAL)0.5 * tanh((REAL)0.5 * z_k);
        if (gates) gates[row] = gate[k];
    }
    const REAL keep = mask ? mask[n] : 1, c_t = gate[1] * c_before[at] + gate[0] * gate[2];
    c[at] = keep * c_t;
    h[at] = keep * (gate[3] * tanh(c_t));
}

/* Its reverse: from dh_t, dh (or null) and dc [N, H] to dz [N, 4H] and, in place, dc of the step before. */
extern "C" __global__ void
cell_backward(int N, int H, const REAL *gates, const REAL *c_before, const REAL *c, const REAL *mask,
              const REAL *dh_t, const REAL *dh, REAL *dc, REAL *dz) {
    const size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int n = at / H, unit = at % H;
    if (n >= N) return;
    const REAL *gate = &gates[(size_t)n * 4 * H + unit];
    const REAL i = gate[0], f = gate[H], g = gate[2 * H], o = gate[3 * H], tanh_c = tanh(c[at]);
    const REAL keep = mask ? mask[n] : 1, dh_sum = keep * (dh_t[at] + (dh ? dh[at] : 0));
    const REAL dc_t = keep * dc[at] + dh_sum * o * (1 - tanh_c * tanh_c);
    REAL *to = &dz[(size_t)n * 4 * H + unit];
    to[0] = dc_t * g * i * (1 - i);
    to[H] = dc_t * c_before[at] * f * (1 - f);
    to[2 * H] = dc_t * i * (1 - g * g);
    to[3 * H] = dh_sum * tanh_c * o * (1 - o);
    dc[at] = dc_t * f;
}
