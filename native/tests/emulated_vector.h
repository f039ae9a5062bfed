// Sixteen lanes as two AVX vectors: vector.h for tests of what is written for AVX-512 on processors
// without it (CMake's option EMULATE_AVX512). Included by vector.h.
#pragma once

namespace flax_resnet::ISA {

struct Vector {
  __m256 low, high;
};
using Mask = Vector;

SIMD_INLINE Vector load(const float* from) {
  return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
SIMD_INLINE void store(float* to, Vector a) {
  _mm256_storeu_ps(to, a.low);
  _mm256_storeu_ps(to + 8, a.high);
}
SIMD_INLINE Vector zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
SIMD_INLINE Vector broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
SIMD_INLINE Vector broadcast(const float* from) { return broadcast(*from); }
SIMD_INLINE Vector add(Vector a, Vector b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
SIMD_INLINE Vector subtract(Vector a, Vector b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
SIMD_INLINE Vector multiply(Vector a, Vector b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
SIMD_INLINE Vector fmadd(Vector a, Vector b, Vector c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
SIMD_INLINE Vector fnmadd(Vector a, Vector b, Vector c) {
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
SIMD_INLINE Vector relu(Vector a) {
  return {_mm256_max_ps(_mm256_setzero_ps(), a.low), _mm256_max_ps(_mm256_setzero_ps(), a.high)};
}

template <int channel>
SIMD_INLINE Vector broadcast_of_four(const float* from) {
  return {_mm256_permute_ps(_mm256_loadu_ps(from), channel * 0x55),
          _mm256_permute_ps(_mm256_loadu_ps(from + 8), channel * 0x55)};
}
SIMD_INLINE Vector broadcast_of_eight(const float* from) {
  return {_mm256_broadcast_ss(from), _mm256_broadcast_ss(from + 8)};
}

SIMD_INLINE __m256 larger_or_nan(__m256 a, __m256 b) {
  return _mm256_or_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ), _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
SIMD_INLINE Mask larger_or_nan(Vector a, Vector b) {
  return {larger_or_nan(a.low, b.low), larger_or_nan(a.high, b.high)};
}
SIMD_INLINE Vector select(Mask mask, Vector a, Vector b) {
  return {_mm256_blendv_ps(b.low, a.low, mask.low), _mm256_blendv_ps(b.high, a.high, mask.high)};
}

struct Bytes {
  __m256i low, high;
};
SIMD_INLINE Bytes broadcast_byte(std::int64_t value) {
  const __m256i values = _mm256_set1_epi32(static_cast<int>(value));
  return {values, values};
}
SIMD_INLINE Bytes select(Mask mask, Bytes a, Bytes b) {
  return {_mm256_blendv_epi8(b.low, a.low, _mm256_castps_si256(mask.low)),
          _mm256_blendv_epi8(b.high, a.high, _mm256_castps_si256(mask.high))};
}
SIMD_INLINE void store(std::uint8_t* to, Bytes a) {
  alignas(32) std::int32_t values[lanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(values), a.low);
  _mm256_store_si256(reinterpret_cast<__m256i*>(values + 8), a.high);
  for (std::int64_t i = 0; i < lanes; ++i) to[i] = static_cast<std::uint8_t>(values[i]);
}

}  // namespace flax_resnet::ISA
