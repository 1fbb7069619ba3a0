// reaction.flow._tvl1: TV-L1 for Python. It chooses the instruction set of this machine and spreads the pairs over threads.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "_tvl1_solver.hpp"

namespace nb = nanobind;
using namespace reaction;

namespace {

constexpr int BLOCK = 8;  // iterations in one wave

typedef nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu> Frames;  // (n, H, W)
typedef nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu> Flow;          // (n-1, 2, H, W)

// Those that this machine has, the fastest first.
std::vector<std::pair<std::string, Make>> instruction_sets() {
    std::vector<std::pair<std::string, Make>> found;
#ifdef REACTION_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        found.emplace_back("avx512", make_avx512);
    if (__builtin_cpu_supports("avx2")) found.emplace_back("avx2", make_avx2);
#endif
    found.emplace_back("baseline", make_baseline);
    return found;
}

std::vector<std::string> names() {
    std::vector<std::string> found;
    for (auto& [name, make] : instruction_sets()) found.push_back(name);
    return found;
}

Make chosen(const std::string& wanted) {
    for (auto& [name, make] : instruction_sets())
        if (wanted == "auto" || wanted == name) return make;
    throw std::invalid_argument("TV-L1: this machine has no instruction set " + wanted);
}

void solve(const Frames& frames, const Flow& flow, const Parameters& parameters, int threads, Make make) {
    const std::size_t pairs = flow.shape(0), height = frames.shape(1), width = frames.shape(2);
    std::atomic<std::size_t> next{0};
    std::atomic<bool> failed{false};
    auto work = [&] {
        std::unique_ptr<Solver> solver(make(parameters, int(height), int(width)));
        if (!solver) {
            failed = true;
            return;
        }
        for (std::size_t i = next++; i < pairs; i = next++)
            solver->pair(frames.data() + i * height * width, frames.data() + (i + 1) * height * width, flow.data() + i * 2 * height * width);
    };
    std::vector<std::thread> helpers;
    for (int i = 1; i < std::min(threads, int(pairs)); i++) helpers.emplace_back(work);
    work();
    for (std::thread& helper : helpers) helper.join();
    if (failed) throw std::bad_alloc();
}

void tvl1(const Frames& frames, const Flow& flow, double tau, double lambda, double theta, int nscales, int warps, double epsilon,
          int inner_iterations, int outer_iterations, double scale_step, int median, const std::string& semantics, int threads,
          const std::string& instruction_set, int block) {
    const std::vector<std::string> known = {"opencv-cuda", "opencv-cpu", "opencv5-cpu"};  // in the order of Semantics
    auto found = std::find(known.begin(), known.end(), semantics);
    if (found == known.end()) throw std::invalid_argument("TV-L1: unknown semantics " + semantics);
    if (frames.shape(0) != flow.shape(0) + 1 || flow.shape(1) != 2 || flow.shape(2) != frames.shape(1) || flow.shape(3) != frames.shape(2))
        throw std::invalid_argument("TV-L1: flow must have the shape (n-1, 2, H, W) for frames (n, H, W)");
    if (frames.shape(1) < 16 || frames.shape(2) < 16) throw std::invalid_argument("TV-L1: frames must have at least 16 pixels a side");
    if (threads < 1 || block < 1 || block > MOST_BLOCK) throw std::invalid_argument("TV-L1: threads must be positive, block 1 to 32");
    if (median != 1 && median != 3 && median != 5) throw std::invalid_argument("TV-L1: median must be 1, 3 or 5");
    Parameters parameters{tau, lambda, theta, epsilon, scale_step, nscales, warps, inner_iterations, outer_iterations, median,
                          Semantics(found - known.begin()), block};
    Make make = chosen(instruction_set);
    nb::gil_scoped_release released;
    solve(frames, flow, parameters, threads, make);
}

}  // namespace

NB_MODULE(_tvl1, module) {
    module.def("instruction_sets", names, "Those of this build that this machine has, the fastest first.");
    module.def("tvl1", tvl1, nb::arg("frames"), nb::arg("flow"), nb::kw_only(), nb::arg("tau"), nb::arg("lambda_"), nb::arg("theta"),
               nb::arg("nscales"), nb::arg("warps"), nb::arg("epsilon"), nb::arg("inner_iterations"), nb::arg("outer_iterations"),
               nb::arg("scale_step"), nb::arg("median"), nb::arg("semantics"), nb::arg("threads"), nb::arg("instruction_set") = "auto",
               nb::arg("block") = BLOCK, "Writes the flow of frames, float32 (n, H, W) in 0..255, into float32 (n-1, 2, H, W).");
}
