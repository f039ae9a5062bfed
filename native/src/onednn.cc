#include "onednn.h"

#include <omp.h>

#include <array>
#include <cstring>
#include <limits>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "scratch.h"

namespace flax_resnet {
namespace {

using dnnl::memory;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

memory::data_type type_of(Dtype dtype) {
  return dtype == Dtype::f32 ? memory::data_type::f32 : memory::data_type::bf16;
}

enum class Pass { forward, input_gradient, kernel_gradient };

// A primitive, its memory formats, and how to reorder its kernel. It is immutable, so threads share
// it.
struct Primitive {
  dnnl::primitive run;
  memory::desc x, y, bias, scratch;
  memory::desc given_kernel;  // The format of the caller's kernel: plain, or another primitive's.
  memory::desc kernel;        // The format that this primitive computes with.
  bool needs_reorder = false;
  dnnl::reorder reorder;  // From the given format; in a kernel gradient to the plain one.
};

// Stops oneDNN from starting OpenMP threads: slices run in parallel on the caller's pool instead.
// The setting belongs to the calling thread, on which another library may use OpenMP afterwards.
class OneThread {
 public:
  OneThread() {
    if (threads_ != 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (threads_ != 1) omp_set_num_threads(threads_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  const int threads_ = omp_get_max_threads();
};

memory::desc plain_kernel_desc(const Problem& p) {
  const auto type = type_of(p.dtype);
  const auto c = p.channels / p.groups, f = p.features;
  const auto row = p.kernel_width * c * f, column = c * f;
  if (p.groups == 1) return {{f, c, p.kernel_height, p.kernel_width}, type, {1, f, row, column}};
  const auto g = p.groups;
  return {{g, f / g, c, p.kernel_height, p.kernel_width}, type, {f / g, 1, f, row, column}};
}

// Appends x * clip(FLT_MAX * x, 0, 1), which is ReLU and keeps NaN. oneDNN's own ReLU is max(x, 0),
// which on x86 is 0 if x is NaN. The result is x for every positive x (within its rounding error
// below 3e-39) and -0 for a negative one. For minus infinity it is NaN.
void append_relu(dnnl::post_ops& after_sum) {
  after_sum.append_eltwise(dnnl::algorithm::eltwise_hardswish, std::numeric_limits<float>::max(),
                           0);
}

// Makes the primitive of one pass. Of the epilogue's arrays it matters only which ones exist.
std::shared_ptr<const Primitive> build(const Problem& p, Pass pass, const Epilogue& epilogue,
                                       const memory::desc* kernel_format) {
  const OneThread one_thread;
  const auto type = type_of(p.dtype);
  auto result = std::make_shared<Primitive>();
  result->x = {{p.images, p.channels, p.height, p.width}, type, memory::format_tag::nhwc};
  result->y = {{p.images, p.features, p.out_height, p.out_width}, type, memory::format_tag::nhwc};
  const memory::desc plain = plain_kernel_desc(p);
  result->given_kernel = kernel_format == nullptr ? plain : *kernel_format;
  if (epilogue.bias != nullptr) result->bias = {{p.features}, type, memory::format_tag::a};
  const memory::desc any(plain.get_dims(), type, memory::format_tag::any);
  const memory::desc& kernel_desc = kernel_format == nullptr ? any : *kernel_format;
  const auto is_slow = [](const char* name) { return std::strncmp(name, "ref", 3) == 0; };
  const memory::dims strides{p.stride, p.stride}, before{p.top, p.left},
      after{p.bottom(), p.right()};

  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto algorithm = dnnl::algorithm::convolution_direct;
  if (pass == Pass::forward) {
    dnnl::post_ops after_sum;
    if (epilogue.residual != nullptr)
      after_sum.append_binary(dnnl::algorithm::binary_add, result->y);
    if (epilogue.relu) append_relu(after_sum);
    attr.set_post_ops(after_sum);
    const auto make = [&](const memory::desc& kernel) {
      return dnnl::convolution_forward::primitive_desc(engine(), dnnl::prop_kind::forward_inference,
                                                       algorithm, result->x, kernel, result->bias,
                                                       result->y, strides, before, after, attr);
    };
    auto desc = make(kernel_desc);
    if (kernel_format != nullptr && is_slow(desc.impl_info_str())) desc = make(any);
    result->run = dnnl::convolution_forward(desc);
    result->kernel = desc.weights_desc();
    result->scratch = desc.scratchpad_desc();
  } else {
    const dnnl::convolution_forward::primitive_desc hint(
        engine(), dnnl::prop_kind::forward_training, algorithm, result->x, any, result->y, strides,
        before, after);
    if (pass == Pass::input_gradient) {
      const auto make = [&](const memory::desc& kernel) {
        return dnnl::convolution_backward_data::primitive_desc(
            engine(), algorithm, result->x, kernel, result->y, strides, before, after, hint, attr);
      };
      auto desc = make(kernel_desc);
      if (kernel_format != nullptr && is_slow(desc.impl_info_str())) desc = make(any);
      result->run = dnnl::convolution_backward_data(desc);
      result->kernel = desc.weights_desc();
      result->scratch = desc.scratchpad_desc();
    } else {
      // Sum in float32 whatever the dtype of the operands is.
      const memory::desc sums(plain.get_dims(), memory::data_type::f32, memory::format_tag::any);
      const dnnl::convolution_backward_weights::primitive_desc desc(
          engine(), algorithm, result->x, kernel_format == nullptr ? sums : kernel_desc, result->y,
          strides, before, after, hint, attr);
      result->run = dnnl::convolution_backward_weights(desc);
      result->kernel = desc.diff_weights_desc();
      result->scratch = desc.scratchpad_desc();
    }
  }
  const bool is_gradient = pass == Pass::kernel_gradient;
  result->needs_reorder = is_gradient || result->kernel != result->given_kernel;
  if (result->needs_reorder) {
    const auto &from = is_gradient ? result->kernel : result->given_kernel,
               &to = is_gradient ? plain : result->kernel;
    result->reorder = dnnl::reorder({engine(), from, engine(), to});
  }
  return result;
}

// Writes a kernel's layout as text, for cache keys.
std::string layout_text(const memory::desc& desc) {
  std::string text = " ";
  for (const auto& values :
       {desc.get_strides(), desc.get_padded_dims(), desc.get_inner_blks(), desc.get_inner_idxs()}) {
    for (const auto value : values) text += std::to_string(value) + " ";
    text += "/";
  }
  return text;
}

// A cache of primitives by problem. Making a primitive takes milliseconds, because oneDNN generates
// its code, so each is made once. The map is split into sixteen shards, each with its own reader
// lock, so that threads rarely contend.
class Cache {
 public:
  std::shared_ptr<const Primitive> get(const Problem& p, Pass pass, const Epilogue& epilogue = {},
                                       const memory::desc* kernel_format = nullptr) {
    std::string key = p.to_string() + " " + std::to_string(static_cast<int>(pass)) +
                      (epilogue.bias != nullptr ? "b" : "") +
                      (epilogue.residual != nullptr ? "r" : "") + (epilogue.relu ? "n" : "") +
                      (kernel_format != nullptr ? layout_text(*kernel_format) : "");
    Shard& shard = shards_[std::hash<std::string>()(key) % shards_.size()];
    {
      std::shared_lock<std::shared_mutex> lock(shard.mutex);
      const auto found = shard.primitives.find(key);
      if (found != shard.primitives.end()) return found->second;
    }
    // Two threads may make the same primitive. That is rare, and better than letting others wait.
    auto made = build(p, pass, epilogue, kernel_format);
    std::unique_lock<std::shared_mutex> lock(shard.mutex);
    return shard.primitives.emplace(std::move(key), std::move(made)).first->second;
  }

 private:
  struct Shard {
    std::shared_mutex mutex;
    std::unordered_map<std::string, std::shared_ptr<const Primitive>> primitives;
  };
  std::array<Shard, 16> shards_;
};

Cache& cache() {
  // It is never destroyed, because threads may outlive main.
  static Cache* const primitives = new Cache;
  return *primitives;
}

memory view(const memory::desc& desc, const void* data) {
  return memory(desc, engine(), const_cast<void*>(data));
}

void execute(const dnnl::primitive& primitive, std::unordered_map<int, memory> arguments) {
  const OneThread one_thread;
  dnnl::stream stream(engine());
  primitive.execute(stream, arguments);
  stream.wait();
}

void execute(const Primitive& primitive, std::unordered_map<int, memory> arguments) {
  thread_local Scratch scratch;
  if (primitive.scratch.get_size() > 0) {
    arguments.emplace(DNNL_ARG_SCRATCHPAD,
                      view(primitive.scratch, scratch.get(primitive.scratch.get_size())));
  }
  execute(primitive.run, std::move(arguments));
}

const void* at(const void* data, std::int64_t offset, Dtype dtype) {
  return static_cast<const char*>(data) + offset * size_of(dtype);
}
void* at(void* data, std::int64_t offset, Dtype dtype) {
  return static_cast<char*>(data) + offset * size_of(dtype);
}

// Returns the kernel in the primitive's format: the given one, or a reordered copy in `scratch`.
const void* reordered_kernel(const Primitive& primitive, const void* kernel, Scratch& scratch) {
  if (!primitive.needs_reorder) return kernel;
  void* copy = scratch.get(primitive.kernel.get_size());
  execute(primitive.reorder, {{DNNL_ARG_FROM, view(primitive.given_kernel, kernel)},
                              {DNNL_ARG_TO, view(primitive.kernel, copy)}});
  return copy;
}

// A slice of a problem, which one thread computes: some images, or some rows of one image's result.
struct Slice {
  Problem problem;
  std::int64_t first_image, first_row, first_out_row;
};

std::vector<Slice> slice_images(const Problem& p, std::int64_t threads) {
  const std::int64_t count = std::min(threads, p.images);
  std::vector<Slice> slices;
  for (std::int64_t i = 0, begin = 0; i < count; ++i) {
    const std::int64_t end = p.images * (i + 1) / count;
    Slice slice{p, begin, 0, 0};
    slice.problem.images = end - begin;
    slices.push_back(slice);
    begin = end;
  }
  return slices;
}

// Slices each image into bands of rows, which overlap in the input. Used if there are fewer images
// than threads.
std::vector<Slice> slice_rows(const Problem& p, std::int64_t threads) {
  const std::int64_t bands = std::min((threads + p.images - 1) / p.images, p.out_height);
  std::vector<Slice> slices;
  for (std::int64_t image = 0; image < p.images; ++image) {
    for (std::int64_t band = 0, begin = 0; band < bands; ++band) {
      const std::int64_t end = p.out_height * (band + 1) / bands;
      const std::int64_t from = begin * p.stride - p.top;
      const std::int64_t first = std::min(std::max<std::int64_t>(0, from), p.height - 1);
      const std::int64_t last = std::min(p.height, (end - 1) * p.stride - p.top + p.kernel_height);
      if (last <= first || first - from > p.kernel_height) return slice_images(p, threads);
      Slice slice{p, image, first, begin};
      slice.problem.images = 1;
      slice.problem.height = last - first;
      slice.problem.out_height = end - begin;
      slice.problem.top = first - from;
      slices.push_back(slice);
      begin = end;
    }
  }
  return slices;
}

std::vector<Slice> forward_slices(const Problem& p, std::int64_t threads) {
  return p.images < threads ? slice_rows(p, threads) : slice_images(p, threads);
}

void run_forward(const Problem& p, const std::vector<Slice>& slices, const Primitive& first,
                 const void* x, const void* kernel, const Epilogue& epilogue, void* y,
                 const Executor& executor) {
  executor.run(static_cast<std::int64_t>(slices.size()), [&](std::int64_t i) {
    const Slice& slice = slices[i];
    const auto primitive = cache().get(slice.problem, Pass::forward, epilogue, &first.kernel);
    thread_local Scratch scratch;
    const void* const preferred = reordered_kernel(*primitive, kernel, scratch);
    const std::int64_t out =
        slice.first_image * p.output_image_size() + slice.first_out_row * p.out_width * p.features;
    const std::int64_t in =
        slice.first_image * p.input_image_size() + slice.first_row * p.width * p.channels;
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, view(primitive->x, at(x, in, p.dtype))},
        {DNNL_ARG_WEIGHTS, view(primitive->kernel, preferred)},
        {DNNL_ARG_DST, view(primitive->y, at(y, out, p.dtype))}};
    if (epilogue.bias != nullptr) {
      arguments.emplace(DNNL_ARG_BIAS, view(primitive->bias, epilogue.bias));
    }
    if (epilogue.residual != nullptr) {
      arguments.emplace(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1,
                        view(primitive->y, at(epilogue.residual, out, p.dtype)));
    }
    execute(*primitive, std::move(arguments));
  });
}

std::shared_ptr<const Primitive> half_primitive(const Problem& p) {
  return cache().get(forward_slices(p, 2)[0].problem, Pass::forward);
}

}  // namespace

bool bf16_is_fast() {
  const auto isa = dnnl::get_effective_cpu_isa();
  return isa >= dnnl::cpu_isa::avx512_core && __builtin_cpu_supports("avx512f");
}

namespace onednn {

void forward(const Problem& p, const void* x, const void* kernel, const Epilogue& epilogue, void* y,
             const Executor& executor) {
  const auto slices = forward_slices(p, executor.threads());
  const auto first = cache().get(slices[0].problem, Pass::forward, epilogue);
  thread_local Scratch scratch;
  const void* preferred = reordered_kernel(*first, kernel, scratch);
  run_forward(p, slices, *first, x, preferred, epilogue, y, executor);
}

std::int64_t packed_bytes(const Problem& p) {
  return static_cast<std::int64_t>(half_primitive(p)->kernel.get_size());
}

std::size_t layout_hash(const Problem& p) {
  return std::hash<std::string>()(layout_text(half_primitive(p)->kernel));
}

void pack(const Problem& p, const void* kernel, void* packed) {
  const auto half = half_primitive(p);
  if (!half->needs_reorder) {
    std::memcpy(packed, kernel, half->kernel.get_size());
    return;
  }
  execute(half->reorder, {{DNNL_ARG_FROM, view(half->given_kernel, kernel)},
                          {DNNL_ARG_TO, view(half->kernel, packed)}});
}

void forward_packed(const Problem& p, const void* x, const void* packed, const Epilogue& epilogue,
                    void* y, const Executor& executor) {
  run_forward(p, forward_slices(p, executor.threads()), *half_primitive(p), x, packed, epilogue, y,
              executor);
}

void input_gradient(const Problem& p, const void* dy, const void* kernel, void* dx,
                    const Executor& executor) {
  const auto slices = slice_images(p, executor.threads());
  const auto first = cache().get(slices[0].problem, Pass::input_gradient);
  thread_local Scratch scratch;
  const void* preferred = reordered_kernel(*first, kernel, scratch);
  executor.run(static_cast<std::int64_t>(slices.size()), [&](std::int64_t i) {
    const Slice& slice = slices[i];
    const auto primitive = cache().get(slice.problem, Pass::input_gradient, {}, &first->kernel);
    thread_local Scratch own_scratch;
    const void* const slice_kernel = reordered_kernel(*primitive, preferred, own_scratch);
    const std::int64_t in = slice.first_image * p.input_image_size();
    const std::int64_t out = slice.first_image * p.output_image_size();
    execute(*primitive, {{DNNL_ARG_DIFF_DST, view(primitive->y, at(dy, out, p.dtype))},
                         {DNNL_ARG_WEIGHTS, view(primitive->kernel, slice_kernel)},
                         {DNNL_ARG_DIFF_SRC, view(primitive->x, at(dx, in, p.dtype))}});
  });
}

void kernel_gradient(const Problem& p, const void* x, const void* dy, void* dkernel,
                     const Executor& executor) {
  // Each task sums over its own images, and the partial sums are added at the end.
  const auto slices = slice_images(p, executor.threads());
  const auto count = static_cast<std::int64_t>(slices.size());
  const auto first = cache().get(slices[0].problem, Pass::kernel_gradient);
  const auto bytes = (static_cast<std::int64_t>(first->kernel.get_size()) + 63) / 64 * 64;
  const std::int64_t values = bytes / 4;
  thread_local Scratch scratch;
  char* const sums = static_cast<char*>(scratch.get(bytes * count));
  executor.run(count, [&](std::int64_t i) {
    const Slice& slice = slices[i];
    const auto primitive = cache().get(slice.problem, Pass::kernel_gradient, {}, &first->kernel);
    const std::int64_t in = slice.first_image * p.input_image_size();
    const std::int64_t out = slice.first_image * p.output_image_size();
    execute(*primitive, {{DNNL_ARG_SRC, view(primitive->x, at(x, in, p.dtype))},
                         {DNNL_ARG_DIFF_DST, view(primitive->y, at(dy, out, p.dtype))},
                         {DNNL_ARG_DIFF_WEIGHTS, view(primitive->kernel, sums + bytes * i)}});
  });
  executor.run(count, [&](std::int64_t i) {
    float* const total = reinterpret_cast<float*>(sums);
    for (std::int64_t other = 1; other < count; ++other) {
      const float* const sum = reinterpret_cast<const float*>(sums + bytes * other);
      for (std::int64_t j = values * i / count; j < values * (i + 1) / count; ++j) {
        total[j] += sum[j];
      }
    }
  });
  execute(first->reorder, {{DNNL_ARG_FROM, view(first->kernel, sums)},
                           {DNNL_ARG_TO, view(plain_kernel_desc(p), dkernel)}});
}

}  // namespace onednn
}  // namespace flax_resnet
