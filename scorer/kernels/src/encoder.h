// What the encoder of each instruction set shares: the prepared weights, and the rows that it reads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"

constexpr int WIDTH = 64;
constexpr int ROWS = 6;         // tokens at once
constexpr int STEP = 48;        // lengths are rounded up to it
constexpr float EPSILON = 1e-5f;
constexpr int PARTS = 3;        // of an input: itself, and its two products
constexpr int ROW = PARTS * WIDTH;

// A matrix of int8, four channels of the input a word, and what makes a number of a sum of products.
struct Scaled {
    std::vector<float> words;          // [in / 4][out]
    std::vector<float> scale, offset;  // [out]
};

// One layer's weights in int8, and what its inputs' steps are worth; see scorer/int8.py.
struct ByteWeights {
    Scaled match, value, widen, narrow;
    float input, middle;                                        // what 127 stands for
    std::vector<float> value_scales, value_steps, wide_scales;  // [64], [64] and [ffn]
};

// Products read words of 32 bits: a float32, or two bfloat16 of neighbouring channels (or keys).
struct Prepared {
    int layers, ffn, length, similarity_knots, age_knots;
    float input_scale, age_span;
    // What the first layer's input is a sum of. That layer is linear in its input before attention, so the products of
    // each part with the first layer's match and value stand beside it: a token's are made once for all candidates.
    std::vector<float> action, surface, age;                   // [64, 256 or knots][64]: of a token
    std::vector<float> position;                               // [length][3][64]
    std::vector<float> similarity;                             // [knots][3][64]
    std::vector<float> first_match, first_value;               // [64][64], of float32
    std::vector<float> match, value, widen, narrow, read_out;  // words
    std::vector<float> read_out_bias;
    std::vector<ByteWeights> bytes;                            // a layer each; none but for int8
};

// One candidate.
struct Candidate {
    const float *const *rows;  // [length]: the tokens' rows, as `make_rows` makes them
    const float *similarity;   // [length]
    const float *parts;        // [3][64]: its own part of every token's input
    int count;                 // of its valid tokens, 1 at least
    float *read_out;           // [64]
    float *outputs;            // [count][64], or null
};

// From 0 to 1, whatever the number: what is none is 0 or 1 as well.
inline float shared(float place) { return std::max(0.0f, std::min(1.0f, place)); }

struct EncoderFunctions {
    // Words of 32 bits for a matrix [in][out] that products read.
    void (*pack)(const float *matrix, int in, int out, float *words);
    int (*words)(int in, int out);
    // Fills the second and third parts of so many rows, [count][3][64], from the first.
    void (*complete)(const Prepared &weights, float *rows, int64_t count);
    // Floats of a token's row: 64, and its two products as words.
    int token_row;
    // Makes rows of tokens, whose numbers are given (-1: the neutral one).
    void (*make_rows)(const Prepared &weights, const lifeline_tokens &tokens, const int64_t *index, int64_t count, float *rows);
    // Floats of memory that one thread works with.
    size_t (*scratch)(const Prepared &weights);
    void (*encode)(const Prepared &weights, const Candidate &candidate, float *scratch);
};

extern const EncoderFunctions AVX2_ENCODER;
extern const EncoderFunctions AVX512_ENCODER;
extern const EncoderFunctions BF16_ENCODER;
extern const EncoderFunctions INT8_ENCODER;
