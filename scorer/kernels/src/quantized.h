// Embeddings of 32 channels in int8, as lifeline/core/embedding_codec.py defines them.
#pragma once

#include <cmath>
#include <cstdint>

namespace {

// 1 / length, the nearest to the exact value; 0 for a zero vector.
inline float inverse_norm(const int8_t *row) {
    int32_t squares = 0;
    for (int channel = 0; channel < 32; channel++) squares += row[channel] * row[channel];
    return squares ? static_cast<float>(1.0 / std::sqrt(static_cast<double>(squares))) : 0.0f;
}

}  // namespace
