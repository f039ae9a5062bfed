// Sums of outer products: what the gradients of kernels come down to.
//
//     sums[position, c, f] = sum over i of  x[position, i, c]  y[position, i, f]
//
// Both operands are first written by the caller into panels of 16 channels, a round of i at a time,
// which stays in the caches. Then threads share out blocks of the sums: no two add to the same one.
#pragma once

#include <algorithm>
#include <cstdint>

#include "executor.h"
#include "product.h"
#include "scratch.h"

namespace flax_resnet {

// Blocks of the sums [positions, channels, features]; channels and features are multiples of 16.
struct SumBlocks {
  std::int64_t positions;
  std::int64_t channels, features;  // of a block
  std::int64_t down, across;        // how many

  SumBlocks(std::int64_t positions, std::int64_t channels, std::int64_t features,
            std::int64_t threads);
  std::int64_t count() const { return down * across; }
  std::int64_t size() const { return positions * channels * features; }
};

// One round of an operand: [panel][position][i][16 channels], 32-byte aligned.
struct Round {
  std::int64_t panels, positions, plane;
  float* numbers;

  float* at(std::int64_t panel, std::int64_t position, std::int64_t i) const {
    return numbers + (panel * positions + position) * plane + i * tile_columns;
  }
};

// Adds the products of `count` i of both operands to a block's sums, or sets them.
void add_block(const SumBlocks& blocks, const Round& x, const Round& y, std::int64_t count,
               std::int64_t block, bool set, float* sums);

// How many i a round has.
std::int64_t round_count(const SumBlocks& blocks, std::int64_t count);

// The sums over `count` i. fill(i, at, x, y) writes both operands of i as number `at` of the round;
// store(block, sums) takes a block's sums [position, channels, features] in the end.
template <typename Fill, typename Store>
void sum_outer_products(const SumBlocks& blocks, std::int64_t count, const Executor& executor,
                        Fill fill, Store store) {
  constexpr std::int64_t number = sizeof(float);
  const std::int64_t together = round_count(blocks, count);
  thread_local Scratch x_scratch, y_scratch, sums_scratch;
  const auto round_of = [&](std::int64_t channels, Scratch& scratch) {
    const std::int64_t panels = channels / tile_columns;
    const std::int64_t plane = plane_of(together * tile_columns);
    const std::int64_t bytes = panels * blocks.positions * plane * number;
    return Round{panels, blocks.positions, plane, static_cast<float*>(scratch.get(bytes))};
  };
  const Round x = round_of(blocks.down * blocks.channels, x_scratch);
  const Round y = round_of(blocks.across * blocks.features, y_scratch);
  const bool at_once = together >= count;
  auto* const sums = static_cast<float*>(
      at_once ? nullptr : sums_scratch.get(blocks.count() * blocks.size() * number));
  for (std::int64_t first = 0; first < count; first += together) {
    const std::int64_t here = std::min(together, count - first);
    const std::int64_t parts = std::min(here, 4 * executor.threads());
    executor.run(parts, [&](std::int64_t part) {
      const std::int64_t end = here * (part + 1) / parts;
      for (std::int64_t i = here * part / parts; i < end; ++i) fill(first + i, i, x, y);
    });
    executor.run(blocks.count(), [&](std::int64_t block) {
      thread_local Scratch own;
      float* const block_sums = at_once ? static_cast<float*>(own.get(blocks.size() * number))
                                        : sums + block * blocks.size();
      add_block(blocks, x, y, here, block, first == 0, block_sums);
      if (first + here == count) store(block, static_cast<const float*>(block_sums));
    });
  }
}

}  // namespace flax_resnet
