// Sixteen float32 lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct Vector {
    static constexpr int LANES = 16;
    static constexpr int GROUP = 4;  // vectors of columns whose sums for six rows fit into the registers
    __m512 lanes;

    static Vector zero() { return {_mm512_setzero_ps()}; }
    static Vector broadcast(float value) { return {_mm512_set1_ps(value)}; }
    static Vector load(const float *from) { return {_mm512_loadu_ps(from)}; }
    static Vector of_bytes(const int8_t *from) {
        return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))))};
    }
    void store(float *to) const { _mm512_storeu_ps(to, lanes); }

    friend Vector operator+(Vector a, Vector b) { return {_mm512_add_ps(a.lanes, b.lanes)}; }
    friend Vector operator-(Vector a, Vector b) { return {_mm512_sub_ps(a.lanes, b.lanes)}; }
    friend Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.lanes, b.lanes)}; }
    friend Vector operator/(Vector a, Vector b) { return {_mm512_div_ps(a.lanes, b.lanes)}; }
    Vector sqrt() const { return {_mm512_sqrt_ps(lanes)}; }
    // a * b + c
    static Vector fma(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.lanes, b.lanes, c.lanes)}; }
    static Vector max(Vector a, Vector b) { return {_mm512_max_ps(a.lanes, b.lanes)}; }
    // Reduces each of six vectors to one number, by `fold` of two vectors; `broadcast_row` reads the results.
    template <class Fold>
    static Vector reduce_rows(const Vector *rows, const Fold &fold) {
        const auto pair = [&](Vector a, Vector b) {
            return fold(Vector{_mm512_unpacklo_ps(a.lanes, b.lanes)}, Vector{_mm512_unpackhi_ps(a.lanes, b.lanes)});
        };
        const auto pairs = [&](Vector a, Vector b) {
            const __m512d low = _mm512_castps_pd(a.lanes), high = _mm512_castps_pd(b.lanes);
            return fold(Vector{_mm512_castpd_ps(_mm512_unpacklo_pd(low, high))},
                        Vector{_mm512_castpd_ps(_mm512_unpackhi_pd(low, high))});
        };
        const Vector last = pair(rows[4], rows[5]);
        const __m512 four = pairs(pair(rows[0], rows[1]), pair(rows[2], rows[3])).lanes, two = pairs(last, last).lanes;
        const __m512 half =
            fold(Vector{_mm512_shuffle_f32x4(four, two, 0x44)}, Vector{_mm512_shuffle_f32x4(four, two, 0xEE)}).lanes;
        return fold(Vector{half}, Vector{_mm512_shuffle_f32x4(half, half, 0xB1)});
    }
    // The result of `reduce_rows` for one row, in every lane.
    Vector broadcast_row(int row) const { return {_mm512_permutexvar_ps(_mm512_set1_epi32(row < 4 ? row : row + 4), lanes)}; }
    // Lane i where first + i is at most `last`, and `other` elsewhere.
    Vector mask_after(int first, int last, float other) const {
        const int count = last - first + 1;
        const __mmask16 there = count >= LANES ? 0xFFFF : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
        return {_mm512_mask_blend_ps(there, _mm512_set1_ps(other), lanes)};
    }

    // 2 to the power of each lane; no lane is above 0.
    template <int DEGREE>
    Vector power_of_two() const;
};

template <>
inline Vector Vector::power_of_two<5>() const {
    const __m512 whole = _mm512_roundscale_ps(lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(lanes, whole);
    // Minimax of 2^x on [-1/2, 1/2].
    __m512 value = _mm512_set1_ps(1.327647043e-3f);
    value = _mm512_fmadd_ps(value, rest, _mm512_set1_ps(9.675541618e-3f));
    value = _mm512_fmadd_ps(value, rest, _mm512_set1_ps(5.550713281e-2f));
    value = _mm512_fmadd_ps(value, rest, _mm512_set1_ps(2.402211972e-1f));
    value = _mm512_fmadd_ps(value, rest, _mm512_set1_ps(6.931469671e-1f));
    value = _mm512_fmadd_ps(value, rest, _mm512_set1_ps(1.000000072f));
    return {_mm512_scalef_ps(value, whole)};
}

template <>
inline Vector Vector::power_of_two<3>() const {
    const __m512 rest = _mm512_reduce_ps(lanes, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    // Minimax of 2^x on [0, 1]; the scale is the whole part below.
    __m512 value = _mm512_set1_ps(7.802452332e-02f);
    value = _mm512_fmadd_ps(value, rest, _mm512_set1_ps(2.260671590e-01f));
    value = _mm512_fmadd_ps(value, rest, _mm512_set1_ps(6.958335367e-01f));
    value = _mm512_fmadd_ps(value, rest, _mm512_set1_ps(9.999252192e-01f));
    return {_mm512_scalef_ps(value, lanes)};
}

// Transposes 16 x 16 words: to[column * to_stride + row] = from[row * from_stride + column].
inline void transpose(const float *from, size_t from_stride, float *to, size_t to_stride) {
    __m512i row[16], next[16];
    for (int i = 0; i < 16; i++) row[i] = _mm512_loadu_si512(from + i * from_stride);
    for (int i = 0; i < 16; i += 2) {
        next[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        next[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        row[i] = _mm512_unpacklo_epi64(next[i], next[i + 2]);
        row[i + 1] = _mm512_unpackhi_epi64(next[i], next[i + 2]);
        row[i + 2] = _mm512_unpacklo_epi64(next[i + 1], next[i + 3]);
        row[i + 3] = _mm512_unpackhi_epi64(next[i + 1], next[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        next[i] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0x88);
        next[i + 4] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0xDD);
        next[i + 8] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0x88);
        next[i + 12] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0xDD);
    }
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_si512(to + i * to_stride, _mm512_shuffle_i32x4(next[i], next[i + 8], 0x88));
        _mm512_storeu_si512(to + (i + 8) * to_stride, _mm512_shuffle_i32x4(next[i], next[i + 8], 0xDD));
        _mm512_storeu_si512(to + (i + 4) * to_stride, _mm512_shuffle_i32x4(next[i + 4], next[i + 12], 0x88));
        _mm512_storeu_si512(to + (i + 12) * to_stride, _mm512_shuffle_i32x4(next[i + 4], next[i + 12], 0xDD));
    }
}

}  // namespace
