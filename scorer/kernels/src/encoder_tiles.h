// Tiles of the encoder: six rows of 64 channels in registers, and the steps that the layers of every precision share.
// `Number` says what the products read.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "encoder.h"
#include "quantized.h"

namespace {

constexpr int VECTORS = WIDTH / Vector::LANES;
constexpr float MASKED = -1e30f;  // the score of a later key: finite, and 2 to its power is 0

template <class Number, int R, int C>
struct Sums {
    Vector of[R][C];

    void clear() {
#pragma GCC unroll 16
        for (int row = 0; row < R; row++)
#pragma GCC unroll 4
            for (int column = 0; column < C; column++) of[row][column] = Vector::zero();
    }

    // Adds the products of R rows with C vectors of columns, over `words` words of each row, in groups of columns whose
    // sums fit into the registers.
    void add(const float *a, size_t a_stride, const float *b, size_t b_stride, int words) {
        constexpr int G = std::min(C, Vector::GROUP);
        static_assert(C % G == 0);
        for (int group = 0; group < C; group += G) {
            Vector sum[R][G];
#pragma GCC unroll 16
            for (int row = 0; row < R; row++)
#pragma GCC unroll 4
                for (int column = 0; column < G; column++) sum[row][column] = of[row][group + column];
            const float *from = b + group * Vector::LANES;
            for (int word = 0; word < words; word++, from += b_stride) {
                Vector columns[G];
#pragma GCC unroll 4
                for (int column = 0; column < G; column++) columns[column] = Vector::load(from + column * Vector::LANES);
#pragma GCC unroll 16
                for (int row = 0; row < R; row++) {
                    const Vector factor = Vector::broadcast(a[row * a_stride + word]);
#pragma GCC unroll 4
                    for (int column = 0; column < G; column++)
                        sum[row][column] = Number::dot(factor, columns[column], sum[row][column]);
                }
            }
#pragma GCC unroll 16
            for (int row = 0; row < R; row++)
#pragma GCC unroll 4
                for (int column = 0; column < G; column++) of[row][group + column] = sum[row][column];
        }
    }
};

// Six rows of 64 channels.
template <class Number>
using Tile = Sums<Number, ROWS, VECTORS>;

// The layer norm of each row. Rows that come from `centred` weights have mean 0, which is then not computed. All six rows
// are reduced together, because six reductions one after the other would wait for each other.
template <class Number>
void layer_norm(Tile<Number> &tile, bool centred) {
    const auto add = [](Vector a, Vector b) { return a + b; };
    const Vector share = Vector::broadcast(1.0f / WIDTH);
    Vector parts[ROWS];
    if (!centred) {
        for (int row = 0; row < ROWS; row++) {
            parts[row] = tile.of[row][0];
            for (int column = 1; column < VECTORS; column++) parts[row] = parts[row] + tile.of[row][column];
        }
        const Vector means = Vector::reduce_rows(parts, add) * share;
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < VECTORS; column++) tile.of[row][column] = tile.of[row][column] - means.broadcast_row(row);
    }
    for (int row = 0; row < ROWS; row++) {
        parts[row] = tile.of[row][0] * tile.of[row][0];
        for (int column = 1; column < VECTORS; column++)
            parts[row] = Vector::fma(tile.of[row][column], tile.of[row][column], parts[row]);
    }
    const Vector variances = Vector::fma(Vector::reduce_rows(parts, add), share, Vector::broadcast(EPSILON));
    const Vector scales = Vector::broadcast(1.0f) / variances.sqrt();
    for (int row = 0; row < ROWS; row++) {
        const Vector scale = scales.broadcast_row(row);
        for (int column = 0; column < VECTORS; column++) tile.of[row][column] = tile.of[row][column] * scale;
    }
}

// Six tokens of the first layer's x, Q and V: sums of the parts of the token, its position, its similarity and the
// candidate.
template <class Number>
void gather_tile(const Prepared &weights, const Candidate &candidate, int first, Tile<Number> (&parts)[PARTS]) {
    constexpr int WORDS = WIDTH / Number::PER_WORD, TOKEN_ROW = WIDTH + 2 * WORDS;
    for (int token = first + ROWS; token < std::min(first + 2 * ROWS, candidate.count); token++)
        for (int at = 0; at < TOKEN_ROW; at += 16) __builtin_prefetch(candidate.rows[token] + at);
    for (int row = 0; row < ROWS; row++) {
        const int token = first + row;
        if (token >= candidate.count) {
            for (Tile<Number> &part : parts)
                for (int column = 0; column < VECTORS; column++) part.of[row][column] = Vector::zero();
            continue;
        }
        const float *own = candidate.rows[token], *position = weights.position.data() + token * ROW;
        const float *low = nullptr;
        Vector share = Vector::zero(), rest = Vector::zero();
        if (weights.similarity_knots) {
            const int last = weights.similarity_knots - 1;
            const float place = clamp_unit((candidate.similarity[token] + 1) / 2) * static_cast<float>(last);
            const int knot = std::min(static_cast<int>(place), last - 1);
            low = weights.similarity.data() + knot * ROW;
            share = Vector::broadcast(place - static_cast<float>(knot));
            rest = Vector::broadcast(1 - (place - static_cast<float>(knot)));
        }
#pragma GCC unroll 3
        for (int part = 0; part < PARTS; part++)
            for (int column = 0; column < VECTORS; column++) {
                const int at = part * WIDTH + column * Vector::LANES;
                const Vector of_token = part == 0 ? Vector::load(own + column * Vector::LANES)
                                                  : Number::take(own + WIDTH + (part - 1) * WORDS, column);
                Vector sum = of_token + Vector::load(position + at) + Vector::load(candidate.parts + at);
                if (low != nullptr)
                    sum = Vector::fma(share, Vector::load(low + ROW + at),
                                        Vector::fma(rest, Vector::load(low + at), sum));
                parts[part].of[row][column] = sum;
            }
    }
}

// Lengths are rounded up to whole steps.
inline size_t padded(int length) { return (length + STEP - 1) / STEP * STEP; }

// The number of vectors of keys up to the last of six tokens, its own included.
inline int vectors_seen(int first) { return (first + ROWS + Vector::LANES - 1) / Vector::LANES; }

template <class Number>
void store_rows(const Tile<Number> &tile, float *to) {
    for (int row = 0; row < ROWS; row++)
        for (int column = 0; column < VECTORS; column++) tile.of[row][column].store(to + row * WIDTH + column * Vector::LANES);
}

// The greatest score of each of six tokens; `score` computes those of as many vectors of keys as its first argument says.
template <class Score>
Vector greatest_scores(int first, const Score &score) {
    const int vectors = vectors_seen(first);
    Vector greatest[ROWS];
    for (Vector &lane : greatest) lane = Vector::broadcast(MASKED);
    int vector = 0;
    for (; vector + Vector::GROUP <= vectors; vector += Vector::GROUP)
        score(std::integral_constant<int, Vector::GROUP>{}, vector, greatest);
    for (; vector + 2 <= vectors; vector += 2) score(std::integral_constant<int, 2>{}, vector, greatest);
    if (vector < vectors) score(std::integral_constant<int, 1>{}, vector, greatest);
    return Vector::reduce_rows(greatest, Vector::max);
}

// The greatest value of each channel of the read-out, over the words of `count` tokens.
template <class Number>
void read_out(const Prepared &weights, const float *words, int count, float *to) {
    constexpr int WORDS = WIDTH / Number::PER_WORD;
    Vector best[VECTORS];
    for (Vector &lane : best) lane = Vector::broadcast(-INFINITY);
    for (int first = 0; first < count; first += ROWS) {
        Tile<Number> read;
        read.clear();
        read.add(words + first * WORDS, WORDS, weights.read_out.data(), WIDTH, WORDS);
        for (int row = 0; row < std::min(ROWS, count - first); row++)
            for (int column = 0; column < VECTORS; column++) best[column] = Vector::max(best[column], read.of[row][column]);
    }
    for (int column = 0; column < VECTORS; column++) {
        const int at = column * Vector::LANES;
        (best[column] + Vector::load(weights.read_out_bias.data() + at)).store(to + at);
    }
}

}  // namespace
