// The GEMM microkernel of indirect.cc and winograd.cc: an MR x NR tile of sums stays in registers.
#pragma once

#include <cstdint>

#include "epilogue.h"
#include "vector.h"

namespace flax_resnet::ISA {

// Prefetches a cache line that will be written. Processors without the instruction ignore it.
inline void prefetch_for_write(float* address) { asm volatile("prefetchw %0" : : "m"(*address)); }

// Prefetches `width` floats of each of `count` rows.
inline void prefetch_rows_for_write(float* const* rows, std::int64_t count, std::int64_t feature,
                                    std::int64_t width) {
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t f = 0; f < width; f += line_floats) prefetch_for_write(rows[i] + feature + f);
  }
}

// Adds the products of one channel to the tile.
template <int vectors>
SIMD_INLINE void accumulate(const float* const (&pixels)[mr], std::int64_t k, const float* panel,
                            Vector (&sums)[mr][vectors]) {
  const Vector low = load(panel), high = vectors == 2 ? load(panel + lanes) : low;
#pragma GCC unroll 16
  for (int i = 0; i < mr; ++i) {
    const Vector value = broadcast(pixels[i] + k);
    sums[i][0] = fmadd(value, low, sums[i][0]);
    if constexpr (vectors == 2) sums[i][1] = fmadd(value, high, sums[i][1]);
  }
}

// Computes one tile of the result over one block of K: MR pixels by one or two vectors of features.
//
// `sources` holds pointers to MR pixels for each tap, `panel` the packed kernel, and `results`
// pointers to the MR pixels of the result. With `is_first` the sums start at zero, otherwise at the
// stored results. `epilogue`, if it is not null, is applied to the sums; `residuals` are its
// pixels, or null.
//
// If steps_per_line is positive, NR floats of `next_panel` are prefetched into the L2 cache every
// steps_per_line channels. A prefetch never faults, so `next_panel` may point past the end of an
// array.
template <int vectors, int steps_per_line = 0>
SIMD inline void multiply_tile(const float* const* sources, std::int64_t taps, std::int64_t channel,
                               std::int64_t channels, const float* panel, float* const* results,
                               std::int64_t feature, bool is_first, const Epilogue* epilogue,
                               const float* const* residuals, const float* next_panel = nullptr) {
  Vector acc[mr][vectors];
  if (is_first) {
#pragma GCC unroll 16
    for (int i = 0; i < mr; ++i) {
      acc[i][0] = zero();
      if constexpr (vectors == 2) acc[i][1] = zero();
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < mr; ++i) {
      acc[i][0] = load(results[i] + feature);
      if constexpr (vectors == 2) acc[i][1] = load(results[i] + feature + lanes);
    }
  }
  for (std::int64_t tap = 0; tap < taps; ++tap, sources += mr) {
    const float* pixels[mr];
    for (int i = 0; i < mr; ++i) pixels[i] = sources[i] + channel;
    std::int64_t k = 0;
    if constexpr (steps_per_line > 0) {
      for (; k + steps_per_line <= channels; next_panel += nr) {
        for (std::int64_t f = 0; f < nr; f += line_floats) {
          _mm_prefetch(reinterpret_cast<const char*>(next_panel + f), _MM_HINT_T1);
        }
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
      const Vector low = load(bias), high = vectors == 2 ? load(bias + lanes) : low;
#pragma GCC unroll 16
      for (int i = 0; i < mr; ++i) {
        acc[i][0] = add(acc[i][0], low);
        if constexpr (vectors == 2) acc[i][1] = add(acc[i][1], high);
      }
    }
    if (residuals != nullptr) {
#pragma GCC unroll 16
      for (int i = 0; i < mr; ++i) {
        const float* const residual = residuals[i] + feature;
        acc[i][0] = add(acc[i][0], load(residual));
        if constexpr (vectors == 2) acc[i][1] = add(acc[i][1], load(residual + lanes));
      }
    }
    if (epilogue->relu) {
#pragma GCC unroll 16
      for (int i = 0; i < mr; ++i) {
        acc[i][0] = relu(acc[i][0]);
        if constexpr (vectors == 2) acc[i][1] = relu(acc[i][1]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < mr; ++i) {
    store(results[i] + feature, acc[i][0]);
    if constexpr (vectors == 2) store(results[i] + feature + lanes, acc[i][1]);
  }
}

}  // namespace flax_resnet::ISA
