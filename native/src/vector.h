// The vectors of one instruction set.
//
// The files that include this one are compiled once for each instruction set, into the namespace
// flax_resnet::ISA. CMakeLists.txt defines ISA (avx2 or avx512) and LANES, the floats of a vector.
// Only functions marked SIMD contain the set's instructions: the compiler's flags allow none of
// them, so that inline functions that other files share, the standard library's for example, run on
// any x86-64 processor whichever copy of them the linker keeps.
#pragma once

#include <immintrin.h>

#include <cstdint>

#if LANES == 16 && !defined(EMULATE_AVX512)
#define SIMD __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#else
#define SIMD __attribute__((target("avx2,fma")))
#endif
#define SIMD_INLINE SIMD __attribute__((always_inline)) inline

namespace flax_resnet::ISA {

constexpr std::int64_t lanes = LANES;

// The register tile of the GEMM microkernel: MR pixels by NR features of sums, two vectors wide.
// AVX2 has 16 registers and AVX-512 has 32.
constexpr std::int64_t mr = lanes == 8 ? 6 : 12, nr = 2 * lanes;
constexpr std::int64_t line_floats = 16;  // Floats of a cache line.

}  // namespace flax_resnet::ISA

#if LANES == 8

namespace flax_resnet::ISA {

using Vector = __m256;
using Mask = __m256;

SIMD_INLINE Vector load(const float* from) { return _mm256_loadu_ps(from); }
SIMD_INLINE void store(float* to, Vector a) { _mm256_storeu_ps(to, a); }
SIMD_INLINE Vector zero() { return _mm256_setzero_ps(); }
SIMD_INLINE Vector broadcast(float value) { return _mm256_set1_ps(value); }
SIMD_INLINE Vector broadcast(const float* from) { return _mm256_broadcast_ss(from); }
SIMD_INLINE Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
SIMD_INLINE Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
SIMD_INLINE Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
// a * b + c and c - a * b, rounded once.
SIMD_INLINE Vector fmadd(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
SIMD_INLINE Vector fnmadd(Vector a, Vector b, Vector c) { return _mm256_fnmadd_ps(a, b, c); }
// max(a, 0). NaN stays NaN: of a NaN and zero the instruction returns its second operand.
SIMD_INLINE Vector relu(Vector a) { return _mm256_max_ps(zero(), a); }

// One channel of each group of four channels, in all four lanes of the group.
template <int channel>
SIMD_INLINE Vector broadcast_of_four(const float* from) {
  return _mm256_permute_ps(_mm256_loadu_ps(from), channel * 0x55);
}
// The first channel of each group of eight channels, in all eight lanes of the group.
SIMD_INLINE Vector broadcast_of_eight(const float* from) { return _mm256_broadcast_ss(from); }

// The lanes where a is larger than b, or NaN.
SIMD_INLINE Mask larger_or_nan(Vector a, Vector b) {
  return _mm256_or_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ), _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
SIMD_INLINE Vector select(Mask mask, Vector a, Vector b) { return _mm256_blendv_ps(b, a, mask); }

// A byte for each lane.
struct Bytes {
  __m256i values;
};
SIMD_INLINE Bytes broadcast_byte(std::int64_t value) {
  return {_mm256_set1_epi32(static_cast<int>(value))};
}
SIMD_INLINE Bytes select(Mask mask, Bytes a, Bytes b) {
  return {_mm256_blendv_epi8(b.values, a.values, _mm256_castps_si256(mask))};
}
SIMD_INLINE void store(std::uint8_t* to, Bytes a) {
  alignas(32) std::int32_t values[lanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(values), a.values);
  for (std::int64_t i = 0; i < lanes; ++i) to[i] = static_cast<std::uint8_t>(values[i]);
}

}  // namespace flax_resnet::ISA

#elif !defined(EMULATE_AVX512)

namespace flax_resnet::ISA {

using Vector = __m512;
using Mask = __mmask16;

SIMD_INLINE Vector load(const float* from) { return _mm512_loadu_ps(from); }
SIMD_INLINE void store(float* to, Vector a) { _mm512_storeu_ps(to, a); }
SIMD_INLINE Vector zero() { return _mm512_setzero_ps(); }
SIMD_INLINE Vector broadcast(float value) { return _mm512_set1_ps(value); }
SIMD_INLINE Vector broadcast(const float* from) { return _mm512_set1_ps(*from); }
SIMD_INLINE Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
SIMD_INLINE Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
SIMD_INLINE Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
SIMD_INLINE Vector fmadd(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
SIMD_INLINE Vector fnmadd(Vector a, Vector b, Vector c) { return _mm512_fnmadd_ps(a, b, c); }
SIMD_INLINE Vector relu(Vector a) { return _mm512_max_ps(zero(), a); }

template <int channel>
SIMD_INLINE Vector broadcast_of_four(const float* from) {
  return _mm512_permute_ps(_mm512_loadu_ps(from), channel * 0x55);
}
SIMD_INLINE Vector broadcast_of_eight(const float* from) {
  return _mm512_mask_broadcastss_ps(_mm512_set1_ps(*from), 0xff00, _mm_load_ss(from + 8));
}

SIMD_INLINE Mask larger_or_nan(Vector a, Vector b) {
  return static_cast<Mask>(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) |
                           _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q));
}
SIMD_INLINE Vector select(Mask mask, Vector a, Vector b) {
  return _mm512_mask_blend_ps(mask, b, a);
}

struct Bytes {
  __m512i values;
};
SIMD_INLINE Bytes broadcast_byte(std::int64_t value) {
  return {_mm512_set1_epi32(static_cast<int>(value))};
}
SIMD_INLINE Bytes select(Mask mask, Bytes a, Bytes b) {
  return {_mm512_mask_blend_epi32(mask, b.values, a.values)};
}
SIMD_INLINE void store(std::uint8_t* to, Bytes a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(a.values));
}

}  // namespace flax_resnet::ISA

#else
#include "../tests/emulated_vector.h"
#endif
