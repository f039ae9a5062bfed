// The GEMM microkernel of indirect.cc and winograd.cc: an MR x NR tile of sums stays in registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "epilogue.h"
#include "implicit_gemm.h"

namespace flax_resnet {

// Prefetches a cache line that will be written. Processors without the instruction ignore it.
inline void prefetch_for_write(float* address) { asm volatile("prefetchw %0" : : "m"(*address)); }

inline void prefetch_rows_for_write(float* const* rows, std::int64_t feature) {
  for (std::int64_t i = 0; i < mr; ++i) prefetch_for_write(rows[i] + feature);
}

// Adds the products of one channel to the tile.
__attribute__((target("avx2,fma"), always_inline)) inline void accumulate(
    const float* const (&pixels)[mr], std::int64_t k, const float* panel, __m256 (&sums)[mr][2]) {
  const __m256 low = _mm256_load_ps(panel), high = _mm256_load_ps(panel + 8);
#pragma GCC unroll 6
  for (int i = 0; i < mr; ++i) {
    const __m256 value = _mm256_broadcast_ss(pixels[i] + k);
    sums[i][0] = _mm256_fmadd_ps(value, low, sums[i][0]);
    sums[i][1] = _mm256_fmadd_ps(value, high, sums[i][1]);
  }
}

// Computes one MR x NR tile of the result over one block of K.
//
// `sources` holds pointers to MR pixels for each tap, `panel` the packed kernel, and `results`
// pointers to the MR pixels of the result. With `is_first` the sums start at zero, otherwise at the
// stored results. `epilogue`, if it is not null, is applied to the sums; `residuals` are its
// pixels, or null.
//
// If steps_per_line is positive, one cache line of `next_panel` is prefetched into the L2 cache
// every steps_per_line channels. A prefetch never faults, so `next_panel` may point past the end of
// an array.
template <int steps_per_line = 0>
__attribute__((target("avx2,fma"))) inline void multiply_tile(
    const float* const* sources, std::int64_t taps, std::int64_t channel, std::int64_t channels,
    const float* panel, float* const* results, std::int64_t feature, bool is_first,
    const Epilogue* epilogue, const float* const* residuals, const float* next_panel = nullptr) {
  __m256 acc[mr][2];
  if (is_first) {
#pragma GCC unroll 6
    for (int i = 0; i < mr; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  } else {
#pragma GCC unroll 6
    for (int i = 0; i < mr; ++i) {
      acc[i][0] = _mm256_loadu_ps(results[i] + feature);
      acc[i][1] = _mm256_loadu_ps(results[i] + feature + 8);
    }
  }
  for (std::int64_t tap = 0; tap < taps; ++tap, sources += mr) {
    const float* pixels[mr];
    for (int i = 0; i < mr; ++i) pixels[i] = sources[i] + channel;
    std::int64_t k = 0;
    if constexpr (steps_per_line > 0) {
      for (; k + steps_per_line <= channels; next_panel += nr) {
        _mm_prefetch(reinterpret_cast<const char*>(next_panel), _MM_HINT_T1);
#pragma GCC unroll 8
        for (int i = 0; i < steps_per_line; ++i, ++k, panel += nr) {
          accumulate(pixels, k, panel, acc);
        }
      }
    }
#pragma GCC unroll 4
    for (; k < channels; ++k, panel += nr) accumulate(pixels, k, panel, acc);
  }
  if (epilogue != nullptr) {
    if (const float* const bias = epilogue->bias_at(feature); bias != nullptr) {
      const __m256 low = _mm256_loadu_ps(bias);
      const __m256 high = _mm256_loadu_ps(bias + 8);
#pragma GCC unroll 6
      for (int i = 0; i < mr; ++i) {
        acc[i][0] = _mm256_add_ps(acc[i][0], low);
        acc[i][1] = _mm256_add_ps(acc[i][1], high);
      }
    }
    if (residuals != nullptr) {
#pragma GCC unroll 6
      for (int i = 0; i < mr; ++i) {
        const float* const residual = residuals[i] + feature;
        acc[i][0] = _mm256_add_ps(acc[i][0], _mm256_loadu_ps(residual));
        acc[i][1] = _mm256_add_ps(acc[i][1], _mm256_loadu_ps(residual + 8));
      }
    }
    if (epilogue->relu) {
      const __m256 zero = _mm256_setzero_ps();
#pragma GCC unroll 6
      for (int i = 0; i < mr; ++i) {
        acc[i][0] = _mm256_max_ps(zero, acc[i][0]);  // Returns the second operand if one is NaN.
        acc[i][1] = _mm256_max_ps(zero, acc[i][1]);
      }
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < mr; ++i) {
    _mm256_storeu_ps(results[i] + feature, acc[i][0]);
    _mm256_storeu_ps(results[i] + feature + 8, acc[i][1]);
  }
}

}  // namespace flax_resnet
