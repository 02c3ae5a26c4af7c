// The encoder, written once: `Number` says what its products read.
//
// Tokens are rows of 64 channels. A layer needs K (the inputs themselves, transposed) and V of all earlier tokens, and
// is otherwise done for six tokens at a time, from the scores to the layer's output. What lies in the causal half that is
// never needed is never computed, nor what stands behind the last valid token.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "encoder.h"

namespace {

constexpr int VECTORS = WIDTH / Vector::LANES;
constexpr float HIDDEN = -1e30f;  // the score of what comes later: 2 to its power is 0, and it is a number

template <class Number, int R, int C>
struct Sums {
    Vector of[R][C];

    void clear() {
#pragma GCC unroll 16
        for (int row = 0; row < R; row++)
#pragma GCC unroll 4
            for (int column = 0; column < C; column++) of[row][column] = Vector::zero();
    }

    // Adds the products of R rows with C vectors of columns, over so many words of each row: as many columns at once as
    // there are registers for.
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
                    const Vector one = Vector::all(a[row * a_stride + word]);
#pragma GCC unroll 4
                    for (int column = 0; column < G; column++)
                        sum[row][column] = Number::dot(one, columns[column], sum[row][column]);
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

// The lengths of all rows are taken at once, in one vector: of each alone, a root and a quotient would be waited for.
template <class Number>
void normalise(Tile<Number> &tile) {
    static_assert(ROWS <= Vector::LANES);
    float of_rows[Vector::LANES] = {};
    for (int row = 0; row < ROWS; row++) {
        Vector total = tile.of[row][0];
        for (int column = 1; column < VECTORS; column++) total = total + tile.of[row][column];
        of_rows[row] = total.sum() / WIDTH;
    }
    for (int row = 0; row < ROWS; row++) {
        const Vector mean = Vector::all(of_rows[row]);
        Vector squares = Vector::zero();
        for (int column = 0; column < VECTORS; column++) {
            tile.of[row][column] = tile.of[row][column] - mean;
            squares = Vector::fused(tile.of[row][column], tile.of[row][column], squares);
        }
        of_rows[row] = squares.sum();
    }
    const Vector variance = Vector::load(of_rows) * Vector::all(1.0f / WIDTH);
    (Vector::all(1.0f) / (variance + Vector::all(EPSILON)).root()).store(of_rows);
    for (int row = 0; row < ROWS; row++)
        for (int column = 0; column < VECTORS; column++) tile.of[row][column] = tile.of[row][column] * Vector::all(of_rows[row]);
}

template <class Number>
class Layers {
  public:
    static constexpr int WORDS = WIDTH / Number::PER_WORD;  // of a token

    static size_t scratch(const Prepared &weights) {
        const size_t length = padded(weights.length);
        return length * WIDTH            // x
               + length * WORDS          // x as words
               + WORDS * length          // K
               + length * WIDTH          // V
               + length * WORDS          // Q
               + ROWS * length           // scores
               + ROWS * length           // probabilities as words
               + ROWS * WIDTH * 2        // a tile as words
               + 16 * 16;
    }

    Layers(const Prepared &weights, float *memory) : weights_(weights), stride_(padded(weights.length)) {
        const auto take = [&](size_t count) {
            float *part = memory;
            memory += count;
            return part;
        };
        x_ = take(stride_ * WIDTH);
        words_ = take(stride_ * WORDS);
        keys_ = take(WORDS * stride_);
        values_ = take(stride_ * WIDTH);
        queries_ = take(stride_ * WORDS);
        scores_ = take(ROWS * stride_);
        shares_ = take(ROWS * stride_);
        tile_ = take(ROWS * WIDTH * 2);
    }

    void encode(const Candidate &candidate) {
        const int count = candidate.count;
        const int rows = (count + ROWS - 1) / ROWS * ROWS;
        gather(candidate, rows);
        Vector best[VECTORS];
        for (Vector &one : best) one = Vector::all(-INFINITY);
        for (int layer = 0; layer < weights_.layers; layer++) {
            const bool last = layer + 1 == weights_.layers;
            if (layer > 0) project(layer, rows);
            turn(rows);
            for (int first = 0; first < rows; first += ROWS) {
                Tile<Number> tile;
                attend(first, tile);
                feed_forward(layer, tile);
                for (int row = 0; row < ROWS; row++)
                    for (int column = 0; column < VECTORS; column++)
                        tile.of[row][column].store(x_ + (first + row) * WIDTH + column * Vector::LANES);
                if (last) read_out(tile, std::min(ROWS, count - first), best);
            }
        }
        for (int column = 0; column < VECTORS; column++) best[column].store(candidate.read_out + column * Vector::LANES);
        if (candidate.outputs != nullptr) std::memcpy(candidate.outputs, x_, sizeof(float) * WIDTH * count);
    }

  private:
    static size_t padded(int length) { return (length + STEP - 1) / STEP * STEP; }

    // x of the first layer, with Q and V: sums of what a token, its position, its similarity and the candidate give.
    void gather(const Candidate &candidate, int rows) {
        for (int first = 0; first < rows; first += ROWS) {
            Tile<Number> parts[PARTS];
            for (int row = 0; row < ROWS; row++) {
                const int token = first + row;
                if (token >= candidate.count) {
                    for (Tile<Number> &part : parts)
                        for (int column = 0; column < VECTORS; column++) part.of[row][column] = Vector::zero();
                    continue;
                }
                const float *own = candidate.rows[token], *position = weights_.position.data() + token * ROW;
                const float *low = nullptr;
                Vector share = Vector::zero(), rest = Vector::zero();
                if (weights_.similarity_knots) {
                    const int last = weights_.similarity_knots - 1;
                    const float place =
                        std::clamp((candidate.similarity[token] + 1) / 2, 0.0f, 1.0f) * static_cast<float>(last);
                    const int knot = std::min(static_cast<int>(place), last - 1);
                    low = weights_.similarity.data() + knot * ROW;
                    share = Vector::all(place - static_cast<float>(knot));
                    rest = Vector::all(1 - (place - static_cast<float>(knot)));
                }
                for (int part = 0; part < PARTS; part++)
                    for (int column = 0; column < VECTORS; column++) {
                        const int at = part * WIDTH + column * Vector::LANES;
                        Vector sum = Vector::load(own + at) + Vector::load(position + at) + Vector::load(candidate.parts + at);
                        if (low != nullptr)
                            sum = Vector::fused(share, Vector::load(low + ROW + at),
                                                Vector::fused(rest, Vector::load(low + at), sum));
                        parts[part].of[row][column] = sum;
                    }
            }
            for (int row = 0; row < ROWS; row++)
                for (int column = 0; column < VECTORS; column++)
                    parts[0].of[row][column].store(x_ + (first + row) * WIDTH + column * Vector::LANES);
            Number::store(parts[0], words_ + first * WORDS);
            Number::store(parts[1], queries_ + first * WORDS);
            Number::store_values(parts[2], values_, first);
        }
    }

    // Makes Q and V of x, and its words.
    void project(int layer, int rows) {
        const float *match = weights_.match.data() + layer * WORDS * WIDTH;
        const float *value = weights_.value.data() + layer * WORDS * WIDTH;
        for (int token = 0; token < rows; token++) Number::narrow(x_ + token * WIDTH, words_ + token * WORDS);
        for (int first = 0; first < rows; first += ROWS) {
            Tile<Number> tile;
            tile.clear();
            tile.add(words_ + first * WORDS, WORDS, match, WIDTH, WORDS);
            Number::store(tile, queries_ + first * WORDS);
            tile.clear();
            tile.add(words_ + first * WORDS, WORDS, value, WIDTH, WORDS);
            Number::store_values(tile, values_, first);
        }
    }

    // Makes K of the words of x.
    void turn(int rows) {
        // What stands behind the last row is looked at by no query before it.
        for (int token = 0; token < rows; token += 16)
            for (int word = 0; word < WORDS; word += 16)
                transpose(words_ + token * WORDS + word, WORDS, keys_ + word * stride_ + token, stride_);
    }

    // y = LN(x + softmax(Q K) V) of six tokens.
    void attend(int first, Tile<Number> &tile) {
        const int seen = first + ROWS;
        const int vectors = (seen + Vector::LANES - 1) / Vector::LANES;
        int vector = 0;
        for (; vector + Vector::GROUP <= vectors; vector += Vector::GROUP) score<Vector::GROUP>(first, vector);
        for (; vector + 2 <= vectors; vector += 2) score<2>(first, vector);
        if (vector < vectors) score<1>(first, vector);
        // Up to the vector that has the first row's own place, nothing is hidden from any row.
        const int open = first / Vector::LANES;
        float scale[ROWS];
        for (int row = 0; row < ROWS; row++) {
            float *scores = scores_ + row * stride_;
            Vector most = Vector::all(HIDDEN);
            for (int at = 0; at < open; at++) most = Vector::greater(most, Vector::load(scores + at * Vector::LANES));
            for (int at = open; at < vectors; at++) {
                const int place = at * Vector::LANES;
                const Vector part = Vector::load(scores + place).up_to(place, first + row, HIDDEN);
                part.store(scores + place);
                most = Vector::greater(most, part);
            }
            const Vector greatest = Vector::all(most.greatest());
            Vector sum = Vector::zero();
            for (int place = 0; place < vectors * Vector::LANES; place += Vector::LANES) {
                const Vector share = (Vector::load(scores + place) - greatest).template power_of_two<Number::DEGREE>();
                Number::put(share, shares_ + row * stride_, place);
                sum = sum + share;
            }
            scale[row] = 1.0f / sum.sum();
        }
        tile.clear();
        // An even number of keys: the share of one behind the last is 0.
        tile.add(shares_, stride_, values_, WIDTH, (seen + Number::PER_WORD - 1) / Number::PER_WORD);
        for (int row = 0; row < ROWS; row++) {
            const Vector own = Vector::all(scale[row]);
            for (int column = 0; column < VECTORS; column++)
                tile.of[row][column] = Vector::fused(tile.of[row][column], own,
                                                     Vector::load(x_ + (first + row) * WIDTH + column * Vector::LANES));
        }
        normalise<Number>(tile);
    }

    template <int C>
    void score(int first, int vector) {
        Sums<Number, ROWS, C> sums;
        sums.clear();
        sums.add(queries_ + first * WORDS, WORDS, keys_ + vector * Vector::LANES, stride_, WORDS);
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < C; column++)
                sums.of[row][column].store(scores_ + row * stride_ + (vector + column) * Vector::LANES);
    }

    // out = LN(y + W2 relu(W1 y)) of six tokens.
    void feed_forward(int layer, Tile<Number> &tile) {
        const int wide_words = weights_.ffn / Number::PER_WORD;
        const float *widen = weights_.widen.data() + static_cast<size_t>(layer) * WORDS * weights_.ffn;
        const float *narrow = weights_.narrow.data() + static_cast<size_t>(layer) * wide_words * WIDTH;
        float y[ROWS * WIDTH];
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < VECTORS; column++)
                tile.of[row][column].store(y + row * WIDTH + column * Vector::LANES);
        Number::store(tile, tile_);
        // Of the wide layer 32 channels at a time.
        constexpr int C = 32 / Vector::LANES;
        for (int begin = 0; begin < weights_.ffn; begin += 32) {
            Sums<Number, ROWS, C> wide;
            wide.clear();
            wide.add(tile_, WORDS, widen + begin, weights_.ffn, WORDS);
            float part[ROWS * 32];
            for (int row = 0; row < ROWS; row++) {
                for (int column = 0; column < C; column++)
                    Vector::greater(wide.of[row][column], Vector::zero()).store(part + row * 32 + column * Vector::LANES);
                Number::narrow_row(part + row * 32, wide_ + row * 32, 32);
            }
            if (begin == 0) tile.clear();
            tile.add(wide_, 32, narrow + static_cast<size_t>(begin) / Number::PER_WORD * WIDTH, WIDTH, 32 / Number::PER_WORD);
        }
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < VECTORS; column++)
                tile.of[row][column] = tile.of[row][column] + Vector::load(y + row * WIDTH + column * Vector::LANES);
        normalise<Number>(tile);
    }

    // The greatest of each channel, over so many of six tokens.
    void read_out(const Tile<Number> &tile, int count, Vector *best) {
        Number::store(tile, tile_);
        Tile<Number> read;
        read.clear();
        read.add(tile_, WORDS, weights_.read_out.data(), WIDTH, WORDS);
        for (int row = 0; row < count; row++)
            for (int column = 0; column < VECTORS; column++)
                best[column] = Vector::greater(
                    best[column],
                    read.of[row][column] + Vector::load(weights_.read_out_bias.data() + column * Vector::LANES));
    }

    const Prepared &weights_;
    const size_t stride_;
    float *x_, *words_, *keys_, *values_, *queries_, *scores_, *shares_, *tile_;
    float wide_[ROWS * 32];
};

template <class Number>
int word_count(int in, int out) {
    return in / Number::PER_WORD * out;
}

template <class Number>
void encode(const Prepared &weights, const Candidate &candidate, float *scratch) {
    Layers<Number>(weights, scratch).encode(candidate);
}

// Products of float32.
struct Single {
    static constexpr int PER_WORD = 1, DEGREE = 5;

    static inline __attribute__((always_inline)) Vector dot(Vector a, Vector b, Vector sum) { return Vector::fused(a, b, sum); }
    static void narrow(const float *from, float *to) { std::memcpy(to, from, sizeof(float) * WIDTH); }
    static void narrow_row(const float *from, float *to, int count) { std::memcpy(to, from, sizeof(float) * count); }
    static inline void put(Vector value, float *words, int place) { value.store(words + place); }
    static void store(const Tile<Single> &tile, float *to) {
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < VECTORS; column++)
                tile.of[row][column].store(to + row * WIDTH + column * Vector::LANES);
    }
    static void store_values(const Tile<Single> &tile, float *values, int first) { store(tile, values + first * WIDTH); }
    static void pack(const float *matrix, int in, int out, float *words) {
        std::memcpy(words, matrix, sizeof(float) * in * out);
    }
};

inline void complete(const Prepared &weights, float *rows, int64_t count) {
    for (int64_t first = 0; first < count; first += ROWS) {
        float *row = rows + first * ROW;
        for (int part = 1; part < PARTS; part++) {
            const float *matrix = (part == 1 ? weights.first_match : weights.first_value).data();
            Tile<Single> tile;
            tile.clear();
            tile.add(row, ROW, matrix, WIDTH, WIDTH);
            for (int own = 0; own < std::min<int64_t>(ROWS, count - first); own++)
                for (int column = 0; column < VECTORS; column++)
                    tile.of[own][column].store(row + own * ROW + part * WIDTH + column * Vector::LANES);
        }
    }
}

}  // namespace
