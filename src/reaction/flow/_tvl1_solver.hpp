// What the binding and the solver, compiled once per instruction set, know of each other.
#pragma once
#include <cstddef>

namespace reaction {

enum Semantics : int { OPENCV_CUDA = 0, OPENCV_CPU = 1, OPENCV5_CPU = 2 };

constexpr int MOST_BLOCK = 32;

struct Parameters {
    double tau, lambda, theta, epsilon, scale_step;
    int nscales, warps, inner_iterations, outer_iterations, median;
    Semantics semantics;
    int block;  // iterations that cross the picture together: the speed depends on it, no result does
};

struct Solver {  // one pair at a time; its memory is taken once and used for every pair
    virtual ~Solver() {}
    // Pictures of height x width values in 0..255, row after row; flow is 2 x height x width, x before y.
    virtual void pair(const float* first, const float* second, float* flow) = 0;
};

// The caller deletes what these make. They throw std::bad_alloc.
using Make = Solver* (*)(const Parameters&, int height, int width);
Solver* make_baseline(const Parameters&, int height, int width);
Solver* make_avx2(const Parameters&, int height, int width);
Solver* make_avx512(const Parameters&, int height, int width);

}  // namespace reaction
