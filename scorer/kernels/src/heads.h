// Cross and heads: what the instruction sets share.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

constexpr int HEAD_ROWS = 6;      // candidates at once, for which there are registers
constexpr int HEAD_BLOCK = 24;    // and so many for one look at a matrix
constexpr int HEAD_COLUMNS = 16;  // matrices have columns of zeros behind theirs, up to a multiple of it

// y = x W + b.
struct Linear {
    int in, out, columns;  // columns: out rounded up
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
