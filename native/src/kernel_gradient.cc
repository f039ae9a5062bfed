// The float32 kernel gradient on processors with AVX2 and FMA, dense convolutions.
//
// Why: oneDNN 3.2's own ran most 3x3 ones at 30 to 55 GFLOP/s of one core on NHWC arrays there, where
// its best forward reached 90, and took the most time of the three passes (resnet50, batch 8: 1,382 ms
// of 3,257). For 3x3 this one needs 1.0 to 1.4 times less time than PyTorch's (measured on a busy machine).
//
//     dkernel[i, j, c, f] = sum over n, y, x of  image[n, y s + i, x s + j, c]  dy[n, y, x, f]
//
// is a sum of outer products, one a pixel. A tile of 6 (channels) by 16 (features) sums stays in
// registers while the pixels of a block go by; a block is as many pixels as fit the second-level
// cache. The block's images are first copied, zeros around them, into panels [rows, columns, 6
// channels], so that a window of the kernel is contiguous, and its dy into panels of 16 features.
// Threads share out the tiles: no two add to the same sum, and the result does not depend on how
// many threads there are.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "panels.h"
#include "scratch.h"
#include "tile.h"
#include "ways.h"

namespace flax_resnet {
namespace {

constexpr std::int64_t tile_channels = tile_rows, tile_features = tile_columns;
constexpr std::int64_t few_channels = 32;
constexpr std::int64_t block_bytes = 192 * 1024;
constexpr std::int64_t panel_bytes = 12 * 1024;
constexpr std::int64_t small_map = 28 * 28;

struct Strides {
  std::int64_t image, row, column;
};

struct Extent {
  std::int64_t images, rows, columns;
};

// Six rows of 16 sums, at `rows` + `offset`: set to, or unless `first` added to, the outer products of
// `extent` pixels, 6 numbers at x by 16 at dy.
__attribute__((target("avx2,fma"))) void add_outer_products(const float* x, Strides xs,
                                                            const float* dy, Strides ds,
                                                            Extent extent, float* const* rows,
                                                            std::int64_t offset, bool first) {
  __m256 acc[tile_channels][2];
#pragma GCC unroll 6
  for (int i = 0; i < tile_channels; ++i) {
    acc[i][0] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(rows[i] + offset);
    acc[i][1] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(rows[i] + offset + 8);
  }
  for (std::int64_t image = 0; image < extent.images; ++image) {
    for (std::int64_t row = 0; row < extent.rows; ++row) {
      const float* a = x + image * xs.image + row * xs.row;
      const float* b = dy + image * ds.image + row * ds.row;
      for (std::int64_t column = 0; column < extent.columns; ++column) {
        const __m256 low = _mm256_loadu_ps(b), high = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
        for (int i = 0; i < tile_channels; ++i) {
          const __m256 value = _mm256_broadcast_ss(a + i);
          acc[i][0] = _mm256_fmadd_ps(value, low, acc[i][0]);
          acc[i][1] = _mm256_fmadd_ps(value, high, acc[i][1]);
        }
        a += xs.column;
        b += ds.column;
      }
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < tile_channels; ++i) {
    _mm256_storeu_ps(rows[i] + offset, acc[i][0]);
    _mm256_storeu_ps(rows[i] + offset + 8, acc[i][1]);
  }
}

// How the sums are laid out and shared: channels in panels, each with windows of kernel_width times
// panel channels, cut into tiles of 6; features in tiles of 16.
struct Plan {
  Problem p;
  // Of a strided 1x1 kernel only the pixels it lands on are copied: every `step`th, next to each other.
  std::int64_t step, stride;
  std::int64_t panel, panels, window_tiles, feature_tiles;

  explicit Plan(const Problem& problem) : p(problem) {
    step = p.is_pointwise() ? p.stride : 1;
    stride = p.stride / step;
    panel = p.channels <= few_channels ? p.channels : tile_channels;
    panels = ceil_div(p.channels, panel);
    window_tiles = ceil_div(p.kernel_width * panel, tile_channels);
    feature_tiles = ceil_div(p.features, tile_features);
  }
  // Of the copy of so many rows of a result.
  std::int64_t lines(std::int64_t rows) const { return (rows - 1) * stride + p.kernel_height; }
  std::int64_t columns() const { return (p.out_width - 1) * stride + p.kernel_width; }
  // Units of work that threads share out along the channels: panels or, of one panel, tiles.
  std::int64_t channel_units() const { return panels > 1 ? panels : window_tiles; }
};

struct Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};

Range share(std::int64_t count, std::int64_t part, std::int64_t parts) {
  return {count * part / parts, count * (part + 1) / parts};
}

// One thread's share: its units of channels and its tiles of features.
class Worker {
 public:
  Worker(const Plan& plan, Range units, Range features, const float* x, const float* dy)
      : plan_(plan), p_(plan.p), x_(x), dy_(dy), features_(features) {
    panels_ = plan.panels > 1 ? units : Range{0, 1};
    tiles_ = plan.panels > 1 ? Range{0, plan.window_tiles} : units;
  }

  void run(float* dkernel) {
    choose_block();
    find_rows(dkernel);
    for (std::int64_t image = 0; image < p_.images; image += images_) {
      for (std::int64_t row = 0; row < p_.out_height; row += rows_) {
        block(image, std::min(images_, p_.images - image), row,
              std::min(rows_, p_.out_height - row));
      }
    }
    if (!is_direct_) store();
  }

 private:
  // As many rows of a result, and then images, as fit.
  void choose_block() {
    const std::int64_t channels = std::min(p_.channels, panels_.size() * plan_.panel);
    const std::int64_t area = plan_.stride * plan_.stride;
    std::int64_t pixels =
        block_bytes / (4 * (channels * area + features_.size() * tile_features));
    if (plan_.panels > 1) {
      // The sums of a larger kernel are many: pay for their coming and going with more pixels, as
      // long as the panel of one tile stays in the first-level cache.
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

  // Where the sums of each tile go, [panel][kernel row][tile][6], those of the first features: into the
  // gradient itself where one block is all, else, to be added to, one after another.
  void find_rows(float* dkernel) {
    is_direct_ = images_ == p_.images && rows_ == p_.out_height && p_.features % tile_features == 0;
    nowhere_.assign(p_.features, 0.0f);
    for (std::int64_t panel = panels_.begin; panel < panels_.end; ++panel) {
      for (std::int64_t i = 0; i < p_.kernel_height; ++i) {
        for (std::int64_t at = tiles_.begin * tile_channels; at < tiles_.end * tile_channels; ++at) {
          const std::int64_t j = at / plan_.panel, channel = panel * plan_.panel + at % plan_.panel;
          const bool is_real = j < p_.kernel_width && channel < p_.channels;
          float* const row = dkernel + ((i * p_.kernel_width + j) * p_.channels + channel) * p_.features;
          results_.push_back((is_real ? row : nowhere_.data()) + features_.begin * tile_features);
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

  // From the sums of the first features of a tile to those of the next.
  std::int64_t step() const { return (is_direct_ ? 1 : rows_of_panel_) * tile_features; }

  void block(std::int64_t image, std::int64_t images, std::int64_t row, std::int64_t rows) {
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
        float* const* sums = begin;
        for (std::int64_t i = 0; i < p_.kernel_height; ++i) {
          const float* line = x + panel * x_panel + i * x_line;
          for (std::int64_t tile = tiles_.begin; tile < tiles_.end; ++tile) {
            // The next sums are asked for while these are computed: memory takes about as long.
            float* const* const next = sums + tile_channels;
            const bool is_last = next == begin + rows_of_panel_;
            if (f + 1 < features_.size()) ask_for_results(is_last ? begin : next, (f + is_last) * step());
            add_outer_products(line + tile * tile_channels, xs, dy + f * dy_tile, ds, extent, sums,
                               f * step(), is_first);
            sums = next;
          }
        }
      }
    }
  }

  // dy of the block as [feature tile][image, row, column][16], zeros after the last feature.
  const float* copy_features(std::int64_t first_image, std::int64_t row, Extent extent) {
    const std::int64_t first = features_.begin * tile_features;
    thread_local Scratch scratch;
    const std::int64_t pixels = extent.images * extent.rows * extent.columns;
    float* const copy = static_cast<float*>(
        scratch.get(features_.size() * pixels * tile_features * sizeof(float)));
    for (std::int64_t image = 0, pixel = 0; image < extent.images; ++image) {
      const float* from = dy_ + (first_image + image) * p_.output_image() +
                          row * p_.out_width * p_.features + first;
      for (std::int64_t i = 0; i < extent.rows * extent.columns; ++i, ++pixel, from += p_.features) {
        for (std::int64_t f = 0; f < features_.size(); ++f) {
          float* const to = copy + (f * pixels + pixel) * tile_features;
          const std::int64_t left = p_.features - first - f * tile_features;
          if (left < tile_features) std::memset(to, 0, tile_features * sizeof(float));
          copy_columns(from + f * tile_features, std::min(left, tile_features), to);
        }
      }
    }
    return copy;
  }

  // The lines of the padded images that the block's rows see: [panel][image, line, column][panel
  // channels], zeros where there is no pixel or channel.
  const float* copy_panels(std::int64_t image, std::int64_t images, std::int64_t row,
                           std::int64_t lines) {
    thread_local Scratch scratch;
    const std::int64_t width = plan_.columns(), panel = plan_.panel;
    const std::int64_t pixels = images * lines * width;
    const std::int64_t size = panels_.size() * pixels * panel;
    // A tile may read past a window's end: the numbers are not used, but must be there.
    float* const copy =
        static_cast<float*>(scratch.get((size + tile_channels) * sizeof(float)));
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
          std::int64_t left = p_.channels - first_channel;
          for (std::int64_t k = 0; k < panels_.size(); ++k) {
            if (left >= tile_channels) {
              std::memcpy(to, from, tile_channels * sizeof(float));
            } else {
              for (std::int64_t c = 0; c < tile_channels; ++c) to[c] = c < left ? from[c] : 0.0f;
            }
            to += pixels * panel;
            from += tile_channels;
            left -= tile_channels;
          }
        }
      }
    }
    return copy;
  }

  void store() const {
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      for (std::int64_t f = 0; f < features_.size(); ++f) {
        const std::int64_t left = p_.features - (features_.begin + f) * tile_features;
        copy_columns(sums_[i] + f * step(), std::min(tile_features, left),
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
  std::vector<float> nowhere_;
};

bool can(const Problem& p) { return own_kernels_suit(p) && p.groups == 1; }

bool pays(const Problem& p) {
  // For 1x1 kernels on large maps oneDNN has a good one.
  const bool is_small = p.out_height * p.out_width <= small_map;
  return !p.is_pointwise() || is_small;
}

void run(const Problem& p, const float* x, const float* dy, float* dkernel,
         const Executor& executor) {
  const Plan plan(p);
  // Cut along the larger of the two: what is cut along the other is copied by every thread.
  const std::int64_t threads = executor.threads(), units = plan.channel_units();
  std::int64_t across = plan.panels > 1 && p.channels > p.features ? std::min(threads, units) : 1;
  const std::int64_t along = std::min(plan.feature_tiles, std::max<std::int64_t>(1, threads / across));
  if (across == 1) across = std::min(units, std::max<std::int64_t>(1, threads / along));
  executor.run(across * along, [&](std::int64_t part) {
    Worker(plan, share(units, part / along, across), share(plan.feature_tiles, part % along, along),
           x, dy)
        .run(dkernel);
  });
}

}  // namespace

const GradientWay kernel_gradient_by_tiles{"tiles", can, pays, run};

}  // namespace flax_resnet
