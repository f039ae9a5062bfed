// A batched GEMM with a long reduction dimension, which kernel gradients consist of:
//
//     sums[point, c, f] = sum over i of  x[point, i, c]  y[point, i, f]
//
// The caller packs both operands into panels of 16 channels, one chunk of i at a time, which
// stays in the caches. Then the blocks of the sums are divided among the threads: no two threads
// add to the same sum, so the result does not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "executor.h"
#include "implicit_gemm.h"
#include "scratch.h"
#include "vector.h"

namespace flax_resnet::ISA {

constexpr std::int64_t panel_channels = 16;

// Blocks of the sums [points, channels, features]. Channels and features are multiples of 16.
struct SumBlocks {
  std::int64_t points;
  std::int64_t channels, features;         // The sizes of one block.
  std::int64_t block_rows, block_columns;  // The numbers of blocks along channels and features.

  SumBlocks(std::int64_t points, std::int64_t channels, std::int64_t features,
            std::int64_t threads);
  std::int64_t count() const { return block_rows * block_columns; }
  std::int64_t size() const { return points * channels * features; }
};

// One chunk of an operand: [panel][point][i][16 channels], aligned to 64 bytes.
struct PackedChunk {
  std::int64_t panels, points, plane;
  float* values;

  float* at(std::int64_t panel, std::int64_t point, std::int64_t i) const {
    return values + (panel * points + point) * plane + i * panel_channels;
  }
};

// Adds the products of a chunk of `count` values of i to a block's sums, or with `set` overwrites
// them.
void add_block(const SumBlocks& blocks, const PackedChunk& x, const PackedChunk& y,
               std::int64_t count, std::int64_t block, bool set, float* sums);

// Returns how many values of i a chunk has.
std::int64_t chunk_size(const SumBlocks& blocks, std::int64_t count);

// Computes the sums over `count` values of i.
//
// pack(i, index, x, y) writes both operands of i to this index of the chunk. store(block, sums) is
// called once for each block with its final sums [point, channels, features].
template <typename Pack, typename Store>
void sum_outer_products(const SumBlocks& blocks, std::int64_t count, const Executor& executor,
                        Pack pack, Store store) {
  constexpr std::int64_t float_bytes = sizeof(float);
  const std::int64_t chunk = chunk_size(blocks, count);
  thread_local Scratch x_scratch, y_scratch, sums_scratch;
  const auto chunk_of = [&](std::int64_t channels, Scratch& scratch) {
    const std::int64_t panels = channels / panel_channels;
    const std::int64_t plane = padded_plane(chunk * panel_channels);
    const std::int64_t bytes = panels * blocks.points * plane * float_bytes;
    return PackedChunk{panels, blocks.points, plane, static_cast<float*>(scratch.get(bytes))};
  };
  const PackedChunk x = chunk_of(blocks.block_rows * blocks.channels, x_scratch);
  const PackedChunk y = chunk_of(blocks.block_columns * blocks.features, y_scratch);
  const bool is_single_chunk = chunk >= count;
  auto* const sums = static_cast<float*>(
      is_single_chunk ? nullptr : sums_scratch.get(blocks.count() * blocks.size() * float_bytes));
  for (std::int64_t first = 0; first < count; first += chunk) {
    const std::int64_t count_here = std::min(chunk, count - first);
    const std::int64_t tasks = std::min(count_here, 4 * executor.threads());
    executor.run(tasks, [&](std::int64_t task) {
      const std::int64_t end = count_here * (task + 1) / tasks;
      for (std::int64_t i = count_here * task / tasks; i < end; ++i) pack(first + i, i, x, y);
    });
    executor.run(blocks.count(), [&](std::int64_t block) {
      thread_local Scratch scratch;
      float* const block_sums = is_single_chunk
                                    ? static_cast<float*>(scratch.get(blocks.size() * float_bytes))
                                    : sums + block * blocks.size();
      add_block(blocks, x, y, count_here, block, first == 0, block_sums);
      if (first + count_here == count) store(block, static_cast<const float*>(block_sums));
    });
  }
}

}  // namespace flax_resnet::ISA
