// Cross and heads: what the instruction sets share.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

constexpr int HEAD_ROWS = 6;      // candidates whose sums fit into the registers
constexpr int HEAD_BLOCK = 24;    // candidates for which a matrix is read once
constexpr int HEAD_COLUMNS = 16;  // matrices are padded with columns of zeros to a multiple of this

// y = x W + b.
struct Linear {
    int in, out, columns;       // columns: `out` rounded up to HEAD_COLUMNS
    std::vector<float> matrix;  // [in][columns]
    std::vector<float> bias;    // [columns]
};

struct HeadsPrepared {
    int width, stride;  // of a candidate's input, and the floats between two rows in memory
    std::vector<Linear> cross, mlp;
};

// Fills logits, [rows][out of the last], from inputs, [rows][width], of at most HEAD_BLOCK candidates. `scratch` has
// 3 * HEAD_BLOCK * stride floats.
using HeadsFunction = void (*)(const HeadsPrepared &heads, const float *inputs, int rows, float *scratch, float *logits);

extern const HeadsFunction AVX2_HEADS;
extern const HeadsFunction AVX512_HEADS;
