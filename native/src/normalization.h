// Batch normalisation of float32 arrays [pixels, channels], fused with the residual addition and
// the ReLU that follow it.
//
// Reductions and elementwise passes are separate functions, because the sums may have to be
// averaged over devices in between. Each function reads its arrays once.
#pragma once

#include <cstdint>

#include "executor.h"

namespace flax_resnet {

// The affine map of each channel, y = (x - mean) * factor + bias. All arrays are [channels].
struct Affine {
  const float *mean, *factor, *bias;
};

struct Pixels {
  std::int64_t count, channels;
};

// The gradient g with respect to ReLU's input: dy where the output was positive, and 0 elsewhere.
// The output is `y`, or if that is null it is recomputed from x and the affine map. Without `relu`
// g is dy.
struct Gradient {
  const float* dy;
  const float* y;
  bool relu;
};

// The passes, compiled for one instruction set.
struct Normalization {
  // Computes the mean and the mean square of each channel, summed in double precision.
  void (*moments)(Pixels size, const float* x, float* mean, float* mean_square,
                  const Executor& executor);
  // Computes y = relu((x - mean) * factor + bias + residual). The residual may be null, and without
  // `relu` negative values are kept.
  void (*normalize)(Pixels size, const float* x, const Affine& affine, const float* residual,
                    bool relu, float* y, const Executor& executor);
  // Computes each channel's sums of g and of g * (x - mean), and writes g unless it is null.
  void (*gradient_sums)(Pixels size, const float* x, const Affine& affine, const Gradient& gradient,
                        float* total, float* centred_total, float* g, const Executor& executor);
  // Computes dx = factor * (g - mean_gradient - (x - mean) * projection); mean_gradient and
  // projection are [channels].
  void (*gradient)(Pixels size, const float* x, const Affine& affine, const Gradient& gradient,
                   const float* mean_gradient, const float* projection, float* dx,
                   const Executor& executor);
};

}  // namespace flax_resnet
