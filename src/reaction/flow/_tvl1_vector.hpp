// Vectors of the machine's own width, from the compiler's vector extensions (GCC and Clang).
//
// Only additions, multiplications, divisions, square roots, minima and maxima are used, one rounding each and in one order, so every
// instruction set gives the same bits; -ffp-contract=off keeps the compiler from fusing them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define REACTION_LANES 16
#elif defined(__AVX2__)
#define REACTION_LANES 8
#else
#define REACTION_LANES 4
#endif

namespace {  // every instruction set compiles its own copy of everything here

constexpr int LANES = REACTION_LANES;
constexpr int GROUP = 16;  // columns that lie together in memory, whatever the width of the machine's vectors

using vec __attribute__((vector_size(4 * LANES))) = float;
using ivec __attribute__((vector_size(4 * LANES))) = std::int32_t;
using vec_unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias)) = float;
using ivec_unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias)) = std::int32_t;

inline vec load(const float* at) { return *reinterpret_cast<const vec_unaligned*>(at); }
inline void store(float* at, vec value) { *reinterpret_cast<vec_unaligned*>(at) = value; }
inline ivec load(const std::int32_t* at) { return *reinterpret_cast<const ivec_unaligned*>(at); }
inline void store(std::int32_t* at, ivec value) { *reinterpret_cast<ivec_unaligned*>(at) = value; }
inline vec splat(float value) { return vec{} + value; }
inline ivec splat(std::int32_t value) { return ivec{} + value; }
inline vec as_float(ivec value) { return __builtin_convertvector(value, vec); }
inline ivec as_int(vec value) { return __builtin_convertvector(value, ivec); }  // towards zero

#if defined(__AVX512F__)
inline vec root(vec a) { return (vec)_mm512_sqrt_ps((__m512)a); }
inline vec least(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
inline vec greatest(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__)
inline vec root(vec a) { return (vec)_mm256_sqrt_ps((__m256)a); }
inline vec least(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
inline vec greatest(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
#elif defined(__SSE2__)
inline vec root(vec a) { return (vec)_mm_sqrt_ps((__m128)a); }
inline vec least(vec a, vec b) { return (vec)_mm_min_ps((__m128)a, (__m128)b); }
inline vec greatest(vec a, vec b) { return (vec)_mm_max_ps((__m128)a, (__m128)b); }
#else
inline vec root(vec a) {
    for (int lane = 0; lane < LANES; lane++) a[lane] = __builtin_sqrtf(a[lane]);
    return a;
}
inline vec least(vec a, vec b) { return a < b ? a : b; }
inline vec greatest(vec a, vec b) { return a > b ? a : b; }
#endif

// Bit i of the result: lane i of a comparison's outcome.
inline unsigned bits(ivec outcome) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)outcome, (__m512i)outcome);
#elif defined(__AVX2__)
    return unsigned(_mm256_movemask_ps((__m256)outcome));
#elif defined(__SSE2__)
    return unsigned(_mm_movemask_ps((__m128)outcome));
#else
    unsigned found = 0;
    for (int lane = 0; lane < LANES; lane++) found |= unsigned(outcome[lane] & 1) << lane;
    return found;
#endif
}

inline ivec counting_from(int first) {
    ivec lanes;
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = first + lane;
    return lanes;
}

template <int... LANE>
inline vec pick(vec a, vec b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, LANE...);
#else
    return __builtin_shuffle(a, b, ivec{LANE...});
#endif
}

// The lanes of two neighbours seen one column further right: a[1], a[2], ..., b[0].
template <int... LANE>
inline vec right_of(vec a, vec b, std::integer_sequence<int, LANE...>) { return pick<LANE + 1 ...>(a, b); }
inline vec right_of(vec a, vec b) { return right_of(a, b, std::make_integer_sequence<int, LANES>()); }

// One column further left: a[last], b[0], b[1], ...
template <int... LANE>
inline vec left_of(vec a, vec b, std::integer_sequence<int, LANE...>) { return pick<LANE + LANES - 1 ...>(a, b); }
inline vec left_of(vec a, vec b) { return left_of(a, b, std::make_integer_sequence<int, LANES>()); }

inline vec clamp(vec value, vec low, vec high) { return least(greatest(value, low), high); }

// To the nearest integer, halves to the even one, for |value| < 2^22.
inline vec nearest(vec value) {
    const float shift = 12582912.0f;  // 1.5 * 2^23: the sum has no room for a fraction
    return (value + shift) - shift;
}

}  // namespace
