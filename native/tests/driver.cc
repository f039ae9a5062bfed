// A test program for the sanitizers: compares random problems with plain loops, several at once on
// threads that share the cache. Usage: driver [problems]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "convolution.h"
#include "instruction_set.h"

namespace {

using namespace flax_resnet;
using Floats = std::vector<float>;

// Memory aligned to 64 bytes, as XLA's arrays are.
class Aligned {
 public:
  explicit Aligned(std::int64_t bytes) : lines_(ceil_div(bytes, sizeof(Line))) {}
  float* data() { return lines_.front().values; }

 private:
  struct alignas(64) Line {
    float values[16];
  };
  std::vector<Line> lines_;
};

// Starts new threads for every call, which is a harder test than a pool.
struct Threads {
  std::vector<std::thread> all;
  ~Threads() {
    for (auto& thread : all) thread.join();
  }
};

Floats random_floats(std::int64_t size, std::mt19937& random) {
  std::normal_distribution<float> normal;
  Floats values(size);
  for (float& value : values) value = normal(random);
  return values;
}

// Calls visit(x index, kernel index, y index) for every product of the convolution.
template <typename Visit>
void for_each_product(const Problem& p, Visit visit) {
  const std::int64_t c_size = p.channels / p.groups, f_size = p.features / p.groups;
  for (std::int64_t n = 0; n < p.images; ++n)
    for (std::int64_t oy = 0; oy < p.out_height; ++oy)
      for (std::int64_t ox = 0; ox < p.out_width; ++ox)
        for (std::int64_t f = 0; f < p.features; ++f)
          for (std::int64_t i = 0; i < p.kernel_height; ++i)
            for (std::int64_t j = 0; j < p.kernel_width; ++j) {
              const std::int64_t y = oy * p.stride + i - p.top, x = ox * p.stride + j - p.left;
              if (y < 0 || y >= p.height || x < 0 || x >= p.width) continue;
              for (std::int64_t c = 0; c < c_size; ++c) {
                visit(((n * p.height + y) * p.width + x) * p.channels + f / f_size * c_size + c,
                      ((i * p.kernel_width + j) * c_size + c) * p.features + f,
                      ((n * p.out_height + oy) * p.out_width + ox) * p.features + f);
              }
            }
}

bool close(const std::string& what, const Problem& p, const Floats& got, const Floats& expected) {
  float largest = 1;
  for (float value : expected) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (!(std::abs(got[i] - expected[i]) <= 2e-5f * largest)) {
      std::printf("%s differs at %zu, %g for %g: %s\n", what.c_str(), i, got[i], expected[i],
                  p.to_string().c_str());
      return false;
    }
  }
  return true;
}

bool check(unsigned seed) {
  std::mt19937 random(seed);
  const auto pick = [&](std::initializer_list<int> choices) {
    return static_cast<std::int64_t>(*(choices.begin() + random() % choices.size()));
  };
  const std::int64_t groups = pick({1, 1, 2, 8}), kernel = pick({1, 3, 3, 5});
  const std::int64_t stride = pick({1, 2}), padding = kernel / 2, threads = pick({1, 2, 3});
  const std::int64_t x[] = {pick({1, 2, 3, 5}), pick({5, 7, 12}), pick({5, 9, 12}),
                            pick({3, 4, 8, 16, 48}) * groups};
  const std::int64_t k[] = {kernel, kernel, x[3] / groups,
                            groups == 8 ? x[3] : pick({4, 16, 21, 48}) * groups};
  const std::int64_t y[] = {x[0], (x[1] + 2 * padding - kernel) / stride + 1,
                            (x[2] + 2 * padding - kernel) / stride + 1, k[3]};
  const Problem p = make_problem(x, 4, k, 4, y, 4, stride, padding, groups, Dtype::f32);

  const Floats image = random_floats(p.images * p.input_image_size(), random);
  const Floats weights = random_floats(p.kernel_size(), random);
  const Floats dy = random_floats(p.images * p.output_image_size(), random);
  const Floats bias = random_floats(p.features, random), residual = dy;
  Floats value(dy.size()), dx(image.size()), dk(weights.size());
  for_each_product(p, [&](std::int64_t a, std::int64_t b, std::int64_t c) {
    value[c] += image[a] * weights[b];
    dx[a] += dy[c] * weights[b];
    dk[b] += dy[c] * image[a];
  });

  Threads pool;
  const Schedule schedule = [&](std::function<void()> task) {
    pool.all.emplace_back(std::move(task));
  };
  const Executor executor(threads, schedule);
  Floats got(value.size()), got_dx(dx.size()), got_dk(dk.size());
  forward(p, image.data(), weights.data(), {}, got.data(), executor);
  input_gradient(p, dy.data(), weights.data(), got_dx.data(), executor);
  kernel_gradient(p, image.data(), dy.data(), got_dk.data(), executor);
  bool good = close("forward", p, got, value) && close("input gradient", p, got_dx, dx) &&
              close("kernel gradient", p, got_dk, dk);

  for (std::size_t i = 0; i < value.size(); ++i) {
    value[i] = std::max(0.0f, value[i] + bias[i % p.features] + residual[i]);
  }
  const Epilogue epilogue{bias.data(), residual.data(), true};
  Aligned packed(packed_bytes(p));
  pack(p, weights.data(), packed.data(), executor);
  forward_packed(p, image.data(), packed.data(), packed_bytes(p), epilogue, got.data(), executor);
  good = good && close("packed and fused", p, got, value);

  // Test our own algorithms also where another one, or a wider instruction set, would be chosen.
  // The bits depend neither on the set nor on the number of threads.
  const Executor many_threads(64, schedule);
  std::map<std::string, Floats> bits;
  const auto check_own = [&](const char* isa, const std::string& name, const Floats& found,
                             const Floats& expected) {
    if (!close(std::string(isa) + " " + name, p, found, expected)) return false;
    if (bits.emplace(name, found).first->second == found) return true;
    std::printf("%s %s has other bits: %s\n", isa, name.c_str(), p.to_string().c_str());
    return false;
  };
  for (const InstructionSet* set : instruction_sets()) {
    for (const Executor* on : {&executor, &many_threads}) {
      for (const Algorithm* algorithm : set->algorithms) {
        if (!good || !algorithm->is_supported(p)) continue;
        const std::string name = algorithm->name;
        Aligned packed_kernel(algorithm->packed_bytes(p));
        algorithm->pack(p, weights.data(), packed_kernel.data(), *on);
        algorithm->forward(p, image.data(), packed_kernel.data(), epilogue, got.data(), *on);
        algorithm->input_gradient(p, dy.data(), weights.data(), got_dx.data(), *on);
        good = check_own(set->name, name, got, value) &&
               check_own(set->name, name + " input gradient", got_dx, dx);
      }
      for (const KernelGradientAlgorithm* algorithm : set->kernel_gradient_algorithms) {
        if (!good || !algorithm->is_supported(p)) continue;
        algorithm->run(p, image.data(), dy.data(), got_dk.data(), *on);
        good = check_own(set->name, algorithm->name + std::string(" kernel gradient"), got_dk, dk);
      }
    }
  }
  return good;
}

// Compares batch normalisation on several threads with its formulas.
bool check_normalization(const Normalization& passes, unsigned seed) {
  std::mt19937 random(seed);
  const std::int64_t count = 1 + random() % 2000, channels = 1 + random() % 100;
  const std::int64_t threads = 1 + random() % 3;
  const Floats x = random_floats(count * channels, random), dy = random_floats(x.size(), random);
  const Floats mean = random_floats(channels, random), factor = random_floats(channels, random);
  const Floats bias = random_floats(channels, random);
  Threads pool;
  const Executor executor(
      threads, [&](std::function<void()> task) { pool.all.emplace_back(std::move(task)); });
  const Affine affine{mean.data(), factor.data(), bias.data()};
  const Pixels size{count, channels};
  Floats sum(channels), other(channels), y(x.size()), g(x.size()), dx(x.size());
  passes.moments(size, x.data(), sum.data(), other.data(), executor);
  passes.normalize(size, x.data(), affine, dy.data(), true, y.data(), executor);
  const Gradient gradient{dy.data(), y.data(), true};
  passes.gradient_sums(size, x.data(), affine, gradient, sum.data(), other.data(), g.data(),
                       executor);
  passes.gradient(size, x.data(), affine, gradient, bias.data(), factor.data(), dx.data(),
                  executor);
  std::vector<double> total(channels);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t c = i % channels;
    const float centred = x[i] - mean[c];
    const float value = std::max(0.0f, centred * factor[c] + bias[c] + dy[i]);
    const float expected_g = value > 0 ? dy[i] : 0;
    total[c] += expected_g;
    if (!(std::abs(y[i] - value) <= 1e-5f * (1 + value)) || (value > 1e-4f && g[i] != expected_g) ||
        !(std::abs(dx[i] - factor[c] * (g[i] - bias[c] - centred * factor[c])) <= 1e-3f)) {
      std::printf("normalization differs at %zu of %lld by %lld\n", i,
                  static_cast<long long>(count), static_cast<long long>(channels));
      return false;
    }
  }
  for (std::int64_t c = 0; c < channels; ++c) {
    if (!(std::abs(sum[c] - total[c]) <= 1e-3)) return false;
  }
  return true;
}

// Compares max-pool and its gradient with a plain search for each window's maximum.
bool check_pooling(const Pooling& pooling, unsigned seed) {
  std::mt19937 random(seed);
  const auto pick = [&](unsigned low, unsigned high) {
    return static_cast<std::int64_t>(low + random() % (high - low + 1));
  };
  Pool p{pick(1, 3), pick(4, 20), pick(4, 9), pick(1, 70), 0, 0, pick(1, 4), pick(1, 3), 0};
  p.padding = pick(0, p.window / 2);
  p.out_height = (p.height + 2 * p.padding - p.window) / p.stride + 1;
  p.out_width = (p.width + 2 * p.padding - p.window) / p.stride + 1;
  const Floats x = random_floats(p.images * p.height * p.width * p.channels, random);
  const Floats dy = random_floats(p.images * p.out_height * p.out_width * p.channels, random);
  Threads pool;
  const Executor executor(
      pick(1, 3), [&](std::function<void()> task) { pool.all.emplace_back(std::move(task)); });
  Floats y(dy.size()), dx(x.size()), expected(x.size());
  std::vector<std::uint8_t> indices(dy.size());
  pooling.max_pool(p, x.data(), y.data(), indices.data(), executor);
  pooling.gradient(p, dy.data(), indices.data(), dx.data(), executor);
  for (std::size_t at = 0; at < y.size(); ++at) {
    const std::int64_t index = static_cast<std::int64_t>(at), c = index % p.channels;
    const std::int64_t column = index / p.channels % p.out_width;
    const std::int64_t row = index / p.channels / p.out_width % p.out_height;
    const std::int64_t image = index / p.channels / p.out_width / p.out_height;
    std::int64_t best = -1;
    for (std::int64_t i = 0; i < p.window * p.window; ++i) {
      const std::int64_t h = row * p.stride - p.padding + i / p.window;
      const std::int64_t w = column * p.stride - p.padding + i % p.window;
      if (h < 0 || h >= p.height || w < 0 || w >= p.width) continue;
      const std::int64_t pixel = ((image * p.height + h) * p.width + w) * p.channels + c;
      if (best < 0 || x[pixel] > x[best]) best = pixel;
    }
    if (y[at] != x[best]) {
      std::printf("a maximum differs\n");
      return false;
    }
    expected[best] += dy[at];
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (!(std::abs(dx[i] - expected[i]) <= 1e-5f)) {
      std::printf("the gradient of a maximum differs\n");
      return false;
    }
  }
  return true;
}

bool refuses_what_does_not_fit() {
  const std::int64_t x[] = {1, 4, 4, 3}, k[] = {3, 3, 3, 8}, y[] = {1, 4, 4, 8}, z[] = {1, 5, 4, 8};
  make_problem(x, 4, k, 4, y, 4, 1, 1, 1, Dtype::f32);
  const auto refuses = [&](auto... arguments) {
    try {
      make_problem(arguments..., Dtype::f32);
    } catch (const InvalidArgument&) {
      return true;
    }
    std::printf("a wrong problem was taken\n");
    return false;
  };
  return refuses(x, 4, k, 4, z, 4, 1, 1, 1) && refuses(x, 4, k, 4, y, 4, 1, 1, 2) &&
         refuses(x, 3, k, 4, y, 4, 1, 1, 1) && refuses(x, 4, k, 4, y, 4, 0, 1, 1);
}

}  // namespace

int main(int count, char** arguments) {
  const unsigned problems = count > 1 ? std::atoi(arguments[1]) : 40;
  bool good = refuses_what_does_not_fit();
  for (unsigned seed = 0; seed < problems; seed += 4) {
    std::vector<std::future<bool>> results;
    // The last two tasks are the same problem, so that both make and use the same primitives at
    // once.
    for (unsigned i = 0; i < 4; ++i) {
      results.push_back(std::async(std::launch::async, check, seed + std::min(i, 2u)));
    }
    for (const InstructionSet* set : instruction_sets()) {
      results.push_back(
          std::async(std::launch::async, check_normalization, std::cref(set->normalization), seed));
      results.push_back(
          std::async(std::launch::async, check_pooling, std::cref(set->pooling), seed));
    }
    for (auto& result : results) good = result.get() && good;
  }
  std::printf(good ? "all agree\n" : "FAILED\n");
  return good ? 0 : 1;
}
