// Selection with AVX2.
#include <immintrin.h>

#include "packed.h"

static void cosines(const uint8_t *blocks, const float *inverse_norm, int64_t block_count, const Tile &tile, float *out,
                    size_t stride) {
    for (int64_t block = 0; block < block_count; block++) {
        const uint8_t *words = blocks + block * BLOCK_BYTES;
        for (int row = 0; row < TILE; row++) {
            const __m256 own = _mm256_set1_ps(tile.inverse_norm[row]);
            const __m256i offset = _mm256_set1_epi32(tile.offset[row]);
            for (int half = 0; half < 2; half++) {
                // Each register holds four tokens with two partial sums each.
                __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
                for (int word = 0; word < CHANNELS / 4; word++) {
                    const __m256i candidate =
                        _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(tile.words[row][word])));
                    const __m128i *part = reinterpret_cast<const __m128i *>(words + word * 64 + half * 32);
                    low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(part)), candidate));
                    high = _mm256_add_epi32(
                        high, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(part + 1)), candidate));
                }
                // The horizontal sum swaps the two middle quarters of the register; the permutation swaps them back.
                const __m256i both = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), _MM_SHUFFLE(3, 1, 2, 0));
                const __m256 dot = _mm256_cvtepi32_ps(_mm256_add_epi32(both, offset));
                const int64_t at = block * BLOCK + half * 8;
                _mm256_storeu_ps(out + row * stride + at,
                                 _mm256_mul_ps(_mm256_mul_ps(dot, own), _mm256_loadu_ps(inverse_norm + at)));
            }
        }
    }
}

static int64_t above(const float *values, int64_t count, float threshold, int32_t first, int32_t *place, float *value) {
    const __m256 limit = _mm256_set1_ps(threshold);
    int64_t found = 0, at = 0;
    for (; at + 8 <= count; at += 8) {
        uint32_t hits = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(values + at), limit, _CMP_GE_OQ));
        while (hits) {
            const int bit = __builtin_ctz(hits);
            place[found] = first + static_cast<int32_t>(at) + bit;
            value[found] = values[at + bit];
            found++;
            hits &= hits - 1;
        }
    }
    for (; at < count; at++) {
        if (values[at] >= threshold) {
            place[found] = first + static_cast<int32_t>(at);
            value[found] = values[at];
            found++;
        }
    }
    return found;
}

static int64_t count_above(const float *values, int64_t count, float threshold) {
    int64_t found = 0;
    for (int64_t at = 0; at < count; at++) found += values[at] >= threshold;
    return found;
}

static int64_t count_keys_above(const int32_t *keys, int64_t count, int32_t threshold) {
    int64_t found = 0;
    for (int64_t at = 0; at < count; at++) found += keys[at] >= threshold;
    return found;
}

static void keep(const Pool &pool, const Tile &tile, const float *threshold, Kept *kept) {
    constexpr int64_t CHUNK = 512;
    float values[TILE * CHUNK];
    for (int64_t token = 0; token < pool.count; token += CHUNK) {
        const int64_t count = pool.count - token < CHUNK ? pool.count - token : CHUNK;
        cosines(pool.blocks + token / BLOCK * BLOCK_BYTES, pool.inverse_norm + token, (count + BLOCK - 1) / BLOCK, tile, values,
                CHUNK);
        for (int row = 0; row < TILE; row++) {
            Kept &own = kept[row];
            own.count += above(values + row * CHUNK, count, threshold[row], static_cast<int32_t>(token), own.place + own.count,
                               own.value + own.count);
        }
    }
}

const Functions AVX2_FUNCTIONS = {cosines, keep, count_above, count_keys_above, keys_of, pick_of, norms_of};
