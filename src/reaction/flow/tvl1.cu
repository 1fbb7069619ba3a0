// TV-L1 optical flow, batched over pairs of frames: the kernels that gpu.py launches. torch_tvl1.py states what they
// compute, in the same order; without fused multiply-adds the two differ by the rounding of a division and a root.
//
// NVRTC compiles this file at run time, and for the tests g++ does. On a CPU a kernel's blocks run one after the other,
// and so do a block's threads: those of `iterate`, which exchange values, each up to the next barrier. Hence its
// phases, `EACH_THREAD {...} SYNC;`, and `Private` for what a thread keeps from one to the next.
//
// B pairs of H x W pixels; planes are row by row, without padding:
//   frames [B+1][H][W]        grey, 0..255; pair b goes from frame b to frame b+1
//   gradients [B][2][H][W]    of the second frame, in x and in y
//   data [B][3][H][W]         the linearised data term: slopes in x and y, constant
//   u [2][B][2][H][W]         two sides of the flow in pixels, x and y; which is valid is in `Control`
//   p [2][B][4][H][W]         two sides of the dual variables p11, p12 (of u1), p21, p22 (of u2)
//   sums [B][MAX_ITERATIONS]  squared change of u in each iteration of a launch, in quanta (see `quanta`)
//   debt [B]                  `prevError` in OpenCV's CUDA code, px^2: how long not to look at the change
//   active [1]                number of pairs that have not stopped

using Sum = unsigned long long;

constexpr int MAX_ITERATIONS = 16;   // in one launch
constexpr int TILE = 64;             // pixels a side of the tile that a block holds, halo included
constexpr int ROWS = 4;              // of the tile in one thread
constexpr int STRIPS = TILE / ROWS;  // threads of a block in y
constexpr int WARPS = TILE * STRIPS / 32;

#ifdef __CUDACC__

#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__
#define EACH_THREAD
#define SYNC __syncthreads()

template <class T>
struct Private {
    T value;
    __device__ __forceinline__ T& operator()() { return value; }
};

template <class T>
DEVICE T& block_memory() {
    extern __shared__ __align__(16) char memory[];
    return *reinterpret_cast<T*>(memory);
}

DEVICE Sum warp_sum(Sum value) {
    for (int offset = 16; offset; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

DEVICE int thread_in_block() { return threadIdx.y * blockDim.x + threadIdx.x; }
DEVICE bool leads_warp() { return thread_in_block() % 32 == 0; }
DEVICE int warp_in_block() { return thread_in_block() / 32; }

#else  // the CPU, one thread after the other, each a warp of its own

#include <cmath>
#include <cstring>
#include <utility>

#define KERNEL static void
#define DEVICE static inline
#define __launch_bounds__(threads)
#ifdef BACKWARDS  // any order must do: there is none on a GPU
#define IN_TURN(i, n) i = (n) - 1; i >= 0; --i
#else
#define IN_TURN(i, n) i = 0; i < (n); ++i
#endif
#define EACH_THREAD                                       \
    for (begin_phase(), IN_TURN(threadIdx.y, blockDim.y)) \
        for (IN_TURN(threadIdx.x, blockDim.x))
#define SYNC in_step = true

static bool in_step, missed_barrier;

DEVICE void begin_phase() {
    missed_barrier |= !in_step;
    in_step = false;
}

struct Index {
    int x, y, z;
};
static Index threadIdx, blockIdx, blockDim;

DEVICE int thread_in_block() { return threadIdx.y * blockDim.x + threadIdx.x; }
DEVICE bool leads_warp() { return true; }
DEVICE int warp_in_block() { return thread_in_block() * WARPS / (TILE * STRIPS); }

template <class T>
struct Private {
    T value[TILE * STRIPS];
    T& operator()() { return value[thread_in_block()]; }
};

template <class T>
DEVICE T& block_memory() {
    static T memory;
    return memory;
}

DEVICE Sum warp_sum(Sum value) { return value; }

template <class T>
DEVICE void atomicAdd(T* place, T value) { *place += value; }

template <class T>
DEVICE T min(T a, T b) { return b < a ? b : a; }
template <class T>
DEVICE T max(T a, T b) { return a < b ? b : a; }

#endif

enum State { RUNNING, REPLAYING, STOPPED };

struct Control {  // of a pair
    int state;
    int replay;  // iterations to redo from the untouched side, if REPLAYING
    int u_side;  // where its u and its p are valid, 0 or 1
    int p_side;
};

DEVICE float clamp(float x, float low, float high) { return fminf(fmaxf(x, low), high); }

// ------------------------------------------------------------------------------------------- pyramid and gradient

struct Tap {  // read between two pixels
    int low, high;
    float weight;  // of the second
};

DEVICE Tap linear_tap(int x, int side, double step, bool centred) {
    float at = centred ? static_cast<float>((x + 0.5) * step - 0.5) : x * static_cast<float>(step);
    at = clamp(at, 0, side - 1);
    const int low = static_cast<int>(at);
    return {low, min(low + 1, side - 1), at - low};
}

DEVICE float read_between(const float* row, Tap x) {
    return row[x.low] * (1 - x.weight) + row[x.high] * x.weight;
}

DEVICE float read_linear(const float* image, int width, Tap x, Tap y) {
    const float above = read_between(image + static_cast<long long>(y.low) * width, x);
    const float below = read_between(image + static_cast<long long>(y.high) * width, x);
    return above * (1 - y.weight) + below * y.weight;
}

// Images [n][H][W] of images [n][old_height][old_width], n the grid's z. A pixel's centre is at x + 1/2 if `centred`.
KERNEL reduce(const float* images, float* reduced, int old_width, int old_height, int width, int height, double step,
              int centred) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const float* image = images + static_cast<long long>(blockIdx.z) * old_width * old_height;
    const Tap at_x = linear_tap(x, old_width, step, centred), at_y = linear_tap(y, old_height, step, centred);
    reduced[(static_cast<long long>(blockIdx.z) * height + y) * width + x] = read_linear(image, old_width, at_x, at_y);
}

// Side 0 of u, or any [B][2][H][W], of the valid side of the level below, times `factor`. The grid's z is 2 B.
KERNEL enlarge(const float* u, const Control* control, float* enlarged, int pairs, int old_width, int old_height,
               int width, int height, double step_x, double step_y, int centred, float factor) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const long long plane = 2LL * pairs * control[blockIdx.z / 2].u_side + blockIdx.z;
    const Tap at_x = linear_tap(x, old_width, step_x, centred), at_y = linear_tap(y, old_height, step_y, centred);
    const float value = read_linear(u + plane * old_width * old_height, old_width, at_x, at_y);
    enlarged[(static_cast<long long>(blockIdx.z) * height + y) * width + x] = value * factor;
}

// Half the central differences of every pair's second frame, the border repeated. The grid's z is B.
KERNEL differentiate(const float* frames, float* gradients, int width, int height) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const long long area = static_cast<long long>(width) * height, here = static_cast<long long>(y) * width + x;
    const float* at = frames + (blockIdx.z + 1) * area + here;
    float* to = gradients + 2 * blockIdx.z * area + here;
    const int left = x > 0, right = x < width - 1, up = y > 0 ? width : 0, down = y < height - 1 ? width : 0;
    to[0] = 0.5f * (at[right] - at[-left]);
    to[area] = 0.5f * (at[down] - at[-up]);
}

// ------------------------------------------------------------------------------------------------------------ warp

enum Warp { THIRTY_SECONDS, EXACT, CATMULL_ROM };  // OpenCV's CPU 4.x, CPU 5.0 and CUDA

struct CubicTaps {
    int pixel[4];
    float weight[4];
};

DEVICE float cubic_weight(float distance, float a) {  // Keys' kernel, at most 2 pixels away
    if (distance <= 1) return ((a + 2) * distance - (a + 3)) * distance * distance + 1;
    return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a;
}

DEVICE CubicTaps cubic_taps(float x, int side, int kind) {
    if (kind == THIRTY_SECONDS) x = rintf(x * 32) / 32;  // half to even, as remap's table
    x = clamp(x, -4, side + 3);
    CubicTaps taps;
    for (int i = 0; i < 4; ++i)
        taps.weight[i] = cubic_weight(fabsf(x - (floorf(x) + (i - 1))), kind == CATMULL_ROM ? -0.5f : -0.75f);
    if (kind != CATMULL_ROM) taps.weight[3] = 1 - taps.weight[0] - taps.weight[1] - taps.weight[2];  // as remap has it
    for (int i = 0; i < 4; ++i) {
        const int pixel = static_cast<int>(floorf(x)) + (i - 1);
        taps.pixel[i] = min(max(pixel, 0), side - 1);
        if (kind != CATMULL_ROM && pixel != taps.pixel[i]) taps.weight[i] = 0;  // the CPU code reads zeros outside
    }
    return taps;
}

// The data term, linearised at u: the second frame and its gradient, read at x + u1, y + u2. The grid's z is B.
KERNEL linearise(const float* frames, const float* gradients, const float* u, const Control* control, float* data,
                 int pairs, int width, int height, int kind) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const long long area = static_cast<long long>(width) * height, here = static_cast<long long>(y) * width + x;
    const long long pair = blockIdx.z;
    const float* flow = u + 2 * (static_cast<long long>(pairs) * control[pair].u_side + pair) * area + here;
    const float u1 = flow[0], u2 = flow[area];
    const float* second = frames + (pair + 1) * area;
    const float* gradient = gradients + 2 * pair * area;
    const CubicTaps in_x = cubic_taps(x + u1, width, kind), in_y = cubic_taps(y + u2, height, kind);
    float image = 0, slope_x = 0, slope_y = 0, total = 0;
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            const float weight = in_y.weight[i] * in_x.weight[j];
            const long long at = static_cast<long long>(in_y.pixel[i]) * width + in_x.pixel[j];
            image = image + weight * second[at];
            slope_x = slope_x + weight * gradient[at];
            slope_y = slope_y + weight * gradient[area + at];
            total = total + weight;
        }
    if (kind == CATMULL_ROM) {
        image = image * (1 / total);
        slope_x = slope_x * (1 / total);
        slope_y = slope_y * (1 / total);
    }
    float* to = data + 3 * pair * area + here;
    to[0] = slope_x;
    to[area] = slope_y;
    to[2 * area] = image - slope_x * u1 - slope_y * u2 - frames[pair * area + here];
}

// ---------------------------------------------------------------------------------------------------------- median

// Of half of the values and two more neither the smallest nor the largest is the median: both are dropped and another
// value is taken in, until one is left.
template <int SIDE>
DEVICE float median(const float* image, int x, int y, int width, int height) {
    constexpr int ALL = SIDE * SIDE, KEPT = ALL / 2 + 2;
    float value[ALL];
#pragma unroll
    for (int i = 0; i < ALL; ++i) {
        const int row = min(max(y + i / SIDE - SIDE / 2, 0), height - 1);
        const int column = min(max(x + i % SIDE - SIDE / 2, 0), width - 1);
        value[i] = image[static_cast<long long>(row) * width + column];
    }
#pragma unroll
    for (int first = 0; first < KEPT - 2; ++first) {  // kept: value[first] to value[KEPT - 1]
        if (first) value[KEPT - 1] = value[KEPT - 1 + first];  // in the largest one's place
#pragma unroll
        for (int i = first + 1; i < KEPT; ++i) {
            const float low = fminf(value[first], value[i]), high = fmaxf(value[first], value[i]);
            value[first] = low, value[i] = high;
        }
#pragma unroll
        for (int i = first + 1; i < KEPT - 1; ++i) {
            const float low = fminf(value[i], value[KEPT - 1]), high = fmaxf(value[i], value[KEPT - 1]);
            value[i] = low, value[KEPT - 1] = high;
        }
    }
    return value[KEPT - 2];
}

// u's other side: the median of `side` x `side` pixels, 3 or 5, the border repeated. The grid's z is 2 B.
KERNEL filter(float* u, const Control* control, int pairs, int width, int height, int side) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    const Control pair = control[blockIdx.z / 2];
    if (x >= width || y >= height || pair.state != RUNNING) return;
    const long long area = static_cast<long long>(width) * height;
    const float* from = u + (2LL * pairs * pair.u_side + blockIdx.z) * area;
    float* to = u + (2LL * pairs * (1 - pair.u_side) + blockIdx.z) * area;
    to[static_cast<long long>(y) * width + x] =
        side == 3 ? median<3>(from, x, y, width, height) : median<5>(from, x, y, width, height);
}

KERNEL take_filtered(Control* control, int pairs) {
    const int pair = blockIdx.x * blockDim.x + threadIdx.x;
    if (pair < pairs && control[pair].state == RUNNING) control[pair].u_side ^= 1;
}

// ------------------------------------------------------------------------------------------------------ iterations

struct Limits {  // numbers of the iterations and of the rule that stops them
    float lambda_theta, theta, tau_theta;
    float scale;    // quanta per px^2
    double change;  // px^2 of the whole image: epsilon^2 a pixel
    int sparing;    // whether to look at the change as the CUDA code does: now and then, and never if `change` is 0
};

// A squared change as a whole number: sums of these are the same in any order, however tiles and iterations are cut.
DEVICE Sum quanta(float square, float scale, float most) {
    return static_cast<Sum>(fminf(ceilf(square * scale), most));  // rounded up, so that 0 is no change at all
}

// Whether the rule ever looks at the change in iteration n since the warp, and whether it does given the debt.
DEVICE bool may_look(const Limits& limits, int n) { return !limits.sparing || (limits.change > 0 && n % 2 == 1); }

DEVICE bool looks(const Limits& limits, int n, double debt) {
    return may_look(limits, n) && (!limits.sparing || debt < limits.change);
}

// Whether it may look in some iteration of a launch of `count`: the debt falls by `change` in each.
DEVICE bool may_look_soon(const Limits& limits, int count, double debt) {
    return !limits.sparing || debt < (count + 1) * limits.change;
}

struct Strip {  // a thread's pixels, one below the other
    float u1[ROWS], u2[ROWS], p11[ROWS], p12[ROWS], p21[ROWS], p22[ROWS], slope_x[ROWS], slope_y[ROWS], constant[ROWS];
};

struct Exchange {  // what threads read of each other
    float u1[TILE][TILE], u2[TILE][TILE], p11[TILE][TILE], p21[TILE][TILE];
    float p12[STRIPS][TILE], p22[STRIPS][TILE];  // of each strip's last row
    Sum sums[MAX_ITERATIONS][WARPS];
};

// Up to MAX_ITERATIONS iterations of a tile, from the valid side of u and p to the other one. A block holds TILE x TILE
// pixels, and each iteration spoils one more at every side of them: it owns those that are `halo` >= `count` away.
// The first of the iterations is number `first` since the warp. The grid's z is B, a block TILE x STRIPS threads.
KERNEL __launch_bounds__(TILE * STRIPS)
iterate(float* u, float* p, const float* data, const Control* control, const double* debt, Sum* sums, int pairs,
        int width, int height, int halo, int first, int count, Limits limits) {
    const long long pair = blockIdx.z;
    const Control now = control[pair];
    if (now.state == STOPPED) return;
    const bool replay = now.state == REPLAYING;
    const int todo = replay ? now.replay : count;
    if (todo == 0) return;
    const bool watch = !replay && may_look_soon(limits, count, debt[pair]);

    const int area = width * height;
    const float* term = data + 3 * pair * area;
    const int own = TILE - 2 * halo;
    const int own_x = blockIdx.x * own, own_y = blockIdx.y * own;  // the first pixel owned, and the one past the last
    const int end_x = min(own_x + own, width), end_y = min(own_y + own, height);
    const float most = 4.6e18f / area;  // so that sums cannot overflow
    Exchange& shared = block_memory<Exchange>();
    Private<Strip> strip_of_thread;

// A thread's place: its column and strip in the tile, its column and first row in the image, and its pixels.
#define PLACE                                                                                    \
    [[maybe_unused]] const int column = threadIdx.x, strip = threadIdx.y, top = strip * ROWS;    \
    [[maybe_unused]] const int x = own_x - halo + column, y = own_y - halo + top;                \
    [[maybe_unused]] Strip& its = strip_of_thread()

    EACH_THREAD {  // read; what is outside the image is 0, and p stays so left of it and above
        PLACE;
        const float* from_u = u + 2 * (static_cast<long long>(pairs) * now.u_side + pair) * area;
        const float* from_p = p + 4 * (static_cast<long long>(pairs) * now.p_side + pair) * area;
        const int i = thread_in_block();
        if (i < MAX_ITERATIONS * WARPS) shared.sums[i / WARPS][i % WARPS] = 0;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const bool inside = x >= 0 && x < width && y + r >= 0 && y + r < height;
            const int at = inside ? (y + r) * width + x : 0;
            its.u1[r] = inside ? from_u[at] : 0;
            its.u2[r] = inside ? from_u[area + at] : 0;
            its.p11[r] = shared.p11[top + r][column] = inside ? from_p[at] : 0;
            its.p12[r] = inside ? from_p[area + at] : 0;
            its.p21[r] = shared.p21[top + r][column] = inside ? from_p[2 * area + at] : 0;
            its.p22[r] = inside ? from_p[3 * area + at] : 0;
            its.slope_x[r] = inside ? term[at] : 0;
            its.slope_y[r] = inside ? term[area + at] : 0;
            its.constant[r] = inside ? term[2 * area + at] : 0;
        }
        shared.p12[strip][column] = its.p12[ROWS - 1];
        shared.p22[strip][column] = its.p22[ROWS - 1];
    }
    SYNC;

    for (int k = 0; k < todo; ++k) {
        EACH_THREAD {  // primal step: u by thresholding, and then theta div p
            PLACE;
            float p12_above = strip > 0 ? shared.p12[strip - 1][column] : 0;
            float p22_above = strip > 0 ? shared.p22[strip - 1][column] : 0;
            const bool sums_up = watch && may_look(limits, first + k);
            Sum sum = 0;
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const float slope_x = its.slope_x[r], slope_y = its.slope_y[r], u1 = its.u1[r], u2 = its.u2[r];
                const float square = slope_x * slope_x + slope_y * slope_y;
                const float rho = its.constant[r] + (slope_x * u1 + slope_y * u2);
                const float bound = limits.lambda_theta * square;
                float step = square > 1.1920929e-7f ? -rho / square : 0;  // FLT_EPSILON
                step = rho < -bound ? limits.lambda_theta : rho > bound ? -limits.lambda_theta : step;
                const float p11_left = column > 0 ? shared.p11[top + r][column - 1] : 0;
                const float p21_left = column > 0 ? shared.p21[top + r][column - 1] : 0;
                const float div1 = (its.p11[r] - p11_left) + (its.p12[r] - p12_above);
                const float div2 = (its.p21[r] - p21_left) + (its.p22[r] - p22_above);
                p12_above = its.p12[r], p22_above = its.p22[r];
                its.u1[r] = shared.u1[top + r][column] = (u1 + step * slope_x) + limits.theta * div1;
                its.u2[r] = shared.u2[top + r][column] = (u2 + step * slope_y) + limits.theta * div2;
                const float change1 = its.u1[r] - u1, change2 = its.u2[r] - u2;
                const bool owned = x >= own_x && x < end_x && y + r >= own_y && y + r < end_y;
                if (sums_up && owned) sum += quanta(change1 * change1 + change2 * change2, limits.scale, most);
            }
            if (sums_up) {
                sum = warp_sum(sum);
                if (leads_warp()) shared.sums[k][warp_in_block()] += sum;
            }
        }
        SYNC;
        EACH_THREAD {  // dual step: p follows the forward differences of u, which are 0 in the last column and row
            PLACE;
            const int next = min(column + 1, TILE - 1), below = min(top + ROWS, TILE - 1);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const bool real = x >= 0 && y + r >= 0, last_x = x >= width - 1, last_y = y + r >= height - 1;
                const float u1 = its.u1[r], u2 = its.u2[r];
                const float u1_below = r < ROWS - 1 ? its.u1[(r + 1) % ROWS] : shared.u1[below][column];
                const float u2_below = r < ROWS - 1 ? its.u2[(r + 1) % ROWS] : shared.u2[below][column];
                const float u1_x = real && !last_x ? shared.u1[top + r][next] - u1 : 0;
                const float u2_x = real && !last_x ? shared.u2[top + r][next] - u2 : 0;
                const float u1_y = real && !last_y ? u1_below - u1 : 0;
                const float u2_y = real && !last_y ? u2_below - u2 : 0;
                const float shrink1 = 1 / (1 + limits.tau_theta * sqrtf(u1_x * u1_x + u1_y * u1_y));
                const float shrink2 = 1 / (1 + limits.tau_theta * sqrtf(u2_x * u2_x + u2_y * u2_y));
                its.p11[r] = shared.p11[top + r][column] = (its.p11[r] + limits.tau_theta * u1_x) * shrink1;
                its.p12[r] = (its.p12[r] + limits.tau_theta * u1_y) * shrink1;
                its.p21[r] = shared.p21[top + r][column] = (its.p21[r] + limits.tau_theta * u2_x) * shrink2;
                its.p22[r] = (its.p22[r] + limits.tau_theta * u2_y) * shrink2;
            }
            shared.p12[strip][column] = its.p12[ROWS - 1];
            shared.p22[strip][column] = its.p22[ROWS - 1];
        }
        SYNC;
    }

    EACH_THREAD {  // write
        PLACE;
        float* to_u = u + 2 * (static_cast<long long>(pairs) * (1 - now.u_side) + pair) * area;
        float* to_p = p + 4 * (static_cast<long long>(pairs) * (1 - now.p_side) + pair) * area;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const int at = (y + r) * width + x;
            if (x < own_x || x >= end_x || y + r < own_y || y + r >= end_y) continue;
            to_u[at] = its.u1[r];
            to_u[area + at] = its.u2[r];
            to_p[at] = its.p11[r];
            to_p[area + at] = its.p12[r];
            to_p[2 * area + at] = its.p21[r];
            to_p[3 * area + at] = its.p22[r];
        }
        const int k = thread_in_block();
        if (watch && k < todo) {
            Sum sum = 0;
            for (int warp = 0; warp < WARPS; ++warp) sum += shared.sums[k][warp];
            atomicAdd(&sums[pair * MAX_ITERATIONS + k], sum);  // whole numbers: the blocks' order does not matter
        }
    }
}

// ------------------------------------------------------------------------------------------------------- stop rule
// These three take one thread a pair; the grid's x covers B.

KERNEL begin_warp(Control* control, double* debt, Sum* sums, int* active, int pairs) {
    const int pair = blockIdx.x * blockDim.x + threadIdx.x;
    if (pair == 0) *active = pairs;
    if (pair >= pairs) return;
    control[pair].state = RUNNING;
    debt[pair] = 0;
    for (int k = 0; k < MAX_ITERATIONS; ++k) sums[pair * MAX_ITERATIONS + k] = 0;
}

// Walks through a launch's iterations as OpenCV's loop would have. A pair that should have stopped inside the launch is
// to redo, in the next one, just the iterations up to there; its side from before the launch is still whole.
KERNEL decide(Control* control, double* debt, Sum* sums, int* active, int pairs, int first, int count, Limits limits) {
    const int pair = blockIdx.x * blockDim.x + threadIdx.x;
    if (pair >= pairs || control[pair].state == STOPPED) return;
    Control& now = control[pair];
    const bool replayed = now.state == REPLAYING;
    int done = replayed ? now.replay : 0;
    bool stopped = replayed;
    while (!stopped && done < count) {
        const double change = sums[pair * MAX_ITERATIONS + done] / static_cast<double>(limits.scale);
        const bool look = looks(limits, first + done, debt[pair]);
        debt[pair] = look ? change : debt[pair] - limits.change;
        stopped = look && change <= limits.change;
        ++done;
    }
    for (int k = 0; k < count; ++k) sums[pair * MAX_ITERATIONS + k] = 0;
    if (stopped && !replayed && done < count) {
        now.state = REPLAYING;
        now.replay = done;
        return;
    }
    if (done) now.u_side ^= 1, now.p_side ^= 1;
    if (stopped) {
        now.state = STOPPED;
        atomicAdd(active, -1);
    }
}

// ------------------------------------------------------------------------------------- the same launches, on a CPU

#ifndef __CUDACC__

template <class... Parameters, int... index>
static void call(void (*kernel)(Parameters...), void** arguments, std::integer_sequence<int, index...>) {
    kernel(*static_cast<std::remove_reference_t<Parameters>*>(arguments[index])...);
}

template <class... Parameters>
static int run(void (*kernel)(Parameters...), void** arguments, Index grid, bool has_phases) {
    const Index threads = has_phases ? Index{1, 1, 1} : blockDim;
    missed_barrier = false;
    for (IN_TURN(blockIdx.z, grid.z))
        for (IN_TURN(blockIdx.y, grid.y))
            for (IN_TURN(blockIdx.x, grid.x))
                for (IN_TURN(threadIdx.y, threads.y))
                    for (IN_TURN(threadIdx.x, threads.x)) {
                        in_step = true;
                        call(kernel, arguments, std::make_integer_sequence<int, sizeof...(Parameters)>());
                    }
    return missed_barrier ? 2 : 0;
}

// cuLaunchKernel for the CPU: 0, or 1 if there is no kernel of that name, or 2 if a SYNC between its phases is missing.
extern "C" int launch(const char* name, int grid_x, int grid_y, int grid_z, int block_x, int block_y, int block_z,
                      void** arguments) {
    const Index grid{grid_x, grid_y, grid_z};
    blockDim = {block_x, block_y, block_z};
    const auto named = [name](const char* other) { return !std::strcmp(name, other); };
    if (named("reduce")) return run(reduce, arguments, grid, false);
    if (named("enlarge")) return run(enlarge, arguments, grid, false);
    if (named("differentiate")) return run(differentiate, arguments, grid, false);
    if (named("linearise")) return run(linearise, arguments, grid, false);
    if (named("filter")) return run(filter, arguments, grid, false);
    if (named("take_filtered")) return run(take_filtered, arguments, grid, false);
    if (named("iterate")) return run(iterate, arguments, grid, true);
    if (named("begin_warp")) return run(begin_warp, arguments, grid, false);
    if (named("decide")) return run(decide, arguments, grid, false);
    return 1;
}

#endif
