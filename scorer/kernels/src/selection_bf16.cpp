// Selection with VNNI: one instruction adds four products of bytes.
#include "avx512.h"

static inline void dots(const uint8_t *block, const Tile &tile, __m512i (&sum)[TILE][2]) {
    for (int row = 0; row < TILE; row++) sum[row][0] = sum[row][1] = _mm512_set1_epi32(tile.offset[row]);
    for (int word = 0; word < CHANNELS / 4; word++) {
        const __m512i first = _mm512_loadu_si512(block + word * 64);
        const __m512i second = _mm512_loadu_si512(block + BLOCK_BYTES + word * 64);
        for (int row = 0; row < TILE; row++) {
            const __m512i candidate = _mm512_set1_epi32(tile.words[row][word]);
            sum[row][0] = _mm512_dpbusd_epi32(sum[row][0], first, candidate);
            sum[row][1] = _mm512_dpbusd_epi32(sum[row][1], second, candidate);
        }
    }
}

const Functions BF16_FUNCTIONS = {cosines_512<dots>, keep_512<dots>, count_above_512, count_keys_above_512,
                                  keys_of, pick_512, norms_of};
