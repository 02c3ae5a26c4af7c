// Eight float32 lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct Vector {
    static constexpr int LANES = 8;
    static constexpr int GROUP = 2;  // vectors of columns whose sums for six rows fit into the registers
    __m256 lanes;

    static Vector zero() { return {_mm256_setzero_ps()}; }
    static Vector broadcast(float value) { return {_mm256_set1_ps(value)}; }
    static Vector load(const float *from) { return {_mm256_loadu_ps(from)}; }
    static Vector of_bytes(const int8_t *from) {
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))))};
    }
    void store(float *to) const { _mm256_storeu_ps(to, lanes); }

    friend Vector operator+(Vector a, Vector b) { return {_mm256_add_ps(a.lanes, b.lanes)}; }
    friend Vector operator-(Vector a, Vector b) { return {_mm256_sub_ps(a.lanes, b.lanes)}; }
    friend Vector operator*(Vector a, Vector b) { return {_mm256_mul_ps(a.lanes, b.lanes)}; }
    friend Vector operator/(Vector a, Vector b) { return {_mm256_div_ps(a.lanes, b.lanes)}; }
    Vector sqrt() const { return {_mm256_sqrt_ps(lanes)}; }
    // a * b + c
    static Vector fma(Vector a, Vector b, Vector c) { return {_mm256_fmadd_ps(a.lanes, b.lanes, c.lanes)}; }
    static Vector max(Vector a, Vector b) { return {_mm256_max_ps(a.lanes, b.lanes)}; }
    // Reduces each of six vectors to one number, by `fold` of two vectors; `broadcast_row` reads the results.
    template <class Fold>
    static Vector reduce_rows(const Vector *rows, const Fold &fold) {
        const auto pair = [&](Vector a, Vector b) {
            return fold(Vector{_mm256_unpacklo_ps(a.lanes, b.lanes)}, Vector{_mm256_unpackhi_ps(a.lanes, b.lanes)});
        };
        const auto pairs = [&](Vector a, Vector b) {
            const __m256d low = _mm256_castps_pd(a.lanes), high = _mm256_castps_pd(b.lanes);
            return fold(Vector{_mm256_castpd_ps(_mm256_unpacklo_pd(low, high))},
                        Vector{_mm256_castpd_ps(_mm256_unpackhi_pd(low, high))});
        };
        const Vector last = pair(rows[4], rows[5]);
        const __m256 four = pairs(pair(rows[0], rows[1]), pair(rows[2], rows[3])).lanes, two = pairs(last, last).lanes;
        return fold(Vector{_mm256_permute2f128_ps(four, two, 0x20)}, Vector{_mm256_permute2f128_ps(four, two, 0x31)});
    }
    // The result of `reduce_rows` for one row, in every lane.
    Vector broadcast_row(int row) const { return {_mm256_permutevar8x32_ps(lanes, _mm256_set1_epi32(row))}; }
    // Lane i where first + i is at most `last`, and `other` elsewhere.
    Vector mask_after(int first, int last, float other) const {
        const __m256i place = _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        const __m256i behind = _mm256_cmpgt_epi32(place, _mm256_set1_epi32(last));
        return {_mm256_blendv_ps(lanes, _mm256_set1_ps(other), _mm256_castsi256_ps(behind))};
    }

    // 2 to the power of each lane; no lane is above 0.
    template <int DEGREE>
    Vector power_of_two() const {
        static_assert(DEGREE == 5);
        // Below the exponents of normal numbers it is 0 for all that matters.
        const __m256 bounded = _mm256_max_ps(lanes, _mm256_set1_ps(-126.0f));
        const __m256 whole = _mm256_round_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const __m256 rest = _mm256_sub_ps(bounded, whole);
        // Minimax of 2^x on [-1/2, 1/2].
        __m256 value = _mm256_set1_ps(1.327647043e-3f);
        value = _mm256_fmadd_ps(value, rest, _mm256_set1_ps(9.675541618e-3f));
        value = _mm256_fmadd_ps(value, rest, _mm256_set1_ps(5.550713281e-2f));
        value = _mm256_fmadd_ps(value, rest, _mm256_set1_ps(2.402211972e-1f));
        value = _mm256_fmadd_ps(value, rest, _mm256_set1_ps(6.931469671e-1f));
        value = _mm256_fmadd_ps(value, rest, _mm256_set1_ps(1.000000072f));
        const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
        const __m256 power = _mm256_mul_ps(value, _mm256_castsi256_ps(exponent));
        return {_mm256_and_ps(power, _mm256_cmp_ps(lanes, _mm256_set1_ps(-126.0f), _CMP_GE_OQ))};
    }
};

// Transposes 16 x 16 words: to[column * to_stride + row] = from[row * from_stride + column].
inline void transpose(const float *from, size_t from_stride, float *to, size_t to_stride) {
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 16; column++) to[column * to_stride + row] = from[row * from_stride + column];
}

}  // namespace
