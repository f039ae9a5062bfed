// Indirect convolution: dense float32 forward passes and input gradients.
//
// Why not oneDNN: version 3.2 reorders the kernel at each call on one thread, and within a training
// step the kernel is no longer in the caches. resnet18's layers of 512 channels took 75 to 107 ms
// with it (batch 64 of 4x4 maps, two cores), although they take about 30 ms when run alone. For one
// image oneDNN divides the rows among the threads, so that each thread reads the whole kernel. Here
// the features are divided among the threads in that case, and the kernel is read once.
//
// Both passes are implicit GEMMs (implicit_gemm.h). The microkernel keeps 6 pixels by 16 features
// of sums in registers, or with AVX-512 12 by 32. It reads the source's pixels in place through
// pointers (the "indirection buffer" of Dukhan 2019, arXiv:1907.02129); pixels outside the image
// are a pointer to zeros. The kernel is packed into panels of NR features: beforehand, once per
// call, or, for few pixels, by each task for its own features. A strided input gradient is stride^2
// GEMMs of stride 1, one for each phase of the rows and columns.
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

// Pixels of a task: their channels of one block of K stay in the L2 cache.
constexpr std::int64_t task_pixels = 96;

// With few pixels the kernel is max_panels of the memory traffic. Features are then divided among
// threads instead of pixels, so that each weight is read once. An unpacked kernel is not packed as
// a whole, which would write and read it once more: each task packs the few panels that it needs,
// which stay in the L2 cache. (1024 to 2048 channels of four 7x7 maps take 8 ms, and 11 if packed
// first.)
constexpr std::int64_t few_pixels = 800, tasks_per_thread = 4, panels_per_task = 4;

// A kernel that was packed beforehand comes from memory if there are few pixels. All tiles are
// multiplied with this many bytes of it, and meanwhile the next bytes are prefetched evenly: one
// cache line every few channels, by the same number of tiles. (One 7x7 map is 1.15 times as fast.
// With more pixels the kernel is in the L3 cache, and prefetching it costs time.)
constexpr std::int64_t group_bytes = 128 * 1024;
constexpr int steps_per_line = tuning.indirect_steps_per_line;

void prefetch_rows(const float* const* pixels, std::int64_t feature) {
  for (std::int64_t i = 0; i < mr; ++i) {
    for (std::int64_t f = 0; f < nr; f += line_floats) __builtin_prefetch(pixels[i] + feature + f);
  }
}

// Some pixels and some panels of the result, which one thread computes.
struct Task {
  std::int64_t first_pixel, pixels, first_panel, panels;
};

bool has_few_pixels(const ImplicitGemm& p) { return p.pixels() <= few_pixels; }

// Splits the features only, into tasks of at max_panels `max_panels` panels: each weight is read,
// or packed, by one task.
std::vector<Task> split_features(const ImplicitGemm& p, std::int64_t threads,
                                 std::int64_t max_panels) {
  const std::int64_t panels = panel_count(p);
  const std::int64_t panels_per_split =
      std::clamp<std::int64_t>(panels / (tasks_per_thread * threads), 1, max_panels);
  std::vector<Task> tasks;
  for (std::int64_t first = 0; first < panels; first += panels_per_split) {
    tasks.push_back({0, p.pixels(), first, std::min(panels_per_split, panels - first)});
  }
  return tasks;
}

// Splits the result into tasks whose source pixels stay in the L2 cache. They are small enough that
// a thread which another program delays does not delay the whole call by much.
std::vector<Task> split(const ImplicitGemm& p, std::int64_t threads) {
  const auto taps = static_cast<std::int64_t>(p.taps.size());
  // The kernel is larger than the source and should be read once.
  if (has_few_pixels(p) && taps * p.features >= p.pixels()) {
    return split_features(p, threads, panel_count(p));
  }
  const std::int64_t tiles = ceil_div(p.pixels(), mr), panels = panel_count(p);
  const std::int64_t min_pixel_tasks = ceil_div(tiles, task_pixels / mr);
  // Make the count a multiple of the number of threads, so that no thread is idle at the end.
  const std::int64_t pixel_tasks =
      std::min(tiles, min_pixel_tasks > threads ? ceil_div(min_pixel_tasks, threads) * threads
                                                : min_pixel_tasks);
  const std::int64_t panel_tasks =
      pixel_tasks >= threads ? 1 : std::min(panels, 2 * ceil_div(threads, pixel_tasks));
  std::vector<Task> tasks;
  for (std::int64_t i = 0; i < pixel_tasks; ++i) {
    const std::int64_t begin = tiles * i / pixel_tasks * mr;
    const std::int64_t end = std::min(p.pixels(), tiles * (i + 1) / pixel_tasks * mr);
    for (std::int64_t j = 0; j < panel_tasks; ++j) {
      const std::int64_t from = panels * j / panel_tasks, to = panels * (j + 1) / panel_tasks;
      tasks.push_back({begin, end - begin, from, to - from});
    }
  }
  return tasks;
}

// The indirection buffer: pointers to each pixel of a task in the source, for each tap, and in the
// result.
struct IndirectionBuffer {
  std::vector<const float*> sources;    // [tile][tap][MR]
  std::vector<float*> results;          // [tile][MR]
  std::vector<const float*> residuals;  // [tile][MR], or empty
  std::vector<float> zeros, discarded;

  void fill(const ImplicitGemm& p, const Task& task, const float* residual) {
    const std::int64_t tiles = ceil_div(task.pixels, mr);
    const auto taps = static_cast<std::int64_t>(p.taps.size());
    if (static_cast<std::int64_t>(zeros.size()) < p.channels) zeros.assign(p.channels, 0.0f);
    if (static_cast<std::int64_t>(discarded.size()) < p.features + nr) {
      discarded.assign(p.features + nr, 0.0f);
    }
    sources.resize(tiles * taps * mr);
    results.resize(tiles * mr);
    residuals.resize(residual == nullptr ? 0 : tiles * mr);
    std::int64_t column = task.first_pixel % p.columns;
    std::int64_t row = task.first_pixel / p.columns % p.rows;
    std::int64_t image = task.first_pixel / p.columns / p.rows;
    for (std::int64_t pixel = 0; pixel < tiles * mr; ++pixel) {
      const bool is_real = pixel < task.pixels;
      const std::int64_t at = image * p.image_step + row * p.row_step + column * p.column_step;
      results[pixel] = is_real ? p.result + at : discarded.data();
      if (residual != nullptr) residuals[pixel] = is_real ? residual + at : discarded.data();
      const float** to = &sources[pixel / mr * taps * mr + pixel % mr];
      for (const Tap& tap : p.taps) {
        const std::int64_t y = row * p.stride + tap.row, x = column * p.stride + tap.column;
        const bool inside = is_real && y >= 0 && y < p.height && x >= 0 && x < p.width;
        *to =
            inside ? p.source + ((image * p.height + y) * p.width + x) * p.channels : zeros.data();
        to += mr;
      }
      if (++column == p.columns) {
        column = 0;
        if (++row == p.rows) row = 0, ++image;
      }
    }
  }
};

// Computes a tile of the last panel if it has fewer than NR features, through a buffer of a whole
// tile.
void multiply_partial_panel(const ImplicitGemm& p, const float* const* sources, const KBlock& block,
                            const float* panel, float* const* results, std::int64_t feature,
                            bool is_first, const Epilogue* epilogue,
                            const float* const* residuals) {
  const std::int64_t count = p.features - feature;
  alignas(64) float sums[mr][nr] = {};
  float* rows[mr];
  for (int i = 0; i < mr; ++i) {
    rows[i] = sums[i];
    if (!is_first) std::memcpy(sums[i], results[i] + feature, count * sizeof(float));
  }
  multiply_tile<2>(sources, block.taps, block.first_channel, block.channels, panel, rows, 0,
                   is_first, nullptr, nullptr);
  for (int i = 0; i < mr; ++i) {
    for (std::int64_t f = 0; epilogue != nullptr && f < count; ++f) {
      float& sum = sums[i][f];
      if (epilogue->bias != nullptr) sum += *epilogue->bias_at(feature + f);
      if (residuals != nullptr) sum += residuals[i][feature + f];
      if (epilogue->relu && sum < 0) sum = 0;
    }
    std::memcpy(results[i] + feature, sums[i], count * sizeof(float));
  }
}

// Consecutive packed panels of one block of K.
struct Group {
  const float* kernel;
  std::int64_t first_panel, panels;
  bool prefetches_next;  // Whether to prefetch the group that follows in memory.
};

// Multiplies all tiles of a task with a group of panels. For each tile it writes all features of
// the group, because consecutive writes are fastest. `epilogue` is null except for the last block
// of K.
void run_group(const ImplicitGemm& p, const KBlock& block, const Group& group,
               const IndirectionBuffer& indirection, bool is_first, const Epilogue* epilogue) {
  const auto taps = static_cast<std::int64_t>(p.taps.size());
  const auto tiles = static_cast<std::int64_t>(indirection.results.size()) / mr;
  const std::int64_t depth = block.taps * block.channels, panel_size = depth * nr;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const float* const* const sources = &indirection.sources[(tile * taps + block.first_tap) * mr];
    float* const* const results = &indirection.results[tile * mr];
    const float* const* const residuals = epilogue == nullptr || indirection.residuals.empty()
                                              ? nullptr
                                              : &indirection.residuals[tile * mr];
    for (std::int64_t j = 0; j < group.panels; ++j) {
      const float* const panel = group.kernel + j * panel_size;
      const std::int64_t feature = (group.first_panel + j) * nr;
      // No earlier tile has brought these cache lines in.
      if (tile + 1 < tiles) {
        prefetch_rows_for_write(results + mr, mr, feature, nr);
        if (residuals != nullptr) prefetch_rows(residuals + mr, feature);
      }
      if (feature + lanes == p.features) {
        multiply_tile<1>(sources, block.taps, block.first_channel, block.channels, panel, results,
                         feature, is_first, epilogue, residuals);
      } else if (feature + nr > p.features) {
        multiply_partial_panel(p, sources, block, panel, results, feature, is_first, epilogue,
                               residuals);
      } else if (group.prefetches_next && tile < steps_per_line) {
        const float* const next = panel + group.panels * panel_size;
        multiply_tile<2, steps_per_line>(sources, block.taps, block.first_channel, block.channels,
                                         panel, results, feature, is_first, epilogue, residuals,
                                         next + tile * depth / steps_per_line * nr);
      } else {
        multiply_tile<2>(sources, block.taps, block.first_channel, block.channels, panel, results,
                         feature, is_first, epilogue, residuals);
      }
    }
  }
}

// Computes one task. The kernel is packed if `is_packed`, else in its plain layout.
void run_task(const ImplicitGemm& p, const std::vector<KBlock>& k_blocks, const Task& task,
              const float* kernel, bool is_packed, const Epilogue& epilogue) {
  thread_local Scratch scratch;
  thread_local IndirectionBuffer indirection;
  indirection.fill(p, task, static_cast<const float*>(epilogue.residual));
  const bool is_from_memory = is_packed && has_few_pixels(p);
  for (std::size_t b = 0; b < k_blocks.size(); ++b) {
    const KBlock& block = k_blocks[b];
    const std::int64_t panel_size = block.taps * block.channels * nr;
    const std::int64_t panel_bytes = panel_size * static_cast<std::int64_t>(sizeof(float));
    const float* panels = kernel;
    if (is_packed) {
      panels += block.offset * panel_count(p) * nr + task.first_panel * panel_size;
    } else {
      auto* const packed = static_cast<float*>(scratch.get(task.panels * panel_bytes));
      pack_block(p, block, task.first_panel, task.panels, kernel, packed);
      panels = packed;
    }
    const std::int64_t max_panels =
        is_from_memory ? ceil_div(group_bytes, panel_bytes) : task.panels;
    for (std::int64_t i = 0; i < task.panels; i += max_panels) {
      const Group group{panels + i * panel_size, task.first_panel + i,
                        std::min(max_panels, task.panels - i), is_from_memory};
      run_group(p, block, group, indirection, b == 0,
                b + 1 == k_blocks.size() ? &epilogue : nullptr);
    }
  }
}

void run_tasks(const ImplicitGemm& p, const std::vector<Task>& tasks, const float* kernel,
               bool is_packed, const Epilogue& epilogue, const Executor& executor) {
  const auto k_blocks = p.k_blocks();
  executor.run(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t i) {
    run_task(p, k_blocks, tasks[i], kernel, is_packed, epilogue);
  });
}

void run(const ImplicitGemm& p, const float* packed, const Epilogue& epilogue,
         const Executor& executor) {
  run_tasks(p, split(p, executor.threads()), packed, true, epilogue, executor);
}

void run_unpacked(const ImplicitGemm& p, const float* kernel, const Epilogue& epilogue,
                  const Executor& executor) {
  run_tasks(p, split_features(p, executor.threads(), panels_per_task), kernel, false, epilogue,
            executor);
}

// Any kernel size, and also numbers of features that do not fill whole panels.
bool is_supported(const Problem& p) { return p.groups == 1; }

bool is_profitable(const Problem& p, bool) {
  return p.kernel_size() >=
         (p.is_pointwise() ? tuning.min_indirect_pointwise_kernel : tuning.min_indirect_kernel);
}

std::int64_t packed_size(const ImplicitGemm& p) {
  return static_cast<std::int64_t>(p.taps.size()) * p.channels * panel_count(p) * nr;
}

}  // namespace

const Algorithm indirect{"indirect",  is_supported, is_profitable,  packed_size,
                         pack_panels, run,          has_few_pixels, run_unpacked};

}  // namespace flax_resnet::ISA
