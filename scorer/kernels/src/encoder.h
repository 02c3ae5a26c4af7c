// What the encoder of each instruction set shares: the prepared weights, and the rows that it reads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"

constexpr int WIDTH = 64;
constexpr int ROWS = 6;         // tokens in one tile
constexpr int STEP = 48;        // lengths are padded to a multiple of it
constexpr float EPSILON = 1e-5f;
constexpr int PARTS = 3;        // of an input: itself, and its two products
constexpr int ROW = PARTS * WIDTH;

// A matrix of int8, four channels of the input in a word; a sum of products is sum * scale + offset.
struct Int8Matrix {
    std::vector<float> words;          // [in / 4][out]
    std::vector<float> scale, offset;  // [out]
};

// One layer's weights in int8, and the scales of its inputs; see scorer/int8.py.
struct ByteWeights {
    Int8Matrix match, value, widen, narrow;
    float input, middle;                                        // the value that 127 stands for
    std::vector<float> value_scales, value_steps, wide_scales;  // [64], [64] and [ffn]
};

// Products read words of 32 bits: a float32, or two bfloat16 of neighbouring channels (or keys).
struct Prepared {
    int layers, ffn, length, similarity_knots, age_knots;
    float input_scale, age_span;
    // The parts whose sum is the first layer's input. That layer is linear before its attention, so the products of each
    // part with its match and value matrices are stored with the part, and a token's are computed once for all candidates.
    std::vector<float> action, surface, age;                   // [64, 256 or knots][64]: of a token
    std::vector<float> position;                               // [length][3][64]
    std::vector<float> similarity;                             // [knots][3][64]
    std::vector<float> first_match, first_value;               // [64][64], of float32
    std::vector<float> match, value, widen, narrow, read_out;  // words
    std::vector<float> read_out_bias;
    std::vector<ByteWeights> bytes;                            // one for each layer; empty except for int8
};

// The inputs and outputs of one candidate.
struct Candidate {
    const float *const *rows;  // [length]: the tokens' rows, as `make_rows` makes them
    const float *similarity;   // [length]
    const float *parts;        // [3][64]: the candidate's part of every token's input
    int count;                 // valid tokens, at least 1
    float *read_out;           // [64]
    float *outputs;            // [count][64], or null
};

// Clamps a number to [0, 1]; NaN becomes 0 or 1 as well.
inline float clamp_unit(float place) { return std::max(0.0f, std::min(1.0f, place)); }

struct EncoderFunctions {
    // Packs a matrix [in][out] into words of 32 bits.
    void (*pack)(const float *matrix, int in, int out, float *words);
    int (*words)(int in, int out);
    // Computes the second and third parts of `count` rows, [count][3][64], from the first.
    void (*complete)(const Prepared &weights, float *rows, int64_t count);
    // Floats of a token's row: 64, and its two products as words.
    int token_row;
    // Computes the rows of the tokens with these indices; -1 is the neutral token.
    void (*make_rows)(const Prepared &weights, const lifeline_tokens &tokens, const int64_t *index, int64_t count, float *rows);
    // Floats of scratch memory for one thread.
    size_t (*scratch)(const Prepared &weights);
    void (*encode)(const Prepared &weights, const Candidate &candidate, float *scratch);
};

extern const EncoderFunctions AVX2_ENCODER;
extern const EncoderFunctions AVX512_ENCODER;
extern const EncoderFunctions BF16_ENCODER;
extern const EncoderFunctions INT8_ENCODER;
