// The inner loop of indirect.cc and winograd.cc: sums that stay in registers; and where they go.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "product.h"

namespace flax_resnet {

// What follows the last block of a tile's sums.
struct Finish {
  const float* bias;              // or null
  const float* const* residuals;  // of each pixel of the tile, or null
  bool relu;
};

// By the instruction for lines to be written, which processors that lack it take for nothing.
inline void ask_for_result(float* first) { asm volatile("prefetchw %0" : : "m"(*first)); }

inline void ask_for_results(float* const* rows, std::int64_t feature) {
  for (std::int64_t i = 0; i < tile_rows; ++i) ask_for_result(rows[i] + feature);
}

// One channel of the sums.
__attribute__((target("avx2,fma"), always_inline)) inline void add_step(
    const float* const (&pixels)[tile_rows], std::int64_t k, const float* panel,
    __m256 (&sums)[tile_rows][2]) {
  const __m256 low = _mm256_load_ps(panel), high = _mm256_load_ps(panel + 8);
#pragma GCC unroll 6
  for (int i = 0; i < tile_rows; ++i) {
    const __m256 value = _mm256_broadcast_ss(pixels[i] + k);
    sums[i][0] = _mm256_fmadd_ps(value, low, sums[i][0]);
    sums[i][1] = _mm256_fmadd_ps(value, high, sums[i][1]);
  }
}

// Six pixels by 16 features: set to a block's sums, or added to what is there unless `first`. Every so
// many steps a line of `ahead`, which is to come into the second-level cache, is asked for; 0: none.
// (Nothing need be there: asking does not read.)
template <int steps_a_line = 0>
__attribute__((target("avx2,fma"))) inline void multiply(
    const float* const* sources, std::int64_t taps, std::int64_t channel, std::int64_t channels,
    const float* panel, float* const* results, std::int64_t feature, bool first,
    const Finish* last, const float* ahead = nullptr) {
  __m256 acc[tile_rows][2];
  if (first) {
#pragma GCC unroll 6
    for (int i = 0; i < tile_rows; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  } else {
#pragma GCC unroll 6
    for (int i = 0; i < tile_rows; ++i) {
      acc[i][0] = _mm256_loadu_ps(results[i] + feature);
      acc[i][1] = _mm256_loadu_ps(results[i] + feature + 8);
    }
  }
  for (std::int64_t tap = 0; tap < taps; ++tap, sources += tile_rows) {
    const float* pixels[tile_rows];
    for (int i = 0; i < tile_rows; ++i) pixels[i] = sources[i] + channel;
    std::int64_t k = 0;
    if constexpr (steps_a_line > 0) {
      for (; k + steps_a_line <= channels; ahead += tile_columns) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
#pragma GCC unroll 8
        for (int i = 0; i < steps_a_line; ++i, ++k, panel += tile_columns) {
          add_step(pixels, k, panel, acc);
        }
      }
    }
#pragma GCC unroll 4
    for (; k < channels; ++k, panel += tile_columns) add_step(pixels, k, panel, acc);
  }
  if (last != nullptr) {
    if (last->bias != nullptr) {
      const __m256 low = _mm256_loadu_ps(last->bias + feature);
      const __m256 high = _mm256_loadu_ps(last->bias + feature + 8);
#pragma GCC unroll 6
      for (int i = 0; i < tile_rows; ++i) {
        acc[i][0] = _mm256_add_ps(acc[i][0], low);
        acc[i][1] = _mm256_add_ps(acc[i][1], high);
      }
    }
    if (last->residuals != nullptr) {
#pragma GCC unroll 6
      for (int i = 0; i < tile_rows; ++i) {
        const float* const residual = last->residuals[i] + feature;
        acc[i][0] = _mm256_add_ps(acc[i][0], _mm256_loadu_ps(residual));
        acc[i][1] = _mm256_add_ps(acc[i][1], _mm256_loadu_ps(residual + 8));
      }
    }
    if (last->relu) {
      const __m256 zero = _mm256_setzero_ps();
#pragma GCC unroll 6
      for (int i = 0; i < tile_rows; ++i) {
        acc[i][0] = _mm256_max_ps(zero, acc[i][0]);  // of a NaN, the second
        acc[i][1] = _mm256_max_ps(zero, acc[i][1]);
      }
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < tile_rows; ++i) {
    _mm256_storeu_ps(results[i] + feature, acc[i][0]);
    _mm256_storeu_ps(results[i] + feature + 8, acc[i][1]);
  }
}

}  // namespace flax_resnet
