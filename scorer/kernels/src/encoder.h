// What the encoder of each instruction set shares: the prepared weights, and the rows that it reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

constexpr int WIDTH = 64;
constexpr int ROWS = 6;         // tokens at once
constexpr int STEP = 48;        // lengths are rounded up to it
constexpr float EPSILON = 1e-5f;
constexpr int PARTS = 3;        // of an input: itself, and its two products
constexpr int ROW = PARTS * WIDTH;

// Products read words of 32 bits: a float32, or two bfloat16 of neighbouring channels (or keys).
struct Prepared {
    int layers, ffn, length, similarity_knots;
    float input_scale;
    // What the first layer's input is a sum of, with its products with the first layer's match and value beside it: that
    // layer is linear in its input before attention, so a token's part is worked out once for all candidates.
    std::vector<float> position;                               // [length][3][64]
    std::vector<float> similarity;                             // [knots][3][64]
    std::vector<float> first_match, first_value;               // [64][64], of float32
    std::vector<float> match, value, widen, narrow, read_out;  // words
    std::vector<float> read_out_bias;
};

// One candidate.
struct Candidate {
    const float *const *rows;  // [length]: the tokens' parts, [3][64] each
    const float *similarity;   // [length]
    const float *parts;        // [3][64]: its own part of every token's input
    int count;                 // of its valid tokens, 1 at least
    float *read_out;           // [64]
    float *outputs;            // [count][64], or null
};

struct EncoderFunctions {
    // Words of 32 bits for a matrix [in][out] that products read.
    void (*pack)(const float *matrix, int in, int out, float *words);
    int (*words)(int in, int out);
    // Fills the second and third parts of so many rows, [count][3][64], from the first.
    void (*complete)(const Prepared &weights, float *rows, int64_t count);
    // Floats of memory that one thread works with.
    size_t (*scratch)(const Prepared &weights);
    void (*encode)(const Prepared &weights, const Candidate &candidate, float *scratch);
};

extern const EncoderFunctions AVX2_ENCODER;
extern const EncoderFunctions AVX512_ENCODER;
extern const EncoderFunctions BF16_ENCODER;
