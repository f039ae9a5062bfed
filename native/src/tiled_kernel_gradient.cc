// The float32 kernel gradient of dense convolutions.
//
// Why not oneDNN: version 3.2 runs most 3x3 gradients on NHWC arrays at 30 to 55 GFLOP/s per core
// on AVX2, where its best forward pass reaches 90, and this pass took the longest of the three
// (resnet50, batch 8: 1,382 of 3,257 ms). For 3x3 kernels PyTorch takes 1.0 to 1.4 times as long as
// this algorithm (measured on a busy machine).
//
//     dkernel[i, j, c, f] = sum over n, y, x of  image[n, y s + i, x s + j, c]  dy[n, y, x, f]
//
// This is a sum of outer products, one for each pixel. A register tile of 6 channels by 16 features
// of sums, or with AVX-512 8 by 32, is accumulated over the pixels of a block; a block is as many
// pixels as fit the L2 cache. The block's images are first copied with zero padding into panels
// [rows, columns, tile_channels], so that the taps of a kernel row are contiguous, and its dy is
// copied into panels of tile_features. The tiles are divided among the threads: no two threads add
// to the same sum, so the result does not depend on the number of threads.
#include <algorithm>
#include <cstring>
#include <vector>

#include "isa_algorithms.h"
#include "microkernel.h"
#include "packing.h"
#include "scratch.h"
#include "tuning.h"

namespace flax_resnet::ISA {
namespace {

constexpr std::int64_t tile_channels = tuning.gradient_channels, tile_features = nr;
// Images with at most this many channels are packed into a single panel of all channels.
constexpr std::int64_t max_single_panel_channels = 32;
// The copied pixels of a block, which stay in the L2 cache.
constexpr std::int64_t block_bytes = 192 * 1024;
// The copied pixels of one panel, which stay in the L1 cache.
constexpr std::int64_t panel_bytes = 12 * 1024;

// Distances between images, rows and columns, in floats.
struct Strides {
  std::int64_t image, row, column;
};

// The pixels of a block.
struct Extent {
  std::int64_t images, rows, columns;
};

// Adds the outer products of all pixels of `extent`, tile_channels at x by one or two vectors of
// features at dy, to a tile of sums. Its rows are at rows[i] + offset. With `is_first` the sums
// start at zero.
template <int vectors>
SIMD void add_outer_products(const float* x, Strides xs, const float* dy, Strides ds, Extent extent,
                             float* const* rows, std::int64_t offset, bool is_first) {
  Vector acc[tile_channels][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < tile_channels; ++i) {
    acc[i][0] = is_first ? zero() : load(rows[i] + offset);
    if constexpr (vectors == 2) acc[i][1] = is_first ? zero() : load(rows[i] + offset + lanes);
  }
  for (std::int64_t image = 0; image < extent.images; ++image) {
    for (std::int64_t row = 0; row < extent.rows; ++row) {
      const float* a = x + image * xs.image + row * xs.row;
      const float* b = dy + image * ds.image + row * ds.row;
      for (std::int64_t column = 0; column < extent.columns; ++column) {
        const Vector low = load(b), high = vectors == 2 ? load(b + lanes) : low;
#pragma GCC unroll 16
        for (int i = 0; i < tile_channels; ++i) {
          const Vector value = broadcast(a + i);
          acc[i][0] = fmadd(value, low, acc[i][0]);
          if constexpr (vectors == 2) acc[i][1] = fmadd(value, high, acc[i][1]);
        }
        a += xs.column;
        b += ds.column;
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < tile_channels; ++i) {
    store(rows[i] + offset, acc[i][0]);
    if constexpr (vectors == 2) store(rows[i] + offset + lanes, acc[i][1]);
  }
}

// How the sums are split into tiles. Channels are packed into panels. A kernel row over a panel is
// kernel_width * panel contiguous floats, which are split into tiles of tile_channels. Features
// are split into tiles of tile_features.
struct Plan {
  Problem p;
  // A strided 1x1 kernel reads only every `step`th pixel, so only these are copied, next to each
  // other.
  std::int64_t step, stride;
  std::int64_t panel, panels, kernel_row_tiles, feature_tiles;

  explicit Plan(const Problem& problem) : p(problem) {
    step = p.is_pointwise() ? p.stride : 1;
    stride = p.stride / step;
    panel = p.channels <= max_single_panel_channels ? p.channels : tile_channels;
    panels = ceil_div(p.channels, panel);
    kernel_row_tiles = ceil_div(p.kernel_width * panel, tile_channels);
    feature_tiles = ceil_div(p.features, tile_features);
  }
  // Rows and columns of the padded copy that `rows` rows of the result need.
  std::int64_t lines(std::int64_t rows) const { return (rows - 1) * stride + p.kernel_height; }
  std::int64_t columns() const { return (p.out_width - 1) * stride + p.kernel_width; }
  // Units of work along the channels that are divided among threads: panels or, if there is only
  // one panel, its tiles.
  std::int64_t channel_units() const { return panels > 1 ? panels : kernel_row_tiles; }
};

struct Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};

// Divides `count` items evenly among tasks.
Range subrange(std::int64_t count, std::int64_t task, std::int64_t tasks) {
  return {count * task / tasks, count * (task + 1) / tasks};
}

// Computes the sums of one thread: a range of units along the channels and of feature tiles.
class Accumulator {
 public:
  Accumulator(const Plan& plan, Range units, Range features, const float* x, const float* dy)
      : plan_(plan), p_(plan.p), x_(x), dy_(dy), features_(features) {
    panels_ = plan.panels > 1 ? units : Range{0, 1};
    tiles_ = plan.panels > 1 ? Range{0, plan.kernel_row_tiles} : units;
  }

  void run(float* dkernel) {
    choose_block();
    find_rows(dkernel);
    for (std::int64_t image = 0; image < p_.images; image += images_) {
      for (std::int64_t row = 0; row < p_.out_height; row += rows_) {
        add_block(image, std::min(images_, p_.images - image), row,
                  std::min(rows_, p_.out_height - row));
      }
    }
    if (!is_direct_) store();
  }

 private:
  // Chooses how many rows of the result, and then how many images, a block has.
  void choose_block() {
    const std::int64_t channels = std::min(p_.channels, panels_.size() * plan_.panel);
    const std::int64_t area = plan_.stride * plan_.stride;
    std::int64_t pixels = block_bytes / (4 * (channels * area + features_.size() * tile_features));
    if (plan_.panels > 1) {
      // A larger kernel has many sums, which each block reads and writes. More pixels per block
      // make up for that, as long as the panel of one tile stays in the L1 cache.
      pixels = std::max(pixels, panel_bytes / (4 * tile_channels * area));
    }
    pixels = std::max<std::int64_t>(pixels, 48);
    rows_ = std::clamp<std::int64_t>(pixels / p_.out_width, 1, p_.out_height);
    rows_ = ceil_div(p_.out_height, ceil_div(p_.out_height, rows_));
    images_ = 1;
    if (rows_ == p_.out_height) {
      images_ = std::clamp<std::int64_t>(pixels / (rows_ * p_.out_width), 1, p_.images);
    }
  }

  // Finds where each tile's sums of the first features go, [panel][kernel
  // row][tile][tile_channels]: into the gradient itself if there is only one block, else into
  // contiguous scratch memory.
  void find_rows(float* dkernel) {
    is_direct_ = images_ == p_.images && rows_ == p_.out_height && p_.features % tile_features == 0;
    discarded_.assign(p_.features, 0.0f);
    for (std::int64_t panel = panels_.begin; panel < panels_.end; ++panel) {
      for (std::int64_t i = 0; i < p_.kernel_height; ++i) {
        for (std::int64_t at = tiles_.begin * tile_channels; at < tiles_.end * tile_channels;
             ++at) {
          const std::int64_t j = at / plan_.panel, channel = panel * plan_.panel + at % plan_.panel;
          const bool is_real = j < p_.kernel_width && channel < p_.channels;
          float* const row =
              dkernel + ((i * p_.kernel_width + j) * p_.channels + channel) * p_.features;
          results_.push_back((is_real ? row : discarded_.data()) + features_.begin * tile_features);
        }
      }
    }
    rows_of_panel_ = p_.kernel_height * tiles_.size() * tile_channels;
    sums_ = results_;
    if (is_direct_) return;
    thread_local Scratch scratch;
    const auto size = static_cast<std::int64_t>(sums_.size()) * features_.size() * tile_features;
    auto* const sums = static_cast<float*>(scratch.get(size * sizeof(float)));
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      const std::int64_t panel = static_cast<std::int64_t>(i) / rows_of_panel_;
      const std::int64_t before = panel * rows_of_panel_ * (features_.size() - 1);
      sums_[i] = sums + (before + static_cast<std::int64_t>(i)) * tile_features;
    }
  }

  // The distance from a tile's sums of one feature tile to those of the next.
  std::int64_t step() const { return (is_direct_ ? 1 : rows_of_panel_) * tile_features; }

  // Adds the outer products of one block's pixels to all sums.
  void add_block(std::int64_t image, std::int64_t images, std::int64_t row, std::int64_t rows) {
    const Extent extent{images, rows, p_.out_width};
    const float* const dy = copy_features(image, row, extent);
    const Strides ds{rows * p_.out_width * tile_features, p_.out_width * tile_features,
                     tile_features};
    const std::int64_t dy_tile = images * ds.image;

    const std::int64_t lines = plan_.lines(rows);
    const float* const x = copy_panels(image, images, row, lines);
    const std::int64_t x_line = plan_.columns() * plan_.panel;
    const Strides xs{lines * x_line, plan_.stride * x_line, plan_.stride * plan_.panel};
    const std::int64_t x_panel = images * xs.image;

    const bool is_first = image == 0 && row == 0;
    for (std::int64_t panel = 0; panel < panels_.size(); ++panel) {
      float* const* const begin = sums_.data() + panel * rows_of_panel_;
      for (std::int64_t f = 0; f < features_.size(); ++f) {
        // The last features may fill one vector only.
        const std::int64_t remaining = p_.features - (features_.begin + f) * tile_features;
        const auto add = remaining <= lanes ? add_outer_products<1> : add_outer_products<2>;
        float* const* sums = begin;
        for (std::int64_t i = 0; i < p_.kernel_height; ++i) {
          const float* line = x + panel * x_panel + i * x_line;
          for (std::int64_t tile = tiles_.begin; tile < tiles_.end; ++tile) {
            // Prefetch the next sums while these are computed: both take about equally long.
            float* const* const next = sums + tile_channels;
            const bool is_last = next == begin + rows_of_panel_;
            if (f + 1 < features_.size()) {
              prefetch_rows_for_write(is_last ? begin : next, tile_channels, (f + is_last) * step(),
                                      tile_features);
            }
            add(line + tile * tile_channels, xs, dy + f * dy_tile, ds, extent, sums, f * step(),
                is_first);
            sums = next;
          }
        }
      }
    }
  }

  // Copies the block's dy to [feature tile][image, row, column][tile_features], with zeros after
  // the last feature.
  const float* copy_features(std::int64_t first_image, std::int64_t row, Extent extent) {
    const std::int64_t first = features_.begin * tile_features;
    thread_local Scratch scratch;
    const std::int64_t pixels = extent.images * extent.rows * extent.columns;
    float* const copy =
        static_cast<float*>(scratch.get(features_.size() * pixels * tile_features * sizeof(float)));
    for (std::int64_t image = 0, pixel = 0; image < extent.images; ++image) {
      const float* from = dy_ + (first_image + image) * p_.output_image_size() +
                          row * p_.out_width * p_.features + first;
      for (std::int64_t i = 0; i < extent.rows * extent.columns;
           ++i, ++pixel, from += p_.features) {
        for (std::int64_t f = 0; f < features_.size(); ++f) {
          float* const to = copy + (f * pixels + pixel) * tile_features;
          const std::int64_t remaining = p_.features - first - f * tile_features;
          if (remaining < tile_features) std::memset(to, 0, tile_features * sizeof(float));
          copy_row(from + f * tile_features, std::min(remaining, tile_features), to);
        }
      }
    }
    return copy;
  }

  // Copies the rows of the padded images that the block needs to [panel][image, line, column][panel
  // channels], with zeros outside the images and after the last channel.
  const float* copy_panels(std::int64_t image, std::int64_t images, std::int64_t row,
                           std::int64_t lines) {
    thread_local Scratch scratch;
    const std::int64_t width = plan_.columns(), panel = plan_.panel;
    const std::int64_t pixels = images * lines * width;
    const std::int64_t size = panels_.size() * pixels * panel;
    // A tile may read past the end of the taps: those values are not used, but the memory must
    // exist.
    float* const copy = static_cast<float*>(scratch.get((size + tile_channels) * sizeof(float)));
    std::memset(copy + size, 0, tile_channels * sizeof(float));
    const std::int64_t first_channel = panels_.begin * panel;
    std::int64_t pixel = 0;
    for (std::int64_t n = image; n < image + images; ++n) {
      for (std::int64_t line = 0; line < lines; ++line) {
        const std::int64_t y = (row * plan_.stride + line) * plan_.step - p_.top;
        for (std::int64_t column = 0; column < width; ++column, ++pixel) {
          const std::int64_t at = column * plan_.step - p_.left;
          float* to = copy + pixel * panel;
          if (y < 0 || y >= p_.height || at < 0 || at >= p_.width) {
            for (std::int64_t k = 0; k < panels_.size(); ++k, to += pixels * panel) {
              std::memset(to, 0, panel * sizeof(float));
            }
            continue;
          }
          const float* from = x_ + ((n * p_.height + y) * p_.width + at) * p_.channels;
          if (plan_.panels == 1) {
            std::memcpy(to, from, panel * sizeof(float));
            continue;
          }
          from += first_channel;
          std::int64_t remaining = p_.channels - first_channel;
          for (std::int64_t k = 0; k < panels_.size(); ++k) {
            if (remaining >= tile_channels) {
              std::memcpy(to, from, tile_channels * sizeof(float));
            } else {
              for (std::int64_t c = 0; c < tile_channels; ++c) {
                to[c] = c < remaining ? from[c] : 0.0f;
              }
            }
            to += pixels * panel;
            from += tile_channels;
            remaining -= tile_channels;
          }
        }
      }
    }
    return copy;
  }

  // Copies the sums from scratch memory to the gradient.
  void store() const {
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      for (std::int64_t f = 0; f < features_.size(); ++f) {
        const std::int64_t remaining = p_.features - (features_.begin + f) * tile_features;
        copy_row(sums_[i] + f * step(), std::min(tile_features, remaining),
                 results_[i] + f * tile_features);
      }
    }
  }

  const Plan& plan_;
  const Problem& p_;
  const float* x_;
  const float* dy_;
  Range panels_{}, tiles_{}, features_;
  std::int64_t rows_ = 1, images_ = 1;
  std::int64_t rows_of_panel_ = 0;
  bool is_direct_ = false;
  std::vector<float*> results_, sums_;
  std::vector<float> discarded_;
};

bool is_supported(const Problem& p) { return p.groups == 1; }

bool is_profitable(const Problem& p) {
  // oneDNN is fast for 1x1 kernels on large feature maps.
  const bool is_small = p.out_height * p.out_width <= tuning.max_pointwise_gradient_pixels;
  return !p.is_pointwise() || is_small;
}

void run(const Problem& p, const float* x, const float* dy, float* dkernel,
         const Executor& executor) {
  const Plan plan(p);
  // Split the larger of channels and features among the threads: every thread copies all of the
  // other.
  const std::int64_t threads = executor.threads(), units = plan.channel_units();
  std::int64_t across = plan.panels > 1 && p.channels > p.features ? std::min(threads, units) : 1;
  const std::int64_t along =
      std::min(plan.feature_tiles, std::max<std::int64_t>(1, threads / across));
  if (across == 1) across = std::min(units, std::max<std::int64_t>(1, threads / along));
  executor.run(across * along, [&](std::int64_t task) {
    Accumulator(plan, subrange(units, task / along, across),
                subrange(plan.feature_tiles, task % along, along), x, dy)
        .run(dkernel);
  });
}

}  // namespace

const KernelGradientAlgorithm tiled_kernel_gradient{"tiled", is_supported, is_profitable, run};

}  // namespace flax_resnet::ISA
