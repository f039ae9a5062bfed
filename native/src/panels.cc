#include "panels.h"

#include <immintrin.h>

#include <algorithm>

namespace flax_resnet {
namespace {

// A panel's share of a row of the kernel is one line of memory, far from the next row's: asked for ahead.
constexpr std::int64_t rows_ahead = 16;

}  // namespace

__attribute__((target("avx2"))) void transpose(const float* from, std::int64_t step, float* to) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + i * step);
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + 16 * i, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(to + 16 * (i + 4), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

void pack_block(const Product& p, const Block& block, std::int64_t first_panel, std::int64_t panels,
                const float* kernel, float* packed) {
  const std::int64_t depth = block.taps * block.channels;
  for (std::int64_t tap = 0; tap < block.taps; ++tap) {
    const float* const matrix =
        kernel + p.taps[block.first_tap + tap].kernel * p.channels * p.features;
    float* const to_tap = packed + tap * block.channels * tile_columns;
    const std::int64_t first = first_panel * tile_columns;
    if (!p.transposed) {
      for (std::int64_t c = 0; c < block.channels; ++c) {
        const float* from = matrix + (block.first_channel + c) * p.features + first;
        float* to = to_tap + c * tile_columns;
        for (std::int64_t panel = 0; panel < panels; ++panel, to += depth * tile_columns) {
          __builtin_prefetch(from + rows_ahead * p.features + panel * tile_columns);
          const std::int64_t count = std::min(tile_columns, p.features - first - panel * tile_columns);
          copy_columns(from + panel * tile_columns, count, to);
          if (count < tile_columns) {
            std::memset(to + count, 0, (tile_columns - count) * sizeof(float));
          }
        }
      }
      continue;
    }
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      float* const to = to_tap + panel * depth * tile_columns;
      const std::int64_t feature = first + panel * tile_columns;
      const float* const from = matrix + feature * p.channels + block.first_channel;
      const std::int64_t count = std::min(tile_columns, p.features - feature);
      std::int64_t c = 0;
      if (count == tile_columns) {
        for (; c + 8 <= block.channels; c += 8) {
          transpose(from + c, p.channels, to + c * tile_columns);
          transpose(from + c + 8 * p.channels, p.channels, to + c * tile_columns + 8);
        }
      }
      for (; c < block.channels; ++c) {
        for (std::int64_t f = 0; f < tile_columns; ++f) {
          to[c * tile_columns + f] = f < count ? from[f * p.channels + c] : 0.0f;
        }
      }
    }
  }
}

void pack_panels(const Product& p, const float* kernel, float* packed, const Executor& executor) {
  const auto blocks = p.blocks();
  // Of one block, too, each thread has its share.
  const std::int64_t panels = p.panels(), shares = std::min(panels, 2 * executor.threads());
  executor.run(static_cast<std::int64_t>(blocks.size()) * shares, [&](std::int64_t i) {
    const Block& block = blocks[i / shares];
    const std::int64_t begin = panels * (i % shares) / shares;
    const std::int64_t end = panels * (i % shares + 1) / shares;
    const std::int64_t before =
        block.depth_before * panels + begin * block.taps * block.channels;
    pack_block(p, block, begin, end - begin, kernel, packed + before * tile_columns);
  });
}

}  // namespace flax_resnet
