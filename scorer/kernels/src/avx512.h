// Selection with 512-bit registers, shared by both AVX-512 instruction sets; each has its own `dots`.
#pragma once

#include <immintrin.h>

#include "packed.h"

template <void (*dots)(const uint8_t *block, const Tile &tile, __m512i (&sum)[TILE][2])>
static void cosines_512(const uint8_t *blocks, const float *inverse_norm, int64_t block_count, const Tile &tile,
                        float *out, size_t stride) {
    for (int64_t block = 0; block < block_count; block += 2) {
        __m512i sum[TILE][2];
        // The allocation has one block more, so a pair of blocks can always be read.
        dots(blocks + block * BLOCK_BYTES, tile, sum);
        const bool both = block + 1 < block_count;
        for (int half = 0; half < (both ? 2 : 1); half++) {
            const __m512 norm = _mm512_loadu_ps(inverse_norm + (block + half) * BLOCK);
            for (int row = 0; row < TILE; row++) {
                const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[row][half]), _mm512_set1_ps(tile.inverse_norm[row]));
                _mm512_storeu_ps(out + row * stride + (block + half) * BLOCK, _mm512_mul_ps(scaled, norm));
            }
        }
    }
}

template <void (*dots)(const uint8_t *block, const Tile &tile, __m512i (&sum)[TILE][2])>
static void keep_512(const Pool &pool, const Tile &tile, const float *threshold, Kept *kept) {
    const __m512i lane_numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int64_t token = 0; token < pool.count; token += 2 * BLOCK) {
        __m512i sum[TILE][2];
        // The allocation has one block more, so a pair of blocks can always be read. Padding has the norm NaN, and NaN
        // reaches no threshold.
        dots(pool.blocks + token / BLOCK * BLOCK_BYTES, tile, sum);
        for (int half = 0; half < 2; half++) {
            const int64_t first = token + half * BLOCK;
            const __m512 norm = _mm512_loadu_ps(pool.inverse_norm + first);
            for (int row = 0; row < TILE; row++) {
                const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[row][half]), _mm512_set1_ps(tile.inverse_norm[row]));
                const __m512 value = _mm512_mul_ps(scaled, norm);
                const __mmask16 hits = _mm512_cmp_ps_mask(value, _mm512_set1_ps(threshold[row]), _CMP_GE_OQ);
                if (__builtin_expect(hits == 0, 1)) continue;
                Kept &own = kept[row];
                const __m512i place = _mm512_add_epi32(lane_numbers, _mm512_set1_epi32(static_cast<int32_t>(first)));
                _mm512_storeu_ps(own.value + own.count, _mm512_maskz_compress_ps(hits, value));
                _mm512_storeu_si512(own.place + own.count, _mm512_maskz_compress_epi32(hits, place));
                own.count += __builtin_popcount(hits);
            }
        }
    }
}

// The mask of the first `count` of 16 lanes.
static inline __mmask16 lane_mask(int64_t count) {
    return count >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << count) - 1);
}

static int64_t count_above_512(const float *values, int64_t count, float threshold) {
    const __m512 limit = _mm512_set1_ps(threshold);
    int64_t found = 0;
    for (int64_t at = 0; at < count; at += 16) {
        const __mmask16 mask = lane_mask(count - at);
        found += __builtin_popcount(
            _mm512_mask_cmp_ps_mask(mask, _mm512_maskz_loadu_ps(mask, values + at), limit, _CMP_GE_OQ));
    }
    return found;
}

static int64_t pick_512(const Kept &kept, int32_t lowest, int64_t older, int64_t first, int64_t *index, float *similarity) {
    const __m512i limit = _mm512_set1_epi32(lowest), base = _mm512_set1_epi64(first);
    int64_t picked = 0;
    for (int64_t at = 0; at < kept.count; at += 16) {
        const __mmask16 mask = lane_mask(kept.count - at);
        const __m512 value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, kept.value + at), _mm512_setzero_ps());
        const __m512i bits = _mm512_castps_si512(value);
        const __m512i key =
            _mm512_xor_si512(bits, _mm512_and_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(0x7FFFFFFF)));
        __mmask16 taken = _mm512_mask_cmpge_epi32_mask(mask, key, limit);
        for (uint32_t equal = _mm512_mask_cmpeq_epi32_mask(taken, key, limit); equal && older > 0; older--) {
            taken &= static_cast<__mmask16>(~(equal & -equal));
            equal &= equal - 1;
        }
        const __m512i place = _mm512_maskz_compress_epi32(taken, _mm512_maskz_loadu_epi32(mask, kept.place + at));
        const int count = __builtin_popcount(taken);
        const __mmask16 whole = lane_mask(count);
        _mm512_mask_storeu_ps(similarity + picked, whole, _mm512_maskz_compress_ps(taken, value));
        _mm512_mask_storeu_epi64(index + picked, static_cast<__mmask8>(whole),
                                 _mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(place)), base));
        _mm512_mask_storeu_epi64(index + picked + 8, static_cast<__mmask8>(whole >> 8),
                                 _mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(place, 1)), base));
        picked += count;
    }
    return picked;
}

static int64_t count_keys_above_512(const int32_t *keys, int64_t count, int32_t threshold) {
    const __m512i limit = _mm512_set1_epi32(threshold);
    int64_t found = 0;
    for (int64_t at = 0; at < count; at += 16) {
        const __mmask16 mask = lane_mask(count - at);
        found += __builtin_popcount(
            _mm512_mask_cmpge_epi32_mask(mask, _mm512_maskz_loadu_epi32(mask, keys + at), limit));
    }
    return found;
}
