// reaction.flow._tvl1: TV-L1 for Python. It chooses the instruction set of this machine and spreads the pairs over threads.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "_tvl1_solver.hpp"

namespace nb = nanobind;
using namespace reaction;

namespace {

constexpr int BLOCK = 8;  // iterations in one wave

using Frames = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;  // (n, H, W)
using Flow = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;          // (n-1, 2, H, W)

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

// The pairs of one call, shared among threads. The first error stops them all and is thrown where they were started.
class Work {
   public:
    Work(const Frames& frames, const Flow& flow, const Parameters& parameters, Make make)
        : frames(frames.data()), flow(flow.data()), pairs(flow.shape(0)), height(frames.shape(1)), width(frames.shape(2)),
          parameters(parameters), make(make) {}

    void run(int threads) {
        std::vector<std::thread> helpers;
        try {
            for (int i = 1; i < threads && std::size_t(i) < pairs; i++) helpers.emplace_back([this] { share(false); });
        } catch (const std::system_error&) {  // no more threads are to be had: those there are do it
        }
        share(true);
        for (std::thread& helper : helpers) helper.join();
        if (error) std::rethrow_exception(error);
    }

   private:
    const float* frames;
    float* flow;
    const std::size_t pairs, height, width;
    const Parameters& parameters;
    const Make make;
    std::atomic<std::size_t> next{0};
    std::mutex guard;
    std::exception_ptr error;

    void share(bool caller) noexcept {
        try {
            std::unique_ptr<Solver> solver(make(parameters, int(height), int(width)));
            const std::size_t pixels = height * width;
            for (std::size_t i = next++; i < pairs; i = next++) {
                solver->pair(frames + i * pixels, frames + (i + 1) * pixels, flow + i * 2 * pixels);
                if (caller) look_for_interrupt();
            }
        } catch (...) {
            std::lock_guard<std::mutex> lock(guard);
            if (!error) error = std::current_exception();
            next = pairs;
        }
    }

    static void look_for_interrupt() {
        nb::gil_scoped_acquire acquired;
        if (PyErr_CheckSignals()) throw nb::python_error();
    }
};

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
    for (double real : {tau, lambda, theta, epsilon, scale_step})
        if (!std::isfinite(real) || real < 0) throw std::invalid_argument("TV-L1: a parameter is negative or not finite");
    if (theta == 0 || scale_step == 0 || scale_step >= 1) throw std::invalid_argument("TV-L1: theta > 0 and 0 < scale_step < 1");
    if (nscales < 1 || warps < 1 || inner_iterations < 1 || outer_iterations < 1)
        throw std::invalid_argument("TV-L1: nscales, warps and both iterations must be positive");
    Parameters parameters{tau, lambda, theta, epsilon, scale_step, nscales, warps, inner_iterations, outer_iterations, median,
                          Semantics(found - known.begin()), block};
    Make make = chosen(instruction_set);
    Work work(frames, flow, parameters, make);
    nb::gil_scoped_release released;
    work.run(threads);
}

}  // namespace

NB_MODULE(_tvl1, module) {
    module.attr("source") = REACTION_SOURCE;
    module.def("instruction_sets", names, "Those of this build that this machine has, the fastest first.");
    module.def("tvl1", tvl1, nb::arg("frames"), nb::arg("flow").noconvert(), nb::kw_only(), nb::arg("tau"), nb::arg("lambda_"), nb::arg("theta"),
               nb::arg("nscales"), nb::arg("warps"), nb::arg("epsilon"), nb::arg("inner_iterations"), nb::arg("outer_iterations"),
               nb::arg("scale_step"), nb::arg("median"), nb::arg("semantics"), nb::arg("threads"), nb::arg("instruction_set") = "auto",
               nb::arg("block") = BLOCK, "Writes the flow of frames, float32 (n, H, W) in 0..255, into float32 (n-1, 2, H, W).");
}
