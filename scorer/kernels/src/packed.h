// Tokens as the selection reads them: blocks of 16, [8 words][16 tokens][4 channels], each channel + 128 as uint8.
#pragma once

#include <cstddef>
#include <cstdint>

constexpr int CHANNELS = 32;
constexpr int BLOCK = 16;
constexpr int BLOCK_BYTES = BLOCK * CHANNELS;
constexpr int TILE = 8;  // candidates at once

// Tokens that stand together in the history, packed. What the last block has too much is never selected.
struct Pool {
    const uint8_t *blocks = nullptr;
    const float *inverse_norm = nullptr;  // NaN for a zero vector, and behind the last token
    int64_t count = 0;
    int64_t first = 0;  // the index of its first token

    int64_t block_count() const { return (count + BLOCK - 1) / BLOCK; }
};

// Candidates side by side; those behind the last repeat it.
struct Tile {
    int32_t words[TILE][CHANNELS / 4];  // the signed channels, four a word
    int32_t offset[TILE];               // -128 times the sum of the channels
    float inverse_norm[TILE];
};

// What an instruction set brings.
struct Functions {
    // out[candidate * stride + token] = (dot * inverse norm of the candidate) * inverse norm of the token.
    void (*cosines)(const uint8_t *blocks, const float *inverse_norm, int64_t block_count, const Tile &tile, float *out,
                    size_t stride);
    // Appends the places and values of what is at least the threshold; returns how many there are.
    int64_t (*above)(const float *values, int64_t count, float threshold, int32_t first, int32_t *place, float *value);
    // How many are at least the threshold.
    int64_t (*count_above)(const float *values, int64_t count, float threshold);
    int64_t (*count_keys_above)(const int32_t *keys, int64_t count, int32_t threshold);
};

extern const Functions AVX2_FUNCTIONS;
extern const Functions AVX512_FUNCTIONS;
extern const Functions BF16_FUNCTIONS;
