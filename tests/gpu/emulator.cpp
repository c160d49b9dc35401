// CUDA on one processor: compiles minaux/gpu/lstm.cu as C++, and runs its kernels with every thread of a block as a
// coroutine that waits at barriers and shuffles. The order in which waiting threads go on is drawn from a seed,
// so that a barrier that is missing shows in the results. Blocks run one after the other.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <tuple>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __restrict__
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(type, name) type *name = (type *)block.dynamic_shared.data()
#define threadIdx (block.thread->index)
#define blockIdx (block.index)
#define blockDim (block.dimension)

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct Index { unsigned x; };
using std::tanh;

enum State { READY, AT_BARRIER, AT_SHUFFLE, DONE };
struct Thread {
    Index index;
    State state = READY;
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(32 * 1024);
    float shuffled[2];  // by turns: this shuffle's value is read while the next one's is written
    int turn = 0;
};
static struct Block {
    Index index, dimension;
    std::vector<float4> dynamic_shared;
    std::vector<Thread> threads;
    Thread *thread;  // the one that runs
    ucontext_t scheduler;
    std::function<void()> kernel;
} block;

static void wait(State state) {
    Thread *thread = block.thread;
    thread->state = state;
    swapcontext(&thread->context, &block.scheduler);
}

static void __syncthreads() { wait(AT_BARRIER); }

static float __shfl_xor_sync(unsigned, float value, int bit) {
    Thread *thread = block.thread;
    const int turn = thread->turn ^= 1;
    thread->shuffled[turn] = value;
    wait(AT_SHUFFLE);
    return block.threads[thread->index.x ^ bit].shuffled[turn];
}

static void run_thread() {
    block.kernel();
    wait(DONE);
}

// One block. Returns false if its threads wait for each other for ever.
static bool run_block(unsigned threads, std::mt19937 &random) {
    block.threads.resize(threads);
    std::vector<Thread *> order;
    for (unsigned i = 0; i < threads; i++) {
        Thread &thread = block.threads[i];
        thread.index.x = i;
        thread.state = READY;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        makecontext(&thread.context, run_thread, 0);
        order.push_back(&thread);
    }
    for (;;) {
        std::shuffle(order.begin(), order.end(), random);
        for (Thread *thread : order)
            if (thread->state == READY) {
                block.thread = thread;
                swapcontext(&block.scheduler, &thread->context);
            }
        auto all = [&](unsigned from, unsigned to, State state) {
            for (unsigned i = from; i < to; i++)
                if (block.threads[i].state != state) return false;
            return true;
        };
        auto release = [&](unsigned from, unsigned to) {
            for (unsigned i = from; i < to; i++) block.threads[i].state = READY;
        };
        if (all(0, threads, DONE)) return true;
        bool released = all(0, threads, AT_BARRIER);
        if (released) release(0, threads);
        for (unsigned warp = 0; warp < threads; warp += 32)
            if (all(warp, std::min(warp + 32, threads), AT_SHUFFLE)) {
                release(warp, std::min(warp + 32, threads));
                released = true;
            }
        if (!released) return false;
    }
}

template <class... Parameters, size_t... I>
static bool launch(void (*kernel)(Parameters...), void **args, std::index_sequence<I...>, unsigned blocks,
                   unsigned threads, unsigned shared, unsigned seed) {
    std::mt19937 random(seed);
    block.kernel = [=] { kernel(*(Parameters *)args[I]...); };
    block.dimension.x = threads;
    for (unsigned i = 0; i < blocks; i++) {
        block.index.x = i;
        block.dynamic_shared.assign((shared + 15) / 16, {NAN, NAN, NAN, NAN});
        if (!run_block(threads, random)) return false;
    }
    return true;
}

template <class... Parameters>
static bool launch(void (*kernel)(Parameters...), void **args, unsigned blocks, unsigned threads, unsigned shared,
                   unsigned seed) {
    return launch(kernel, args, std::index_sequence_for<Parameters...>(), blocks, threads, shared, seed);
}

#include "lstm.cu"

#define EXPORT(kernel)                                                                                            \
    extern "C" bool run_##kernel(void **args, unsigned blocks, unsigned threads, unsigned shared, unsigned seed) { \
        return launch(kernel, args, blocks, threads, shared, seed);                                                \
    }
EXPORT(lstm_forward)
EXPORT(lstm_backward)
EXPORT(decode)
EXPORT(cell_forward)
EXPORT(cell_backward)
