// Winograd convolution (winograd.h): float32 3x3 kernels of stride 1, forward and input gradient.
#include "winograd.h"

#include <algorithm>
#include <vector>

#include "isa_algorithms.h"
#include "microkernel.h"
#include "outer_products.h"
#include "packing.h"
#include "scratch.h"
#include "tuning.h"

namespace flax_resnet::ISA {
namespace {

// The transformed input tiles of a task in bytes, which stay in the L2 cache, as do the products of
// tuning.winograd_panels.
constexpr std::int64_t task_bytes = 512 * 1024;
// With few input tiles the next panel is prefetched while one is multiplied, as in indirect.cc: one
// cache line every few channels, by at most the same number of tiles. (One 14x14 map is 1.1 times
// as fast.)
constexpr int steps_per_line = tuning.winograd_steps_per_line;
// The number of output tiles whose products take as long as transforming the filters, and as
// reading transformed filters.
constexpr std::int64_t tiles_per_packing = 60, tiles_per_reading = 10;

// The 1-D filter transform: three weights in a line to the six transform points.
SIMD_INLINE void filter_transform(const Vector (&g)[3], Vector (&to)[input_tile]) {
  const Vector even_p = multiply(broadcast(lagrange_p), fmadd(broadcast(p2), g[2], g[0]));
  const Vector even_q = multiply(broadcast(lagrange_q), fmadd(broadcast(q2), g[2], g[0]));
  to[0] = g[0];
  to[1] = fmadd(broadcast(lagrange_p * p1), g[1], even_p);
  to[2] = fnmadd(broadcast(lagrange_p * p1), g[1], even_p);
  to[3] = fmadd(broadcast(lagrange_q * q1), g[1], even_q);
  to[4] = fnmadd(broadcast(lagrange_q * q1), g[1], even_q);
  to[5] = g[2];
}

// The 1-D output transform: six products in a line to four pixels of the result.
SIMD_INLINE void output_transform(const Vector (&m)[input_tile], Vector (&to)[output_tile]) {
  const Vector sum_p = add(m[1], m[2]), sum_q = add(m[3], m[4]);
  const Vector difference_p = subtract(m[1], m[2]), difference_q = subtract(m[3], m[4]);
  to[0] = add(m[0], add(sum_p, sum_q));
  to[1] = fmadd(broadcast(p1), difference_p, multiply(broadcast(q1), difference_q));
  to[2] = fmadd(broadcast(p2), sum_p, multiply(broadcast(q2), sum_q));
  to[3] = fmadd(broadcast(p1 * p2), difference_p, fmadd(broadcast(q1 * q2), difference_q, m[5]));
}

// The padded size of one transform point's matrix of the packed filters.
std::int64_t filter_plane(const ImplicitGemm& p) {
  return padded_plane(p.channels * panel_count(p) * nr);
}

std::int64_t packed_size(const ImplicitGemm& p) { return transform_points * filter_plane(p); }

// The matrices of the 3x3 taps, by row and column.
struct FilterTaps {
  std::int64_t top, left;  // The source offset of the first tap.
  const float* at[3][3];

  FilterTaps(const ImplicitGemm& p, const float* kernel)
      : top(p.taps[0].row), left(p.taps[0].column) {
    for (const Tap& tap : p.taps) {
      top = std::min(top, tap.row);
      left = std::min(left, tap.column);
    }
    for (const Tap& tap : p.taps) {
      at[tap.row - top][tap.column - left] = kernel + tap.kernel_index * p.channels * p.features;
    }
  }
};

// The 2-D filter transform of a vector of filters at `offset` in the matrices of the taps.
SIMD_INLINE void transform_filter(const FilterTaps& filter, std::int64_t offset,
                                  Vector (&to)[transform_points]) {
  Vector half[input_tile][3];
  for (int j = 0; j < 3; ++j) {
    const Vector line[3] = {load(filter.at[0][j] + offset), load(filter.at[1][j] + offset),
                            load(filter.at[2][j] + offset)};
    Vector values[input_tile];
    filter_transform(line, values);
    for (int i = 0; i < input_tile; ++i) half[i][j] = values[i];
  }
  for (int i = 0; i < input_tile; ++i) {
    Vector values[input_tile];
    filter_transform(half[i], values);
    for (int j = 0; j < input_tile; ++j) to[i * input_tile + j] = values[j];
  }
}

// Transforms and packs one panel of NR features: [point][panel][channel][NR]. Of the last panel
// only the vectors that have features are written.
SIMD void pack_panel(const ImplicitGemm& p, const FilterTaps& filter, std::int64_t panel,
                     float* packed) {
  const std::int64_t plane = filter_plane(p);
  float* const out = packed + panel * p.channels * nr;
  const std::int64_t width = std::min(nr, p.features - panel * nr);
  Vector values[transform_points];
  if (!p.kernel_is_transposed) {
    for (std::int64_t c = 0; c < p.channels; ++c) {
      for (std::int64_t f = 0; f < width; f += lanes) {
        transform_filter(filter, c * p.features + panel * nr + f, values);
        for (int k = 0; k < transform_points; ++k) {
          store(out + k * plane + c * nr + f, values[k]);
        }
      }
    }
    return;
  }
  alignas(64) float block[transform_points][lanes * lanes];
  for (std::int64_t c = 0; c < p.channels; c += lanes) {
    for (std::int64_t f = 0; f < width; f += lanes) {
      for (std::int64_t i = 0; i < lanes; ++i) {
        transform_filter(filter, (panel * nr + f + i) * p.channels + c, values);
        for (int k = 0; k < transform_points; ++k) store(block[k] + i * lanes, values[k]);
      }
      for (int k = 0; k < transform_points; ++k) {
        for (std::int64_t i = 0; i < lanes; i += 8) {
          for (std::int64_t j = 0; j < lanes; j += 8) {
            transpose(block[k] + i * lanes + j, lanes, out + k * plane + (c + j) * nr + f + i);
          }
        }
      }
    }
  }
}

// The 2-D output transform of one tile, followed by the epilogue: `width` features from `feature`
// on. `offsets` locates the tile's 16 pixels in the result and the residual; negative ones are
// outside.
SIMD void write_output_tile(const float* from, std::int64_t plane, std::int64_t width,
                            const Epilogue& epilogue, std::int64_t feature,
                            const std::int64_t* offsets, float* result) {
  alignas(64) Vector half[output_tile][input_tile];
  for (std::int64_t f = 0; f < width; f += lanes) {
    for (int j = 0; j < input_tile; ++j) {
      Vector line[input_tile], values[output_tile];
#pragma GCC unroll 6
      for (int i = 0; i < input_tile; ++i) {
        line[i] = load(from + (i * input_tile + j) * plane + f);
      }
      output_transform(line, values);
#pragma GCC unroll 4
      for (int i = 0; i < output_tile; ++i) half[i][j] = values[i];
    }
    const float* const bias = epilogue.bias_at(feature + f);
    const float* const residual = epilogue.residual_at(f);
    const Vector bias_values = bias != nullptr ? load(bias) : zero();
    for (int i = 0; i < output_tile; ++i) {
      Vector values[output_tile];
      output_transform(half[i], values);
#pragma GCC unroll 4
      for (int j = 0; j < output_tile; ++j) {
        const std::int64_t to = offsets[i * output_tile + j];
        if (to < 0) continue;
        Vector sum = add(values[j], bias_values);
        if (residual != nullptr) sum = add(sum, load(residual + to));
        if (epilogue.relu) sum = relu(sum);
        store(result + to + f, sum);
      }
    }
  }
}

// Some output tiles and some panels of features, which one thread computes.
struct Task {
  std::int64_t first, count, first_panel, panels;
};

std::vector<Task> split(const ImplicitGemm& p, const OutputTiles& tiles, std::int64_t threads) {
  const std::int64_t count = tiles.count(), panels = panel_count(p);
  const std::int64_t bytes =
      transform_points * p.channels * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t max_tiles = std::max<std::int64_t>(4 * mr, task_bytes / bytes);
  const std::int64_t min_tile_tasks = ceil_div(count, max_tiles);
  const std::int64_t tile_tasks =
      min_tile_tasks > threads ? ceil_div(min_tile_tasks, threads) * threads : min_tile_tasks;
  const std::int64_t panel_tasks =
      tile_tasks >= threads ? 1 : std::min(panels, ceil_div(threads, tile_tasks));
  std::vector<Task> tasks;
  for (std::int64_t i = 0; i < tile_tasks; ++i) {
    for (std::int64_t j = 0; j < panel_tasks; ++j) {
      const std::int64_t begin = count * i / tile_tasks, from = panels * j / panel_tasks;
      tasks.push_back({begin, count * (i + 1) / tile_tasks - begin, from,
                       panels * (j + 1) / panel_tasks - from});
    }
  }
  return tasks;
}

// Computes one task: the input transform, the GEMMs of all transform points, and the output
// transform.
void run_task(const ImplicitGemm& p, const OutputTiles& tiles, const FilterTaps& filter,
              const Task& task, const float* packed, const Epilogue& epilogue) {
  thread_local Scratch inputs_scratch, products_scratch;
  thread_local std::vector<float> zeros;
  if (static_cast<std::int64_t>(zeros.size()) < p.channels) zeros.assign(p.channels, 0.0f);
  const std::int64_t plane = padded_plane(task.count * p.channels);
  auto* const inputs =
      static_cast<float*>(inputs_scratch.get(transform_points * plane * sizeof(float)));
  for (std::int64_t i = 0; i < task.count; ++i) {
    const float* from[transform_points];
    OutputTile(tiles, task.first + i)
        .pixels<input_tile>(p.source, p.height, p.width, p.channels, filter.top, filter.left,
                            zeros.data(), from);
    transform_tile<input_tile, input_transform>(from, 0, p.channels, plane,
                                                inputs + i * p.channels);
  }

  const std::int64_t gemm_tiles = ceil_div(task.count, mr);
  const std::int64_t width = std::min(tuning.winograd_panels, task.panels) * nr;
  const std::int64_t products_plane = padded_plane(gemm_tiles * mr * width);
  auto* const products =
      static_cast<float*>(products_scratch.get(transform_points * products_plane * sizeof(float)));
  const std::int64_t end = task.first_panel + task.panels;
  for (std::int64_t first = task.first_panel; first < end; first += tuning.winograd_panels) {
    const std::int64_t last = std::min(end, first + tuning.winograd_panels);
    for (std::int64_t k = 0; k < transform_points; ++k) {
      for (std::int64_t panel = first; panel < last; ++panel) {
        const float* const matrix = packed + k * filter_plane(p) + panel * p.channels * nr;
        const float* const next =
            panel + 1 < last ? matrix + p.channels * nr
                             : packed + (k + 1) * filter_plane(p) + first * p.channels * nr;
        for (std::int64_t gemm_tile = 0; gemm_tile < gemm_tiles; ++gemm_tile) {
          const float* sources[mr];
          float* results[mr];
          for (std::int64_t i = 0; i < mr; ++i) {
            const std::int64_t row = gemm_tile * mr + i;
            sources[i] = inputs + k * plane + std::min(row, task.count - 1) * p.channels;
            results[i] = products + k * products_plane + row * width + (panel - first) * nr;
          }
          if (panel * nr + lanes == p.features) {
            multiply_tile<1>(sources, 1, 0, p.channels, matrix, results, 0, true, nullptr, nullptr);
          } else if (gemm_tiles <= steps_per_line) {
            const float* const next_line = next + gemm_tile * p.channels / steps_per_line * nr;
            multiply_tile<2, steps_per_line>(sources, 1, 0, p.channels, matrix, results, 0, true,
                                             nullptr, nullptr, next_line);
          } else {
            multiply_tile<2>(sources, 1, 0, p.channels, matrix, results, 0, true, nullptr, nullptr);
          }
        }
      }
    }
    const std::int64_t feature = first * nr;
    for (std::int64_t i = 0; i < task.count; ++i) {
      const OutputTile tile(tiles, task.first + i);
      std::int64_t offsets[output_tile * output_tile];
      for (std::int64_t k = 0; k < output_tile * output_tile; ++k) {
        const std::int64_t row = tile.row + k / output_tile;
        const std::int64_t column = tile.column + k % output_tile;
        offsets[k] =
            row < p.rows && column < p.columns
                ? tile.image * p.image_step + row * p.row_step + column * p.column_step + feature
                : -1;
      }
      write_output_tile(products + i * width, products_plane,
                        std::min((last - first) * nr, p.features - feature), epilogue, feature,
                        offsets, p.result);
    }
  }
}

void pack(const ImplicitGemm& p, const float* kernel, float* packed, const Executor& executor) {
  const FilterTaps filter(p, kernel);
  executor.run(panel_count(p), [&](std::int64_t panel) { pack_panel(p, filter, panel, packed); });
}

void run(const ImplicitGemm& p, const float* packed, const Epilogue& epilogue,
         const Executor& executor) {
  const OutputTiles tiles(p.images, p.rows, p.columns);
  const FilterTaps filter(p, nullptr);
  const auto tasks = split(p, tiles, executor.threads());
  executor.run(static_cast<std::int64_t>(tasks.size()),
               [&](std::int64_t i) { run_task(p, tiles, filter, tasks[i], packed, epilogue); });
}

bool is_supported(const Problem& p) {
  return p.groups == 1 && p.stride == 1 && p.kernel_height == 3 && p.kernel_width == 3 &&
         p.channels % panel_channels == 0 && p.features % panel_channels == 0;
}

// Compares multiplications. Transforming the filters, or reading transformed ones, which are four
// times as large, is counted as the multiplications of some output tiles.
bool is_profitable(const Problem& p, bool packed) {
  const std::int64_t pixels = p.images * p.out_height * p.out_width;
  const std::int64_t tiles = OutputTiles(p.images, p.out_height, p.out_width).count();
  const std::int64_t overhead = packed ? tiles_per_reading : tiles_per_packing;
  return p.kernel_height * p.kernel_width * pixels >= transform_points * (tiles + overhead);
}

}  // namespace

const Algorithm winograd{"winograd", is_supported, is_profitable, packed_size, pack, run};

}  // namespace flax_resnet::ISA
