// Tokens as the selection reads them: blocks of 16, [8 words][16 tokens][4 channels], each channel + 128 as uint8.
#pragma once

#include <cstddef>
#include <cstdint>

constexpr int CHANNELS = 32;
constexpr int BLOCK = 16;
constexpr int BLOCK_BYTES = BLOCK * CHANNELS;
constexpr int TILE = 8;  // candidates that one pass over the tokens serves

// Consecutive tokens of the history, packed. The padding of the last block is never selected.
struct Pool {
    const uint8_t *blocks = nullptr;
    const float *inverse_norm = nullptr;  // NaN for a zero vector, and behind the last token
    int64_t count = 0;
    int64_t first = 0;  // the index of its first token

    int64_t block_count() const { return (count + BLOCK - 1) / BLOCK; }
};

// TILE candidates; the last one is repeated if there are fewer.
struct Tile {
    int32_t words[TILE][CHANNELS / 4];  // the signed channels, four a word
    int32_t offset[TILE];               // -128 times the sum of the channels
    float inverse_norm[TILE];
};

// Tokens kept for one candidate, and their cosines. The arrays have room for 16 more, because whole registers are stored.
struct Kept {
    int32_t *place;
    float *value;
    int64_t count;
};

// The kernels of one instruction set.
struct Functions {
    // out[candidate * stride + token] = (dot * inverse norm of the candidate) * inverse norm of the token.
    void (*cosines)(const uint8_t *blocks, const float *inverse_norm, int64_t block_count, const Tile &tile, float *out,
                    size_t stride);
    // Appends the tokens whose cosine is at least the candidate's threshold.
    void (*keep)(const Pool &pool, const Tile &tile, const float *threshold, Kept *kept);
    // Returns how many values are at least the threshold.
    int64_t (*count_above)(const float *values, int64_t count, float threshold);
    int64_t (*count_keys_above)(const int32_t *keys, int64_t count, int32_t threshold);
    // Computes `key_of` each value, and the least and the greatest key.
    void (*keys)(const float *values, int64_t count, int32_t *keys, int32_t *least, int32_t *most);
    // Writes the tokens whose key is at least `lowest`, except the first `older` whose key equals it; returns how many it
    // wrote. The index of a token is its place plus `first`.
    int64_t (*pick)(const Kept &kept, int32_t lowest, int64_t older, int64_t first, int64_t *index, float *similarity);
    // Computes the inverse norms of `count` rows, every `step`th; NaN for a zero vector.
    void (*norms)(const int8_t *rows, int64_t step, int64_t count, float *inverse_norm);
};

// An integer that orders as the number does. -0 and 0 have the same key.
static inline int32_t key_of(float value) {
    const float sum = value + 0.0f;
    int32_t bits;
    __builtin_memcpy(&bits, &sum, sizeof bits);
    return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}

// `inverse_norm` of many rows, written so that the compiler vectorizes it; NaN for a zero vector.
static inline void norms_of(const int8_t *rows, int64_t step, int64_t count, float *inverse_norm) {
    constexpr int64_t AT_ONCE = 64;
    for (int64_t first = 0; first < count; first += AT_ONCE) {
        const int64_t there = count - first < AT_ONCE ? count - first : AT_ONCE;
        int32_t squares[AT_ONCE];
        for (int64_t token = 0; token < there; token++) {
            const int8_t *row = rows + (first + token) * step * CHANNELS;
            int32_t sum = 0;
            for (int channel = 0; channel < CHANNELS; channel++) sum += row[channel] * row[channel];
            squares[token] = sum;
        }
        for (int64_t token = 0; token < there; token++) {
            const float norm = static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(squares[token])));
            inverse_norm[first + token] = squares[token] ? norm : __builtin_nanf("");
        }
    }
}

static inline int64_t pick_of(const Kept &kept, int32_t lowest, int64_t older, int64_t first, int64_t *index,
                              float *similarity) {
    int64_t picked = 0;
    for (int64_t number = 0; number < kept.count; number++) {
        const int32_t key = key_of(kept.value[number]);
        if (key < lowest || (key == lowest && older-- > 0)) continue;
        index[picked] = first + kept.place[number];
        similarity[picked++] = kept.value[number] + 0.0f;
    }
    return picked;
}

static inline void keys_of(const float *values, int64_t count, int32_t *keys, int32_t *least, int32_t *most) {
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (int64_t at = 0; at < count; at++) {
        const int32_t key = key_of(values[at]);
        keys[at] = key;
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    *least = low;
    *most = high;
}

extern const Functions AVX2_FUNCTIONS;
extern const Functions AVX512_FUNCTIONS;
extern const Functions BF16_FUNCTIONS;
