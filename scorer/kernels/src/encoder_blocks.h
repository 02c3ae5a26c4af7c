// The encoder, written once: `Number` says what its products read.
//
// Tokens are rows of 64 channels. A layer needs K (the inputs themselves, transposed) and V of all earlier tokens, and
// is otherwise done for six tokens at a time. What lies in the causal half that is
// never needed is never computed, nor what stands behind the last valid token.
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

// The layer norm of each row. Where its mean is 0 already, as that of every sum of what `centred` weights made, that is
// not looked for. What is summed over a row is summed over all six at once: one after the other they would be waited for.
template <class Number>
void normalise(Tile<Number> &tile, bool centred) {
    const auto add = [](Vector a, Vector b) { return a + b; };
    const Vector share = Vector::all(1.0f / WIDTH);
    Vector parts[ROWS];
    if (!centred) {
        for (int row = 0; row < ROWS; row++) {
            parts[row] = tile.of[row][0];
            for (int column = 1; column < VECTORS; column++) parts[row] = parts[row] + tile.of[row][column];
        }
        const Vector means = Vector::folded(parts, add) * share;
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < VECTORS; column++) tile.of[row][column] = tile.of[row][column] - means.of_row(row);
    }
    for (int row = 0; row < ROWS; row++) {
        parts[row] = tile.of[row][0] * tile.of[row][0];
        for (int column = 1; column < VECTORS; column++)
            parts[row] = Vector::fused(tile.of[row][column], tile.of[row][column], parts[row]);
    }
    const Vector variances = Vector::fused(Vector::folded(parts, add), share, Vector::all(EPSILON));
    const Vector scales = Vector::all(1.0f) / variances.root();
    for (int row = 0; row < ROWS; row++) {
        const Vector scale = scales.of_row(row);
        for (int column = 0; column < VECTORS; column++) tile.of[row][column] = tile.of[row][column] * scale;
    }
}

// Six tokens of the first layer's x, Q and V: sums of what a token, its position, its similarity and the candidate give.
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
            const float place = shared((candidate.similarity[token] + 1) / 2) * static_cast<float>(last);
            const int knot = std::min(static_cast<int>(place), last - 1);
            low = weights.similarity.data() + knot * ROW;
            share = Vector::all(place - static_cast<float>(knot));
            rest = Vector::all(1 - (place - static_cast<float>(knot)));
        }
#pragma GCC unroll 3
        for (int part = 0; part < PARTS; part++)
            for (int column = 0; column < VECTORS; column++) {
                const int at = part * WIDTH + column * Vector::LANES;
                const Vector of_token = part == 0 ? Vector::load(own + column * Vector::LANES)
                                                  : Number::take(own + WIDTH + (part - 1) * WORDS, column);
                Vector sum = of_token + Vector::load(position + at) + Vector::load(candidate.parts + at);
                if (low != nullptr)
                    sum = Vector::fused(share, Vector::load(low + ROW + at),
                                        Vector::fused(rest, Vector::load(low + at), sum));
                parts[part].of[row][column] = sum;
            }
    }
}

// Lengths are rounded up, so that no step has less than its room.
inline size_t padded(int length) { return (length + STEP - 1) / STEP * STEP; }

// How many vectors of keys the last of six tokens has before it, its own among them.
inline int vectors_seen(int first) { return (first + ROWS + Vector::LANES - 1) / Vector::LANES; }

template <class Number>
void store_rows(const Tile<Number> &tile, float *to) {
    for (int row = 0; row < ROWS; row++)
        for (int column = 0; column < VECTORS; column++) tile.of[row][column].store(to + row * WIDTH + column * Vector::LANES);
}

// The greatest score of each of six tokens; `score` makes those of as many vectors of keys as its first argument says.
template <class Score>
Vector greatest_scores(int first, const Score &score) {
    const int vectors = vectors_seen(first);
    Vector greatest[ROWS];
    for (Vector &one : greatest) one = Vector::all(HIDDEN);
    int vector = 0;
    for (; vector + Vector::GROUP <= vectors; vector += Vector::GROUP)
        score(std::integral_constant<int, Vector::GROUP>{}, vector, greatest);
    for (; vector + 2 <= vectors; vector += 2) score(std::integral_constant<int, 2>{}, vector, greatest);
    if (vector < vectors) score(std::integral_constant<int, 1>{}, vector, greatest);
    return Vector::folded(greatest, Vector::greater);
}

// The greatest of each channel of the read-out, over so many tokens' words.
template <class Number>
void read_out(const Prepared &weights, const float *words, int count, float *to) {
    constexpr int WORDS = WIDTH / Number::PER_WORD;
    Vector best[VECTORS];
    for (Vector &one : best) one = Vector::all(-INFINITY);
    for (int first = 0; first < count; first += ROWS) {
        Tile<Number> read;
        read.clear();
        read.add(words + first * WORDS, WORDS, weights.read_out.data(), WIDTH, WORDS);
        for (int row = 0; row < std::min(ROWS, count - first); row++)
            for (int column = 0; column < VECTORS; column++) best[column] = Vector::greater(best[column], read.of[row][column]);
    }
    for (int column = 0; column < VECTORS; column++) {
        const int at = column * Vector::LANES;
        (best[column] + Vector::load(weights.read_out_bias.data() + at)).store(to + at);
    }
}

template <class Number>
class Layers {
  public:
    static constexpr int WORDS = WIDTH / Number::PER_WORD;  // of a token
    static constexpr int TOKEN_ROW = WIDTH + 2 * WORDS;

    static size_t scratch(const Prepared &weights) {
        const size_t length = padded(weights.length);
        return length * WIDTH            // x
               + length * WORDS          // x as words
               + WORDS * length          // K
               + length * WIDTH          // V
               + length * WORDS          // Q
               + 2 * ROWS * length       // scores
               + ROWS * length           // probabilities as words
               + 2 * ROWS * weights.ffn  // the wide layer
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
        scores_ = take(2 * ROWS * stride_);
        shares_ = take(ROWS * stride_);
        wide_ = take(2 * ROWS * weights.ffn);
    }

    void encode(const Candidate &candidate) {
        const int count = candidate.count;
        const int rows = (count + ROWS - 1) / ROWS * ROWS;
        gather(candidate, rows);
        for (int layer = 0; layer < weights_.layers; layer++) {
            if (layer > 0) project(layer, rows);
            turn(rows);
            attend(layer, rows);
            feed_forward(layer, rows, layer + 1 < weights_.layers || candidate.outputs != nullptr);
        }
        read_out<Number>(weights_, words_, count, candidate.read_out);
        if (candidate.outputs != nullptr) std::memcpy(candidate.outputs, x_, sizeof(float) * WIDTH * count);
    }

  private:
    // x of the first layer, with Q and V.
    void gather(const Candidate &candidate, int rows) {
        for (int first = 0; first < rows; first += ROWS) {
            Tile<Number> parts[PARTS];
            gather_tile(weights_, candidate, first, parts);
            keep(parts[0], first);
            Number::store(parts[1], queries_ + first * WORDS);
            Number::store_values(parts[2], values_, first);
        }
    }

    // Makes Q and V of x.
    void project(int layer, int rows) {
        const float *match = weights_.match.data() + layer * WORDS * WIDTH;
        const float *value = weights_.value.data() + layer * WORDS * WIDTH;
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

    // x = LN(x + softmax(Q K) V), six tokens after the others. What a step waits for at its end (what is greatest, a norm)
    // is waited for while the next six tokens' products are made: so their scores are made one step ahead.
    void attend(int layer, int rows) {
        Vector greatest = scored(0, 0);
        for (int first = 0, turn = 0; first < rows; first += ROWS, turn ^= 1) {
            Vector next = greatest;
            if (first + ROWS < rows) next = scored(first + ROWS, turn ^ 1);
            const Vector scale = share(first, turn, greatest);
            Tile<Number> tile;
            tile.clear();
            // An even number of keys: the share of one behind the last is 0.
            tile.add(shares_, stride_, values_, WIDTH, (first + ROWS + Number::PER_WORD - 1) / Number::PER_WORD);
            for (int row = 0; row < ROWS; row++) {
                const Vector own = scale.of_row(row);
                for (int column = 0; column < VECTORS; column++)
                    tile.of[row][column] = Vector::fused(
                        tile.of[row][column], own, Vector::load(x_ + (first + row) * WIDTH + column * Vector::LANES));
            }
            normalise<Number>(tile, layer > 0);
            keep(tile, first);
            greatest = next;
        }
    }

    // Makes the scores Q K of six tokens, those hidden that come later; returns the greatest of each.
    Vector scored(int first, int turn) {
        return greatest_scores(first, [&](auto count, int vector, Vector *greatest) {
            score<count()>(first, vector, scores_ + turn * ROWS * stride_, greatest);
        });
    }

    template <int C>
    void score(int first, int vector, float *scores, Vector *greatest) {
        Sums<Number, ROWS, C> sums;
        sums.clear();
        sums.add(queries_ + first * WORDS, WORDS, keys_ + vector * Vector::LANES, stride_, WORDS);
        // Up to the vector that has the first row's own place, nothing is hidden from any row.
        if ((vector + C) * Vector::LANES > first)
            for (int row = 0; row < ROWS; row++)
                for (int column = 0; column < C; column++)
                    sums.of[row][column] =
                        sums.of[row][column].up_to((vector + column) * Vector::LANES, first + row, HIDDEN);
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < C; column++) {
                sums.of[row][column].store(scores + row * stride_ + (vector + column) * Vector::LANES);
                greatest[row] = Vector::greater(greatest[row], sums.of[row][column]);
            }
    }

    // Makes 2 to the power of the scores of six tokens, less the greatest; returns one over the sum of each.
    Vector share(int first, int turn, Vector greatest) {
        const int vectors = vectors_seen(first);
        Vector parts[ROWS];
        for (int row = 0; row < ROWS; row++) {
            const float *scores = scores_ + (turn * ROWS + row) * stride_;
            const Vector most = greatest.of_row(row);
            parts[row] = Vector::zero();
            for (int place = 0; place < vectors * Vector::LANES; place += Vector::LANES) {
                const Vector power = (Vector::load(scores + place) - most).template power_of_two<Number::DEGREE>();
                Number::put(power, shares_ + row * stride_, place);
                parts[row] = parts[row] + power;
            }
        }
        return Vector::all(1.0f) / Vector::folded(parts, [](Vector a, Vector b) { return a + b; });
    }

    // x = LN(x + W2 relu(W1 x)); the wide layer of the next six tokens is made one step ahead.
    void feed_forward(int layer, int rows, bool x_wanted) {
        const float *narrow = weights_.narrow.data() + static_cast<size_t>(layer) * weights_.ffn / Number::PER_WORD * WIDTH;
        widen(layer, 0, 0);
        for (int first = 0, turn = 0; first < rows; first += ROWS, turn ^= 1) {
            if (first + ROWS < rows) widen(layer, first + ROWS, turn ^ 1);
            Tile<Number> tile;
            for (int row = 0; row < ROWS; row++)
                for (int column = 0; column < VECTORS; column++)
                    tile.of[row][column] = Vector::load(x_ + (first + row) * WIDTH + column * Vector::LANES);
            const int words = weights_.ffn / Number::PER_WORD;
            tile.add(wide_ + turn * ROWS * words, words, narrow, WIDTH, words);
            normalise<Number>(tile, true);
            keep(tile, first, x_wanted);
        }
    }

    // Makes relu(W1 x) of six tokens, 32 channels at a time.
    void widen(int layer, int first, int turn) {
        const float *matrix = weights_.widen.data() + static_cast<size_t>(layer) * WORDS * weights_.ffn;
        const int words = weights_.ffn / Number::PER_WORD;
        constexpr int C = 32 / Vector::LANES;
        for (int begin = 0; begin < weights_.ffn; begin += 32) {
            Sums<Number, ROWS, C> wide;
            wide.clear();
            wide.add(words_ + first * WORDS, WORDS, matrix + begin, weights_.ffn, WORDS);
            for (int row = 0; row < ROWS; row++)
                for (int column = 0; column < C; column++)
                    Number::put(Vector::greater(wide.of[row][column], Vector::zero()),
                                wide_ + (turn * ROWS + row) * words, begin + column * Vector::LANES);
        }
    }

    // Six tokens of x, and their words.
    void keep(const Tile<Number> &tile, int first, bool x_wanted = true) {
        if (x_wanted) store_rows<Number>(tile, x_ + first * WIDTH);
        Number::store(tile, words_ + first * WORDS);
    }

    const Prepared &weights_;
    const size_t stride_;
    float *x_, *words_, *keys_, *values_, *queries_, *scores_, *shares_, *wide_;
};

// Of a token all of its input that depends on neither the candidate nor its place, and the products of that.
template <class Number>
void make_rows(const Prepared &weights, const lifeline_tokens &tokens, const int64_t *index, int64_t count, float *rows) {
    constexpr int WORDS = Layers<Number>::WORDS, TOKEN_ROW = Layers<Number>::TOKEN_ROW, EMBEDDING = WIDTH / 2;
    float words[ROWS * WORDS] = {};
    for (int64_t first = 0; first < count; first += ROWS) {
        const int there = static_cast<int>(std::min<int64_t>(ROWS, count - first));
        Tile<Number> tile;
        tile.clear();
        for (int row = 0; row < there; row++) {
            Vector *of = tile.of[row];
            const auto add = [&](const float *from, float share) {
                for (int column = 0; column < VECTORS; column++)
                    of[column] = Vector::fused(Vector::all(share), Vector::load(from + column * Vector::LANES), of[column]);
            };
            const int64_t at = index[first + row];
            double age_s = 0;
            if (at < 0) {
                add(weights.surface.data(), 1.0f);
            } else {
                const int8_t *embedding = tokens.rows + at * EMBEDDING;
                const float length = inverse_norm(embedding);
                for (int column = 0; column < EMBEDDING / Vector::LANES; column++)
                    of[column] = Vector::of_bytes(embedding + column * Vector::LANES) * Vector::all(length) *
                                 Vector::all(weights.input_scale);
                for (uint64_t types = tokens.types[at]; types; types &= types - 1)
                    add(weights.action.data() + std::countr_zero(types) * WIDTH, 1.0f);
                add(weights.surface.data() + tokens.surfaces[at] * WIDTH, 1.0f);
                age_s = static_cast<double>(std::max<int64_t>(tokens.asked_ms - tokens.ms[at], 0)) / 1000;
            }
            if (weights.age_knots) {
                const int last = weights.age_knots - 1;
                const float place =
                    shared(std::log1p(static_cast<float>(age_s)) / weights.age_span) * static_cast<float>(last);
                const int low = std::min(static_cast<int>(place), last - 1);
                add(weights.age.data() + low * WIDTH, 1.0f - (place - static_cast<float>(low)));
                add(weights.age.data() + (low + 1) * WIDTH, place - static_cast<float>(low));
            }
        }
        Number::store(tile, words);
        for (int part = 0; part < PARTS; part++) {
            if (part > 0) {
                tile.clear();
                // Of the first layer.
                tile.add(words, WORDS, (part == 1 ? weights.match : weights.value).data(), WIDTH, WORDS);
            }
            for (int row = 0; row < there; row++)
                for (int column = 0; column < VECTORS; column++) {
                    float *to = rows + (first + row) * TOKEN_ROW;
                    if (part == 0)
                        tile.of[row][column].store(to + column * Vector::LANES);
                    else
                        Number::put(tile.of[row][column], to + WIDTH + (part - 1) * WORDS, column * Vector::LANES);
                }
        }
    }
}

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
    static inline void put(Vector value, float *words, int place) { value.store(words + place); }
    // A row's vector out of its words.
    static inline Vector take(const float *words, int column) { return Vector::load(words + column * Vector::LANES); }
    static void store(const Tile<Single> &tile, float *to) { store_rows<Single>(tile, to); }
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
