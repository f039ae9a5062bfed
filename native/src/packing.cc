#include "packing.h"

#include <algorithm>

namespace flax_resnet::ISA {
namespace {

// A panel reads one cache line from each row of the kernel, and rows are far apart: the lines of
// this many rows ahead are prefetched.
constexpr std::int64_t rows_ahead = 16;

}  // namespace

SIMD void transpose(const float* from, std::int64_t step, float* to) {
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
    _mm256_storeu_ps(to + nr * i, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(to + nr * (i + 4), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

void pack_block(const ImplicitGemm& p, const KBlock& block, std::int64_t first_panel,
                std::int64_t panels, const float* kernel, float* packed) {
  const std::int64_t depth = block.taps * block.channels;
  for (std::int64_t tap = 0; tap < block.taps; ++tap) {
    const float* const matrix =
        kernel + p.taps[block.first_tap + tap].kernel_index * p.channels * p.features;
    float* const to_tap = packed + tap * block.channels * nr;
    const std::int64_t first = first_panel * nr;
    if (!p.kernel_is_transposed) {
      for (std::int64_t c = 0; c < block.channels; ++c) {
        const float* from = matrix + (block.first_channel + c) * p.features + first;
        float* to = to_tap + c * nr;
        for (std::int64_t panel = 0; panel < panels; ++panel, to += depth * nr) {
          for (std::int64_t f = 0; f < nr; f += line_floats) {
            __builtin_prefetch(from + rows_ahead * p.features + panel * nr + f);
          }
          const std::int64_t count = std::min(nr, p.features - first - panel * nr);
          copy_row(from + panel * nr, count, to);
          if (count < nr) {
            std::memset(to + count, 0, (nr - count) * sizeof(float));
          }
        }
      }
      continue;
    }
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      float* const to = to_tap + panel * depth * nr;
      const std::int64_t feature = first + panel * nr;
      const float* const from = matrix + feature * p.channels + block.first_channel;
      const std::int64_t count = std::min(nr, p.features - feature);
      std::int64_t c = 0;
      if (count == nr) {
        for (; c + 8 <= block.channels; c += 8) {
          for (std::int64_t f = 0; f < nr; f += 8) {
            transpose(from + c + f * p.channels, p.channels, to + c * nr + f);
          }
        }
      }
      for (; c < block.channels; ++c) {
        for (std::int64_t f = 0; f < nr; ++f) {
          to[c * nr + f] = f < count ? from[f * p.channels + c] : 0.0f;
        }
      }
    }
  }
}

void pack_panels(const ImplicitGemm& p, const float* kernel, float* packed,
                 const Executor& executor) {
  const auto k_blocks = p.k_blocks();
  // Panels are divided among threads as well, so that a kernel of a single block is packed in
  // parallel.
  const std::int64_t panels = panel_count(p), tasks = std::min(panels, 2 * executor.threads());
  executor.run(static_cast<std::int64_t>(k_blocks.size()) * tasks, [&](std::int64_t i) {
    const KBlock& block = k_blocks[i / tasks];
    const std::int64_t begin = panels * (i % tasks) / tasks;
    const std::int64_t end = panels * (i % tasks + 1) / tasks;
    const std::int64_t offset = block.offset * panels + begin * block.taps * block.channels;
    pack_block(p, block, begin, end - begin, kernel, packed + offset * nr);
  });
}

}  // namespace flax_resnet::ISA
