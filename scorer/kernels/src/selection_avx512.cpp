// Selection with AVX-512 without VNNI: sums of pairs of 16-bit products.
#include "avx512.h"

static inline void dots(const uint8_t *block, const Tile &tile, __m512i (&sum)[TILE][2]) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    for (int half = 0; half < 2; half++) {
        const uint8_t *words = block + half * BLOCK_BYTES;
        for (int row = 0; row < TILE; row++) {
            // Two partial sums for each token: of channels 0 and 1 of every word, and of channels 2 and 3.
            __m512i low = _mm512_setzero_si512(), high = _mm512_setzero_si512();
            for (int word = 0; word < CHANNELS / 4; word++) {
                const __m512i candidate = _mm512_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(tile.words[row][word])));
                const __m256i *part = reinterpret_cast<const __m256i *>(words + word * 64);
                low = _mm512_add_epi32(low, _mm512_madd_epi16(_mm512_cvtepu8_epi16(_mm256_loadu_si256(part)), candidate));
                high = _mm512_add_epi32(high, _mm512_madd_epi16(_mm512_cvtepu8_epi16(_mm256_loadu_si256(part + 1)), candidate));
            }
            const __m512i both = _mm512_add_epi32(_mm512_permutex2var_epi32(low, even, high),
                                                  _mm512_permutex2var_epi32(low, odd, high));
            sum[row][half] = _mm512_add_epi32(both, _mm512_set1_epi32(tile.offset[row]));
        }
    }
}

const Functions AVX512_FUNCTIONS = {cosines_512<dots>, keep_512<dots>, count_above_512, count_keys_above_512,
                                    keys_of, pick_512, norms_of};
