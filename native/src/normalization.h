// Batch normalisation of float32 arrays [pixels, channels], and what follows it: a residual added,
// negative numbers made zero.
//
// What is summed and what is done with the sums are functions of their own, because sums may have to
// be shared with other devices in between. Each function reads its arrays once. On processors of
// which has_avx2 (processor.h) is true.
#pragma once

#include <cstdint>

#include "executor.h"

namespace flax_resnet {

// How a channel's values become the result: (x - mean) * factor + bias, all [channels].
struct Affine {
  const float *mean, *factor, *bias;
};

struct Pixels {
  std::int64_t count, channels;
};

// The mean and the mean square of each channel, summed in double.
void moments(Pixels size, const float* x, float* mean, float* mean_square,
             const Executor& executor);

// y = relu((x - mean) * factor + bias + residual); residual may be null, relu left out.
void normalize(Pixels size, const float* x, const Affine& affine, const float* residual, bool relu,
               float* y, const Executor& executor);

// The gradient before ReLU, g: dy where the result was positive, else 0. Whether it was is seen
// from `y`, where it is given, else from x and `affine`; without `relu` g is dy.
struct Gradient {
  const float* dy;
  const float* y;
  bool relu;
};

// Of each channel, the sums of g and of g (x - mean); g itself, where it is not null.
void gradient_sums(Pixels size, const float* x, const Affine& affine, const Gradient& gradient,
                   float* total, float* centred_total, float* g, const Executor& executor);

// dx = factor * (g - shared - (x - mean) * slope); shared and slope are [channels].
void normalization_gradient(Pixels size, const float* x, const Affine& affine,
                            const Gradient& gradient, const float* shared, const float* slope,
                            float* dx, const Executor& executor);

}  // namespace flax_resnet
