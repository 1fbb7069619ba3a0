// TV-L1 of one pair of pictures: Zach, Pock, Bischof, A Duality Based Approach for Realtime TV-L1 Optical Flow (DAGM 2007),
// with the pyramids, warps, borders and stopping rules of OpenCV's three implementations (semantics in docs/flow.md).
//
// The time goes into the iterations. The primal step at (x, y) needs the duals at (x, y), (x-1, y) and (x, y-1); the dual step needs the
// flow at (x, y), (x+1, y) and (x, y+1). So one loop over a row does the primal step of row y and, one vector behind, the dual step of
// row y-1. Iteration k+1 may follow iteration k one row behind: `block` of them cross the picture together, in a wave of block+1 rows
// that stays in the cache.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

#include "_tvl1_solver.hpp"
#include "_tvl1_vector.hpp"

namespace {

using reaction::OPENCV5_CPU;
using reaction::OPENCV_CPU;
using reaction::OPENCV_CUDA;
using reaction::MOST_BLOCK;
using reaction::Parameters;
using reaction::Semantics;

constexpr int PADDING = 32;      // columns of padding on each side: what a group's taps may reach
constexpr int ABOVE = 6;      // rows of padding above and below
constexpr int REACH = 3;      // a point further outside sees nothing but padding
constexpr int SMALLEST = 16;  // OpenCV's pyramid ends before a side is shorter
constexpr float TINY = 1.1920929e-07f;  // FLT_EPSILON: below it a squared gradient is none

int padded(int width) { return (width + GROUP - 1) / GROUP * GROUP + 2 * PADDING; }

struct Size {
    int height, width, stride;
    std::size_t plane() const { return std::size_t(height + 2 * ABOVE) * stride; }
};

// One float a pixel with padding all around; row(-1) and row(height) exist.
struct Plane {
    float* origin = nullptr;
    int stride = 0;
    float* row(int y) const { return origin + std::ptrdiff_t(y) * stride; }
};

struct Memory {  // one aligned block, cut into planes and lines
    float* start;
    float* next;
    explicit Memory(std::size_t floats) {
        std::size_t bytes = (floats * sizeof(float) + 127) / 64 * 64;
        start = next = static_cast<float*>(std::aligned_alloc(64, bytes));
        if (!start) throw std::bad_alloc();
        std::memset(start, 0, bytes);
    }
    ~Memory() { std::free(start); }
    Memory(const Memory&) = delete;
    Plane plane(const Size& size) {
        Plane made{next + std::size_t(ABOVE) * size.stride + PADDING, size.stride};
        next += size.plane();
        return made;
    }
    float* line(std::size_t floats) {
        float* made = next;
        next += (floats + GROUP - 1) / GROUP * GROUP;
        return made;
    }
};

// Sixteen columns of one row, one field after the other, then the next sixteen: all that a step reads lies side by side, and a row needs
// one pointer instead of ten.
template <int FIELDS>
struct Blocks {
    float* origin = nullptr;
    int stride = 0;

    float* row(int y) const { return origin + std::ptrdiff_t(y) * stride; }
    float* at(int y, int x, int field) const { return row(y) + x / GROUP * (FIELDS * GROUP) + field * GROUP + x % GROUP; }
    static std::size_t floats(const Size& size) { return std::size_t(size.height + 1) * span(size); }
    // There is room for column `width`, and for the vector after the last one, which the last step of a row reads and does not use.
    static int span(const Size& size) { return (size.width / GROUP + 2) * FIELDS * GROUP; }
};

// What the iterations of one warp change: flow and dual variables (p11, p12 belong to u1; p21, p22 to u2).
enum Changing { U1, U2, P11, P12, P21, P22, CHANGING };
using State = Blocks<CHANGING>;

// What they only read: the linearised data term rho(u) = constant + x*u1 + y*u2, and -1 / (x^2 + y^2).
enum Reading { X, Y, CONSTANT, INVERSE, READING };
using Data = Blocks<READING>;

struct Steps {
    float limit, theta, taut;  // lambda*theta, theta, tau/theta
};

// ---------------------------------------------------------------------------------------------------------------- resizing

// Where each of `count` outputs reads from, linearly between two neighbours.
struct Taps {
    int* left;
    int* right;
    float* weight;  // of the right neighbour

    void aim(int count, int source, double ratio, bool half_pixel) {
        for (int i = 0; i < count; i++) {
            float at = half_pixel ? float((i + 0.5) * ratio - 0.5) : float(i) * float(ratio);
            int low = int(std::floor(at));
            weight[i] = at - float(low);
            if (low < 0) low = 0, weight[i] = 0;
            if (low >= source - 1) low = source - 1, weight[i] = 0;
            left[i] = low;
            right[i] = low + 1 < source ? low + 1 : low;
        }
    }
};

void resize(const Plane& from, const Plane& to, const Size& size, int source_width, const Taps& x, const Taps& y, float factor,
            float* line) {
    for (int row = 0; row < size.height; row++) {
        const float *above = from.row(y.left[row]), *below = from.row(y.right[row]);
        vec share = splat(y.weight[row]), rest = splat(1 - y.weight[row]);
        for (int i = 0; i < source_width; i += LANES) store(line + i, load(above + i) * rest + load(below + i) * share);
        float* out = to.row(row);
        for (int i = 0; i < size.width; i++)
            out[i] = (line[x.left[i]] * (1 - x.weight[i]) + line[x.right[i]] * x.weight[i]) * factor;
    }
}

// ------------------------------------------------------------------------------------------------------------ preparation

// Central differences, halved also at the borders, where the neighbour outside is the border itself.
void gradients(const Plane& picture, const Plane& gx, const Plane& gy, const Size& size) {
    for (int y = 0; y < size.height; y++) {
        const float* here = picture.row(y);
        const float *above = picture.row(y > 0 ? y - 1 : 0), *below = picture.row(y < size.height - 1 ? y + 1 : y);
        float *x_out = gx.row(y), *y_out = gy.row(y);
        for (int i = 0; i < size.width; i += LANES) {
            store(y_out + i, splat(0.5f) * (load(below + i) - load(above + i)));
            store(x_out + i, splat(0.5f) * (load(here + i + 1) - load(here + i - 1)));
        }
        int last = size.width - 1;
        x_out[0] = 0.5f * (here[1] - here[0]);
        x_out[last] = 0.5f * (here[last] - here[last - 1]);
    }
}

// What lies outside of a picture for the warp: its border again (CUDA's textures) or zeros (cv::remap).
void surround(const Plane& plane, const Size& size, bool repeat) {
    for (int y = 0; y < size.height; y++) {
        float* row = plane.row(y);
        float first = repeat ? row[0] : 0, last = repeat ? row[size.width - 1] : 0;
        for (int i = -PADDING; i < 0; i++) row[i] = first;
        for (int i = size.width; i < size.stride - PADDING; i++) row[i] = last;
    }
    for (int y = 1; y <= ABOVE; y++) {
        float *top = plane.row(-y) - PADDING, *bottom = plane.row(size.height - 1 + y) - PADDING;
        if (repeat) {
            std::memcpy(top, plane.row(0) - PADDING, sizeof(float) * size.stride);
            std::memcpy(bottom, plane.row(size.height - 1) - PADDING, sizeof(float) * size.stride);
        } else {
            std::memset(top, 0, sizeof(float) * size.stride);
            std::memset(bottom, 0, sizeof(float) * size.stride);
        }
    }
}

// ------------------------------------------------------------------------------------------------------------------- warp

// A cubic through four neighbours is one through five whose first or last weight is zero. Five, around the *nearest* pixel, keep the
// lanes of a still background together: around the pixel below, flow that trembles about zero would part them.
struct Cubic {
    vec weight[5];
    ivec base;
};

// Keys' kernel. Points far outside look at padding only, wherever they are exactly.
template <Semantics SEMANTICS>
inline Cubic cubic_at(vec at, int side) {
    constexpr float a = SEMANTICS == OPENCV_CUDA ? -0.5f : -0.75f;
    at = clamp(at, splat(-1e5f), splat(1e5f));
    vec base = nearest(at), fraction = at - base;  // in [-1/2, 1/2]
    if (SEMANTICS == OPENCV_CPU) {                 // cv::remap of OpenCV 4 rounds to 1/32 pixel
        vec steps = nearest(at * splat(32.0f));
        base = nearest(steps * splat(1.0f / 32));
        fraction = (steps - base * splat(32.0f)) * splat(1.0f / 32);
    }
    ivec left = fraction < splat(0.0f);
    vec none = splat(0.0f), t = left ? -fraction : fraction, rest = splat(1.0f) - t, square = t * t;
    vec here = (splat(a + 2) * t - splat(a + 3)) * square + splat(1.0f);
    vec back = splat(a) * t * rest * rest, end = splat(a) * square * rest, ahead = splat(1.0f) - here - back - end;
    return Cubic{{left ? end : none, left ? ahead : back, here, left ? back : ahead, left ? none : end},
                 as_int(clamp(base, splat(float(-REACH)), splat(float(side - 1 + REACH))))};
}

template <Semantics SEMANTICS>
struct Warp {
    const Plane &picture, &gx, &gy;
    const Size& size;

    // Where the lanes from column x on look, and how far that is from them in whole pixels.
    struct Aim {
        vec u1, u2, x_weight[5], y_weight[5];
        std::int32_t move_x[LANES], row[LANES];
        unsigned lanes;  // those inside the picture
    };

    inline void aim(const State& state, int x, int y, Aim& aim) const {
        aim.u1 = load(state.at(y, x, U1));
        aim.u2 = load(state.at(y, x, U2));
        ivec column = counting_from(x);
        Cubic x_axis = cubic_at<SEMANTICS>(as_float(column) + aim.u1, size.width);
        Cubic y_axis = cubic_at<SEMANTICS>(splat(float(y)) + aim.u2, size.height);
        std::memcpy(aim.x_weight, x_axis.weight, sizeof x_axis.weight);
        std::memcpy(aim.y_weight, y_axis.weight, sizeof y_axis.weight);
        store(aim.move_x, x_axis.base - column);
        store(aim.row, y_axis.base);
        aim.lanes = bits(column < splat(size.width));
    }

    // Picture and gradients there.
    inline void sample(const Aim& aim, int x, vec out[3]) const {
        ivec moves = load(aim.move_x), rows = load(aim.row);
        unsigned left = aim.lanes;
        while (left) {  // once for every different whole-pixel motion among the lanes: mostly once
            int lane = __builtin_ctz(left);
            std::ptrdiff_t at = std::ptrdiff_t(aim.row[lane] - 2) * size.stride + x + aim.move_x[lane] - 2;
            ivec same = (moves == splat(aim.move_x[lane])) & (rows == splat(aim.row[lane]));
            left &= ~bits(same);
            for (int plane = 0; plane < 3; plane++) {
                vec found = cubic((plane == 0 ? picture : plane == 1 ? gx : gy).origin + at, aim);
                out[plane] = same ? found : out[plane];
            }
        }
    }

    // The values if every lane moved by the same whole pixels: loads side by side instead of one by one.
    inline vec cubic(const float* corner, const Aim& aim) const {
        vec sum = splat(0.0f);
        for (int j = 0; j < 5; j++, corner += size.stride) {
            vec along = aim.x_weight[0] * load(corner);
            for (int i = 1; i < 5; i++) along += aim.x_weight[i] * load(corner + i);
            sum += aim.y_weight[j] * along;
        }
        return sum;
    }

    // The data term around the present flow. Some vectors are aimed ahead of being sampled, for the one waits for the other.
    void linearise(const Plane& first, const State& state, const Data& data) const {
        constexpr int AHEAD = 4;
        Aim aims[AHEAD];
        for (int y = 0; y < size.height; y++)
            for (int start = 0; start < size.width; start += AHEAD * LANES) {
                int count = std::min(AHEAD, (size.width - start + LANES - 1) / LANES);
                for (int i = 0; i < count; i++) aim(state, start + i * LANES, y, aims[i]);
                for (int i = 0; i < count; i++) linearise(aims[i], start + i * LANES, y, first, data);
            }
    }

    inline void linearise(const Aim& aim, int x, int y, const Plane& first, const Data& data) const {
        vec at[3] = {};
        sample(aim, x, at);
        vec square = at[1] * at[1] + at[2] * at[2];
        store(data.at(y, x, X), at[1]);
        store(data.at(y, x, Y), at[2]);
        store(data.at(y, x, CONSTANT), at[0] - at[1] * aim.u1 - at[2] * aim.u2 - load(first.row(y) + x));
        store(data.at(y, x, INVERSE), splat(-1.0f) / greatest(square, splat(TINY)));
    }
};

// ------------------------------------------------------------------------------------------------------------- iterations

// The rows of one step; `before` and `after` may be the same memory.
struct Rows {
    const float *data, *before, *before_above;
    float *after, *after_above, *error;
};

struct Constants {
    vec limit, theta, taut;
    explicit Constants(const Steps& steps) : limit(splat(steps.limit)), theta(splat(steps.theta)), taut(splat(steps.taut)) {}
};

// What one vector of columns leaves for the next.
struct Carry {
    vec left11, left21;    // duals of row y before this iteration
    vec above1, above2;    // flow of row y-1 after it
    vec here1, here2;      // flow of row y after it
};

template <int FIELDS>
inline std::ptrdiff_t offset(int x) { return std::ptrdiff_t(unsigned(x) / GROUP) * (FIELDS * GROUP) + unsigned(x) % GROUP; }

template <bool ERROR>
inline void primal(const Rows& r, const Constants& c, int x, Carry& carry) {
    const float *data = r.data + offset<READING>(x), *before = r.before + offset<CHANGING>(x);
    const float* above = r.before_above + offset<CHANGING>(x);
    vec gx = load(data + X * GROUP), gy = load(data + Y * GROUP);
    vec u1 = load(before + U1 * GROUP), u2 = load(before + U2 * GROUP);
    vec rho = load(data + CONSTANT * GROUP) + (gx * u1 + gy * u2);
    vec by = clamp(rho * load(data + INVERSE * GROUP), -c.limit, c.limit);
    vec p11 = load(before + P11 * GROUP), p21 = load(before + P21 * GROUP);
    vec div1 = (p11 - left_of(carry.left11, p11)) + (load(before + P12 * GROUP) - load(above + P12 * GROUP));
    vec div2 = (p21 - left_of(carry.left21, p21)) + (load(before + P22 * GROUP) - load(above + P22 * GROUP));
    carry.left11 = p11;
    carry.left21 = p21;
    carry.here1 = (u1 + by * gx) + c.theta * div1;
    carry.here2 = (u2 + by * gy) + c.theta * div2;
    float* after = r.after + offset<CHANGING>(x);
    store(after + U1 * GROUP, carry.here1);
    store(after + U2 * GROUP, carry.here2);
    if (ERROR) {
        vec change1 = carry.here1 - u1, change2 = carry.here2 - u2;
        store(r.error + x, load(r.error + x) + (change1 * change1 + change2 * change2));
    }
}

inline void ascend(const float* before, float* after, vec dx, vec dy, vec taut) {
    vec scale = splat(1.0f) / (splat(1.0f) + taut * root(dx * dx + dy * dy));
    store(after, (load(before) + taut * dx) * scale);
    store(after + GROUP, (load(before + GROUP) + taut * dy) * scale);
}

// `below`: flow of row y at columns x, after this iteration.
inline void dual(const Rows& r, const Constants& c, int x, vec below1, vec below2, Carry& carry) {
    const float *before = r.before_above + offset<CHANGING>(x), *next = r.after_above + offset<CHANGING>(x + LANES);
    float* after = r.after_above + offset<CHANGING>(x);
    vec next1 = load(next + U1 * GROUP), next2 = load(next + U2 * GROUP);
    ascend(before + P11 * GROUP, after + P11 * GROUP, right_of(carry.above1, next1) - carry.above1, below1 - carry.above1, c.taut);
    ascend(before + P21 * GROUP, after + P21 * GROUP, right_of(carry.above2, next2) - carry.above2, below2 - carry.above2, c.taut);
    carry.above1 = next1;
    carry.above2 = next2;
}

// Primal step of a row of `width` columns, dual step of the row above. LAST: only that, for below the last row lies the last row again.
template <bool LAST, bool ERROR>
void row_step(const Rows& r, const Constants& c, int width) {
    Carry carry = {};
    carry.above1 = load(r.after_above + U1 * GROUP);
    carry.above2 = load(r.after_above + U2 * GROUP);
    if (!LAST) primal<ERROR>(r, c, 0, carry);
    int x = 0;
    for (; x + LANES < width; x += LANES) {
        vec below1 = LAST ? carry.above1 : carry.here1, below2 = LAST ? carry.above2 : carry.here2;
        if (!LAST) primal<ERROR>(r, c, x + LANES, carry);
        dual(r, c, x, below1, below2, carry);
    }
    dual(r, c, x, LAST ? carry.above1 : carry.here1, LAST ? carry.above2 : carry.here2, carry);
    if (!LAST)  // beyond the last column lies the last column again
        for (int u : {U1, U2}) r.after[offset<CHANGING>(width) + u * GROUP] = r.after[offset<CHANGING>(width - 1) + u * GROUP];
}

struct Iterations {
    const Size& size;
    const Data& data;
    const Steps& steps;
    float* spare;  // a row nobody reads
    float* sums;   // a line for every iteration of a block: squared changes, summed down the columns

    // `count` iterations from one state to another; errors[k] becomes the sum of squared changes of iteration k >= `measured`.
    void run(const State& from, const State& to, int count, int measured, double* errors) const {
        std::memset(sums, 0, sizeof(float) * size.stride * count);
        const Constants constants(steps);
        for (int wave = 0; wave < size.height + count; wave++)
            for (int k = std::max(0, wave - size.height); k < count && k <= wave; k++)
                row(k ? to : from, to, wave - k, constants, k < measured ? nullptr : sums + k * size.stride);
        for (int k = measured; k < count; k++) {
            errors[k] = 0;
            for (int x = 0; x < size.width; x++) errors[k] += sums[k * size.stride + x];
        }
    }

    // Primal row y and dual row y-1.
    void row(const State& from, const State& to, int y, const Constants& constants, float* error) const {
        int here = std::min(y, size.height - 1);
        Rows r{data.row(here), from.row(here), from.row(y - 1), to.row(here), y ? to.row(y - 1) : spare, error};
        if (y == size.height)
            row_step<true, false>(r, constants, size.width);
        else if (error)
            row_step<false, true>(r, constants, size.width);
        else
            row_step<false, false>(r, constants, size.width);
    }
};

// ----------------------------------------------------------------------------------------------------------------- median

inline void exchange(vec& low, vec& high) {
    vec less = least(low, high);
    high = greatest(low, high);
    low = less;
}

inline void sort5(vec& a, vec& b, vec& c, vec& d, vec& e) {  // nine exchanges, the fewest there can be
    exchange(a, d), exchange(b, e);
    exchange(a, c), exchange(b, d);
    exchange(a, b), exchange(c, e);
    exchange(b, c), exchange(d, e);
    exchange(c, d);
}

inline void sort3(vec& a, vec& b, vec& c) { exchange(a, c), exchange(a, b), exchange(b, c); }

// Median of 25 values c[rank][column], given as five columns, each sorted upwards. With the rows sorted too (the columns stay so), an entry
// of rank (i, j) has (i+1)(j+1) - 1 entries below it and (5-i)(5-j) - 1 above, and more than 12 on a side exclude it. What remains are
// three diagonals, d = {03, 12, 21, 30}, e = {04, 13, 22, 31, 40}, f = {14, 23, 32, 41}, with six entries below them all and six above.
// Any m entries of d have together m+1 entries of e above them, so once each diagonal is sorted d_i <= e_i, and likewise e_(i+1) <= f_i.
// Then d_1, d_2, d_3, e_1, e_2 have 7 of the 13 above them, e_4, e_5, f_2, f_3, f_4 have 7 below: the median is that of d_4, e_3, f_1.
inline vec median25(vec c[5][5]) {
    for (int rank = 0; rank < 5; rank++) sort5(c[rank][0], c[rank][1], c[rank][2], c[rank][3], c[rank][4]);
    vec d = greatest(greatest(c[0][3], c[1][2]), greatest(c[2][1], c[3][0]));
    sort5(c[0][4], c[1][3], c[2][2], c[3][1], c[4][0]);  // what is not read again the compiler leaves out
    vec f = least(least(c[1][4], c[2][3]), least(c[3][2], c[4][1]));
    sort3(d, c[2][2], f);
    return c[2][2];
}

inline vec median9(vec c[3][3]) {
    for (int rank = 0; rank < 3; rank++) sort3(c[rank][0], c[rank][1], c[rank][2]);
    sort3(c[0][2], c[1][1], c[2][0]);
    return c[1][1];
}

struct Median {
    const Size& size;
    float* sorted;  // five lines

    // WIDTH x WIDTH pixels of one field, with the border repeated outside, as cv::medianBlur has it.
    template <int WIDTH>
    void filter(const State& from, int field, const Plane& to) const {
        for (int y = 0; y < size.height; y++) {
            sort_columns<WIDTH>(from, field, y);
            float* out = to.row(y);
            for (int x = 0; x < size.width; x += LANES) {
                vec c[WIDTH][WIDTH];
                for (int rank = 0; rank < WIDTH; rank++)
                    for (int i = 0; i < WIDTH; i++) c[rank][i] = load(line(rank) + x + i - WIDTH / 2);
                if constexpr (WIDTH == 5) store(out + x, median25(c));
                if constexpr (WIDTH == 3) store(out + x, median9(c));
            }
        }
    }

    float* line(int rank) const { return sorted + std::ptrdiff_t(rank) * size.stride + PADDING; }

    // A column is sorted once for all the windows it is in.
    template <int WIDTH>
    void sort_columns(const State& from, int field, int y) const {
        const float* rows[WIDTH];
        for (int i = 0; i < WIDTH; i++) rows[i] = from.row(std::clamp(y + i - WIDTH / 2, 0, size.height - 1)) + field * GROUP;
        for (int x = 0; x < size.width; x += LANES) {
            vec v[WIDTH];
            for (int i = 0; i < WIDTH; i++) v[i] = load(rows[i] + offset<CHANGING>(x));
            if constexpr (WIDTH == 5) sort5(v[0], v[1], v[2], v[3], v[4]);
            if constexpr (WIDTH == 3) sort3(v[0], v[1], v[2]);
            for (int i = 0; i < WIDTH; i++) store(line(i) + x, v[i]);
        }
        for (int rank = 0; rank < WIDTH; rank++)
            for (int i = 1; i <= WIDTH / 2; i++) line(rank)[-i] = line(rank)[0], line(rank)[size.width - 1 + i] = line(rank)[size.width - 1];
    }
};

// ----------------------------------------------------------------------------------------------------------------- solver

struct Level {  // of the pyramid
    Size size;
    Plane first, second, u1, u2;
    Taps down_x, down_y, up_x, up_y;  // from and to the level that is one step finer
};

struct Tvl1 final : reaction::Solver {
    const Parameters parameters;
    const bool cuda;
    const Steps steps;
    std::vector<Level> levels;  // the finest first
    Memory memory;
    float *line, *sorted, *spare, *sums, *work;
    Plane gx, gy, smooth1, smooth2;
    Data data;
    State state, other;  // the iterations go from one to the other, and the two change names
    int usual = 0;       // iterations between the last two median filters

    Tvl1(const Parameters& given, int height, int width)
        : parameters(given),
          cuda(given.semantics == OPENCV_CUDA),
          steps{float(given.lambda * given.theta), float(given.theta), float(given.tau / given.theta)},
          levels(measured(height, width)),
          memory(wanted()) {
        for (std::size_t i = 0; i < levels.size(); i++) {
            Level& level = levels[i];
            for (Plane* plane : {&level.first, &level.second, &level.u1, &level.u2}) *plane = memory.plane(level.size);
            if (i) aim(level, levels[i - 1].size);
        }
        const Size& size = levels[0].size;
        line = memory.line(size.stride);
        spare = memory.line(State::span(size));
        sorted = memory.line(5 * std::size_t(size.stride));
        sums = memory.line(std::size_t(size.stride) * parameters.block);
        work = memory.next;
    }

    // OpenCV ends the pyramid before a side is shorter than 16.
    std::vector<Level> measured(int height, int width) const {
        std::vector<Level> found;
        while (int(found.size()) < parameters.nscales) {
            found.push_back(Level{Size{height, width, padded(width)}, {}, {}, {}, {}, {}, {}, {}, {}});
            height = int(std::nearbyint(height * parameters.scale_step));
            width = int(std::nearbyint(width * parameters.scale_step));
            if (height < SMALLEST || width < SMALLEST) break;
        }
        return found;
    }

    // All that the constructor and `cut` take from the memory; the finest level is the largest. Lines are rounded up to a group.
    std::size_t wanted() const {
        const Size& size = levels[0].size;
        std::size_t floats = 4 * size.plane() + Data::floats(size) + 2 * State::floats(size);
        floats += (6 + std::size_t(parameters.block)) * size.stride + State::span(size) + 8 * GROUP;
        for (const Level& level : levels)
            floats += 4 * level.size.plane() + 12 * (std::size_t(size.height) + size.width + 2 * GROUP);
        return floats;
    }

    Taps taps(int count, int source, double ratio) {
        Taps made{reinterpret_cast<int*>(memory.line(count)), reinterpret_cast<int*>(memory.line(count)), memory.line(count)};
        made.aim(count, source, ratio, !cuda);
        return made;
    }

    void aim(Level& coarse, const Size& fine) {
        const Size& size = coarse.size;
        double step = 1 / parameters.scale_step;
        coarse.down_x = taps(size.width, fine.width, step);
        coarse.down_y = taps(size.height, fine.height, step);
        coarse.up_x = taps(fine.width, size.width, double(size.width) / fine.width);
        coarse.up_y = taps(fine.height, size.height, double(size.height) / fine.height);
    }

    // The working memory, cut anew for every level, so that it stays in the cache.
    void cut(const Size& size) {
        memory.next = work;
        for (Plane* plane : {&gx, &gy, &smooth1, &smooth2}) *plane = memory.plane(size);
        blocks(data, size);
        blocks(state, size);
        blocks(other, size);
        std::memset(state.row(-1), 0, sizeof(float) * State::floats(size));  // there are no duals yet,
        std::memset(other.row(-1), 0, sizeof(float) * other.stride);         // and never any above the picture
    }

    template <int FIELDS>
    void blocks(Blocks<FIELDS>& made, const Size& size) {
        made.stride = Blocks<FIELDS>::span(size);
        made.origin = memory.line(Blocks<FIELDS>::floats(size)) + made.stride;
    }

    void pack(const Plane& plane, int field, const Size& size) {
        for (int y = 0; y < size.height; y++)
            for (int x = 0; x < size.width; x += LANES) store(state.at(y, x, field), load(plane.row(y) + x));
    }

    void unpack(int field, const Plane& plane, const Size& size) {
        for (int y = 0; y < size.height; y++)
            for (int x = 0; x < size.width; x += LANES) store(plane.row(y) + x, load(state.at(y, x, field)));
    }

    void pair(const float* one, const float* two, float* flow) override {
        pyramid(one, &Level::first);
        pyramid(two, &Level::second);
        for (std::size_t i = levels.size(); i-- > 0;) {
            cut(levels[i].size);
            if (i + 1 < levels.size()) {
                enlarge(&Level::u1, i, U1);
                enlarge(&Level::u2, i, U2);
            }
            solve(levels[i]);
        }
        const Level& finest = levels[0];
        const std::size_t width = finest.size.width, height = finest.size.height;
        for (std::size_t y = 0; y < height; y++) {
            std::memcpy(flow + y * width, finest.u1.row(int(y)), sizeof(float) * width);
            std::memcpy(flow + (height + y) * width, finest.u2.row(int(y)), sizeof(float) * width);
        }
    }

    void pyramid(const float* picture, Plane Level::*plane) {
        const Size& size = levels[0].size;
        for (int y = 0; y < size.height; y++)
            std::memcpy((levels[0].*plane).row(y), picture + std::size_t(y) * size.width, sizeof(float) * size.width);
        for (std::size_t i = 1; i < levels.size(); i++) {
            const Level &fine = levels[i - 1], &coarse = levels[i];
            if (coarse.size.height == fine.size.height && coarse.size.width == fine.size.width)  // resizing to the same size copies
                std::memcpy((coarse.*plane).row(0), (fine.*plane).row(0), sizeof(float) * (std::size_t(fine.size.height) * fine.size.stride - PADDING));
            else
                resize(fine.*plane, coarse.*plane, coarse.size, fine.size.width, coarse.down_x, coarse.down_y, 1.0f, line);
        }
    }

    // The flow of the coarser level, in this level's size and pixels.
    void enlarge(Plane Level::*plane, std::size_t i, Changing field) {
        const Level &fine = levels[i], &coarse = levels[i + 1];
        float factor = float(1 / parameters.scale_step);
        resize(coarse.*plane, fine.*plane, fine.size, coarse.size.width, coarse.up_x, coarse.up_y, factor, line);
        pack(fine.*plane, field, fine.size);
    }

    void solve(const Level& level) {
        const Size& size = level.size;
        gradients(level.second, gx, gy, size);
        const Plane* sampled[] = {&level.second, &gx, &gy};
        for (const Plane* plane : sampled) surround(*plane, size, cuda);
        for (int i = 0; i < parameters.warps; i++) {
            if (cuda)
                Warp<OPENCV_CUDA>{level.second, gx, gy, size}.linearise(level.first, state, data);
            else if (parameters.semantics == OPENCV_CPU)
                Warp<OPENCV_CPU>{level.second, gx, gy, size}.linearise(level.first, state, data);
            else
                Warp<OPENCV5_CPU>{level.second, gx, gy, size}.linearise(level.first, state, data);
            iterate(size);
        }
        unpack(U1, level.u1, size);
        unpack(U2, level.u2, size);
    }

    void iterate(const Size& size) {
        Iterations iterations{size, data, steps, spare, sums};
        double area = double(size.height) * size.width;
        double threshold = parameters.epsilon * parameters.epsilon * area;
        if (cuda) return until_checked(iterations, threshold);
        double error = HUGE_VAL;
        for (int outer = 0; outer < parameters.outer_iterations && error > threshold; outer++) {
            if (parameters.median > 1) smooth(size);
            error = until_small(iterations, float(threshold), error);
        }
    }

    void smooth(const Size& size) {
        Median median{size, sorted};
        for (auto [field, plane] : {std::pair(U1, smooth1), std::pair(U2, smooth2)}) {
            if (parameters.median == 5)
                median.filter<5>(state, field, plane);
            else
                median.filter<3>(state, field, plane);
            pack(plane, field, size);
        }
    }

    // OpenCV's CUDA code: the change is looked at after an odd iteration, and then not before as many more have passed as it is times
    // too large.
    void until_checked(const Iterations& iterations, double threshold) {
        double error = 0;
        long done = 0, most = long(parameters.inner_iterations) * parameters.outer_iterations;
        while (done < most) {
            int count = 0;
            bool check = false;
            while (!check && count < parameters.block && done + count < most) {
                check = parameters.epsilon > 0 && (done + count) % 2 == 1 && error < threshold;
                if (!check) error -= threshold;
                count++;
            }
            double errors[MOST_BLOCK];
            iterations.run(state, state, count, check ? count - 1 : count, errors);  // in place: nothing is run again
            done += count;
            if (check) {
                error = errors[count - 1];
                if (error <= threshold) return;
            }
        }
    }

    // OpenCV's CPU code: the change is looked at after every iteration. A block in which it falls below the threshold is run again as far
    // as there; how the changes shrink says how long a block may be.
    double until_small(const Iterations& iterations, double threshold, double error) {
        double errors[MOST_BLOCK], before = 0;
        int done = 0;
        while (done < parameters.inner_iterations) {
            int count = std::min({parameters.block, parameters.inner_iterations - done, expected(before, error, threshold)});
            iterations.run(state, count > 1 ? other : state, count, 0, errors);
            int stop = 0;
            while (stop < count - 1 && errors[stop] > threshold) stop++;
            if (stop < count - 1) iterations.run(state, other, stop + 1, stop + 1, errors);
            if (count > 1) std::swap(state, other);
            done += stop + 1;
            before = stop ? errors[stop - 1] : error;
            error = errors[stop];
            if (error <= threshold) break;
        }
        usual = done;
        return error;
    }

    // Iterations until the change is at the threshold, if it goes on shrinking by the last factor. Where none is known, fewer than the warp
    // before took: what is run beyond the end is lost.
    int expected(double before, double error, double threshold) const {
        if (!(threshold > 0)) return parameters.block;
        if (!(before > error) || std::isinf(before)) return std::clamp(usual / 2, 1, 3);
        double left = std::log(threshold / error) / std::log(error / before);
        return left < 1 ? 1 : left > parameters.block ? parameters.block : int(left);
    }
};

}  // namespace

#define REACTION_JOIN(a, b) a##b
#define REACTION_MAKE(isa) REACTION_JOIN(make_, isa)

namespace reaction {
Solver* REACTION_MAKE(REACTION_ISA)(const Parameters& parameters, int height, int width) {
    return new Tvl1(parameters, height, width);
}
}  // namespace reaction
