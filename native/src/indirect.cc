// Float32 convolutions, forward and input gradient, on processors with AVX2 and FMA, dense ones.
//
// Why: oneDNN 3.2 rearranges the kernel at each call, on one thread, and within a training step the
// caches have lost it: resnet18's layers of 512 channels took 75 to 107 ms there (batch 64 of 4x4
// maps, two cores), where they take about 30 alone. Of one image it computes bands of rows, each with
// the whole kernel; here threads share out the features then, and the kernel is read once.
//
// Both passes are one thing: each pixel of the result is a sum, over a few taps, of a pixel of the
// source times a matrix of the kernel's. Six pixels by 16 features of sums stay in registers. The
// source's pixels are read where they are, through pointers ("indirect convolution", Dukhan 2019,
// arXiv:1907.02129), pixels outside through a pointer to zeros. The kernel is copied into panels
// of 16 features: once for all, once per call or, for few pixels, by each part those that it needs. A
// strided input gradient is stride^2 gradients of stride 1, one for each phase of the rows and columns.
#include <algorithm>
#include <cstring>
#include <vector>

#include "panels.h"
#include "scratch.h"
#include "tile.h"
#include "ways.h"

namespace flax_resnet {
namespace {

// Pixels of a part: their channels of a block stay in the second-level cache.
constexpr std::int64_t part_rows = 96;
// Smaller kernels oneDNN rearranges soon enough, and multiplies a little faster. (Of resnet50, one
// image: 82 ms with all above 64 Ki here, 73 with all above 16 Ki, 92 with those above 256 Ki.)
constexpr std::int64_t large_kernel = 16 * 1024;

// Few pixels are not shared out but features are, so many parts a thread: the kernel is then most of the
// memory, and is read once. That of one call is not packed beforehand, which would write and read it once
// more: each part packs what it alone needs, so many panels, which stay in the second-level cache. (1024 to
// 2048 channels of four 7x7 maps: 8 ms, not 11.)
constexpr std::int64_t few_pixels = 800, parts_a_thread = 4, panels_together = 4;

// Packed beforehand it comes from memory: so many bytes of it are multiplied with all tiles, and meanwhile
// the next are asked for, evenly, a line every so many steps, by as many tiles. (One 7x7 map: 1.15 times
// quicker. More pixels find it in the third-level cache and lose by it.)
constexpr std::int64_t group_bytes = 128 * 1024;
constexpr int steps_a_line = 8;

void ask_for(const float* const* pixels, std::int64_t feature) {
  for (std::int64_t i = 0; i < tile_rows; ++i) __builtin_prefetch(pixels[i] + feature);
}

// Some pixels of the result and some of its panels: the work of one thread.
struct Part {
  std::int64_t first_pixel, pixels, first_panel, panels;
};

bool is_few(const Product& p) { return p.pixels() <= few_pixels; }

// At most so many panels and all pixels each: every number of the kernel is read, or packed, by one part.
std::vector<Part> cut_features(const Product& p, std::int64_t threads, std::int64_t most) {
  const std::int64_t panels = p.panels();
  const std::int64_t together =
      std::clamp<std::int64_t>(panels / (parts_a_thread * threads), 1, most);
  std::vector<Part> parts;
  for (std::int64_t first = 0; first < panels; first += together) {
    parts.push_back({0, p.pixels(), first, std::min(together, panels - first)});
  }
  return parts;
}

// Large enough parts that each keeps its source in the second-level cache, small enough ones that
// a thread held up by another program does not hold up the rest.
std::vector<Part> cut(const Product& p, std::int64_t threads) {
  const auto taps = static_cast<std::int64_t>(p.taps.size());
  // The kernel is larger than the source, and is to be read once.
  if (is_few(p) && taps * p.features >= p.pixels()) return cut_features(p, threads, p.panels());
  const std::int64_t tiles = ceil_div(p.pixels(), tile_rows), panels = p.panels();
  const std::int64_t down = ceil_div(tiles, part_rows / tile_rows);
  // A whole number of rounds for all threads.
  const std::int64_t rows =
      std::min(tiles, down > threads ? ceil_div(down, threads) * threads : down);
  const std::int64_t across =
      rows >= threads ? 1 : std::min(panels, 2 * ceil_div(threads, rows));
  std::vector<Part> parts;
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t begin = tiles * i / rows * tile_rows;
    const std::int64_t end = std::min(p.pixels(), tiles * (i + 1) / rows * tile_rows);
    for (std::int64_t j = 0; j < across; ++j) {
      const std::int64_t from = panels * j / across, to = panels * (j + 1) / across;
      parts.push_back({begin, end - begin, from, to - from});
    }
  }
  return parts;
}

// Where each pixel of a part lies in the source, tap by tap, and in the result.
struct Pointers {
  std::vector<const float*> sources;    // [tile][tap][6]
  std::vector<float*> results;          // [tile][6]
  std::vector<const float*> residuals;  // like the results
  std::vector<float> zeros, nowhere;

  void fill(const Product& p, const Part& part, const float* residual) {
    const std::int64_t tiles = ceil_div(part.pixels, tile_rows);
    const auto taps = static_cast<std::int64_t>(p.taps.size());
    if (static_cast<std::int64_t>(zeros.size()) < p.channels) zeros.assign(p.channels, 0.0f);
    if (static_cast<std::int64_t>(nowhere.size()) < p.features + tile_columns) {
      nowhere.assign(p.features + tile_columns, 0.0f);
    }
    sources.resize(tiles * taps * tile_rows);
    results.resize(tiles * tile_rows);
    residuals.resize(residual == nullptr ? 0 : tiles * tile_rows);
    std::int64_t column = part.first_pixel % p.columns;
    std::int64_t row = part.first_pixel / p.columns % p.rows;
    std::int64_t image = part.first_pixel / p.columns / p.rows;
    for (std::int64_t pixel = 0; pixel < tiles * tile_rows; ++pixel) {
      const bool real = pixel < part.pixels;
      const std::int64_t at = image * p.image_step + row * p.row_step + column * p.column_step;
      results[pixel] = real ? p.result + at : nowhere.data();
      if (residual != nullptr) residuals[pixel] = real ? residual + at : nowhere.data();
      const float** to = &sources[pixel / tile_rows * taps * tile_rows + pixel % tile_rows];
      for (const Tap& tap : p.taps) {
        const std::int64_t y = row * p.stride + tap.row, x = column * p.stride + tap.column;
        const bool inside = real && y >= 0 && y < p.height && x >= 0 && x < p.width;
        *to = inside ? p.source + ((image * p.height + y) * p.width + x) * p.channels
                     : zeros.data();
        to += tile_rows;
      }
      if (++column == p.columns) {
        column = 0;
        if (++row == p.rows) row = 0, ++image;
      }
    }
  }
};

// The last panel where features end in its midst: by way of a tile of its own.
void multiply_narrow(const Product& p, const float* const* sources, const Block& block,
                     const float* panel, float* const* results, std::int64_t feature, bool first,
                     const Finish* last) {
  const std::int64_t count = p.features - feature;
  alignas(32) float sums[tile_rows][tile_columns] = {};
  float* rows[tile_rows];
  for (int i = 0; i < tile_rows; ++i) {
    rows[i] = sums[i];
    if (!first) std::memcpy(sums[i], results[i] + feature, count * sizeof(float));
  }
  multiply(sources, block.taps, block.first_channel, block.channels, panel, rows, 0, first,
           nullptr);
  for (int i = 0; i < tile_rows; ++i) {
    for (std::int64_t f = 0; last != nullptr && f < count; ++f) {
      float& sum = sums[i][f];
      if (last->bias != nullptr) sum += last->bias[feature + f];
      if (last->residuals != nullptr) sum += last->residuals[i][feature + f];
      if (last->relu && sum < 0) sum = 0;
    }
    std::memcpy(results[i] + feature, sums[i], count * sizeof(float));
  }
}

// Some panels of a block, packed, which follow each other.
struct Group {
  const float* kernel;
  std::int64_t first_panel, panels;
  bool asks;  // for the group that follows in memory
};

// All tiles times a group. The results of a pixel lie side by side, which is how memory likes to be
// written. `last`: of the last block, what follows the sums.
void run_group(const Product& p, const Block& block, const Group& group, const Pointers& pointers,
               bool first, const Epilogue* last) {
  const auto taps = static_cast<std::int64_t>(p.taps.size());
  const auto tiles = static_cast<std::int64_t>(pointers.results.size()) / tile_rows;
  const std::int64_t depth = block.taps * block.channels, panel_size = depth * tile_columns;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const float* const* const sources =
        &pointers.sources[(tile * taps + block.first_tap) * tile_rows];
    float* const* const results = &pointers.results[tile * tile_rows];
    const float* const* const residuals =
        last == nullptr || pointers.residuals.empty() ? nullptr : &pointers.residuals[tile * tile_rows];
    const Finish finish{last == nullptr ? nullptr : static_cast<const float*>(last->bias), residuals,
                        last != nullptr && last->relu};
    const Finish* const ending = last == nullptr ? nullptr : &finish;
    for (std::int64_t j = 0; j < group.panels; ++j) {
      const float* const panel = group.kernel + j * panel_size;
      const std::int64_t feature = (group.first_panel + j) * tile_columns;
      // No earlier tile has brought these lines in.
      if (tile + 1 < tiles) {
        ask_for_results(results + tile_rows, feature);
        if (residuals != nullptr) ask_for(residuals + tile_rows, feature);
      }
      if (feature + tile_columns > p.features) {
        multiply_narrow(p, sources, block, panel, results, feature, first, ending);
      } else if (group.asks && tile < steps_a_line) {
        const float* const next = panel + group.panels * panel_size;
        multiply<steps_a_line>(sources, block.taps, block.first_channel, block.channels, panel,
                               results, feature, first, ending,
                               next + tile * depth / steps_a_line * tile_columns);
      } else {
        multiply(sources, block.taps, block.first_channel, block.channels, panel, results, feature,
                 first, ending);
      }
    }
  }
}

// `kernel`: packed, or as it is.
void run_part(const Product& p, const std::vector<Block>& blocks, const Part& part,
              const float* kernel, bool is_packed, const Epilogue& epilogue) {
  thread_local Scratch scratch;
  thread_local Pointers pointers;
  pointers.fill(p, part, static_cast<const float*>(epilogue.residual));
  const bool is_from_memory = is_packed && is_few(p);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const Block& block = blocks[b];
    const std::int64_t panel_size = block.taps * block.channels * tile_columns;
    const std::int64_t panel_bytes = panel_size * static_cast<std::int64_t>(sizeof(float));
    const float* panels = kernel;
    if (is_packed) {
      panels += block.depth_before * p.panels() * tile_columns + part.first_panel * panel_size;
    } else {
      auto* const packed = static_cast<float*>(scratch.get(part.panels * panel_bytes));
      pack_block(p, block, part.first_panel, part.panels, kernel, packed);
      panels = packed;
    }
    const std::int64_t most = is_from_memory ? ceil_div(group_bytes, panel_bytes) : part.panels;
    for (std::int64_t i = 0; i < part.panels; i += most) {
      const Group group{panels + i * panel_size, part.first_panel + i,
                        std::min(most, part.panels - i), is_from_memory};
      run_group(p, block, group, pointers, b == 0, b + 1 == blocks.size() ? &epilogue : nullptr);
    }
  }
}

void run_parts(const Product& p, const std::vector<Part>& parts, const float* kernel,
               bool is_packed, const Epilogue& epilogue, const Executor& executor) {
  const auto blocks = p.blocks();
  executor.run(static_cast<std::int64_t>(parts.size()), [&](std::int64_t i) {
    run_part(p, blocks, parts[i], kernel, is_packed, epilogue);
  });
}

void run(const Product& p, const float* packed, const Epilogue& epilogue,
         const Executor& executor) {
  run_parts(p, cut(p, executor.threads()), packed, true, epilogue, executor);
}

void run_few(const Product& p, const float* kernel, const Epilogue& epilogue,
             const Executor& executor) {
  run_parts(p, cut_features(p, executor.threads(), panels_together), kernel, false, epilogue, executor);
}

// Also the widths that no vector fills, and any kernel.
bool can(const Problem& p) { return own_kernels_suit(p) && p.groups == 1; }

bool pays(const Problem& p, bool) { return p.kernel_size() >= large_kernel; }

std::int64_t packed_size(const Product& p) { return p.packed_size(); }

}  // namespace

const Way indirect{"indirect", can, pays, packed_size, pack_panels, run, is_few, run_few};

}  // namespace flax_resnet
