// Products of bfloat16: two neighbouring channels (or keys) a word.
#pragma once

#include "vector_avx512.h"

#include "encoder_blocks.h"

namespace {

struct Bfloat16 {
    static constexpr int PER_WORD = 2, DEGREE = 3;

    static inline __attribute__((always_inline)) Vector dot(Vector a, Vector b, Vector sum) {
        return {_mm512_dpbf16_ps(sum.lanes, std::bit_cast<__m512bh>(a.lanes), std::bit_cast<__m512bh>(b.lanes))};
    }
    static inline __m256i narrowed(__m512 lanes) { return std::bit_cast<__m256i>(_mm512_cvtneps_pbh(lanes)); }
    static inline void put(Vector value, float *words, int place) {
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(words + place / 2), narrowed(value.lanes));
    }
    // A row's vector out of its words.
    static inline Vector take(const float *words, int column) {
        const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(words + column * 8));
        return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
    }
    static void store(const Tile<Bfloat16> &tile, float *to) {
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < VECTORS; column++)
                _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + (row * WIDTH + column * 16) / 2),
                                    narrowed(tile.of[row][column].lanes));
    }
    // Two keys a word.
    static void store_values(const Tile<Bfloat16> &tile, float *values, int first) {
        for (int row = 0; row < ROWS; row += 2)
            for (int column = 0; column < VECTORS; column++) {
                const __m512i low = _mm512_cvtepu16_epi32(narrowed(tile.of[row][column].lanes));
                const __m512i high = _mm512_cvtepu16_epi32(narrowed(tile.of[row + 1][column].lanes));
                _mm512_storeu_si512(values + (first + row) / 2 * WIDTH + column * 16,
                                    _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
            }
    }
    static void pack(const float *matrix, int in, int out, float *words) {
        for (int row = 0; row < in; row += 2)
            for (int column = 0; column < out; column++) {
                const uint32_t low = rounded(matrix[row * out + column]), high = rounded(matrix[(row + 1) * out + column]);
                words[row / 2 * out + column] = std::bit_cast<float>(low | high << 16);
            }
    }

  private:
    static uint32_t rounded(float value) {
        const uint32_t bits = std::bit_cast<uint32_t>(value);
        return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    }
};

}  // namespace
