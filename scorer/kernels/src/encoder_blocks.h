// The encoder, written once: `Number` says what its products read.
//
// Tokens are rows of 64 channels. A layer needs K (the inputs themselves, transposed) and V of all earlier tokens, and
// otherwise works on six tokens at a time. It computes nothing beyond the causal half and the last valid token.
#pragma once

#include "encoder_tiles.h"

namespace {

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
        probabilities_ = take(ROWS * stride_);
        wide_ = take(2 * ROWS * weights.ffn);
    }

    void encode(const Candidate &candidate) {
        const int count = candidate.count;
        const int rows = (count + ROWS - 1) / ROWS * ROWS;
        gather(candidate, rows);
        for (int layer = 0; layer < weights_.layers; layer++) {
            if (layer > 0) project(layer, rows);
            transpose_keys(rows);
            attend(layer, rows);
            feed_forward(layer, rows, layer + 1 < weights_.layers || candidate.outputs != nullptr);
        }
        read_out<Number>(weights_, words_, count, candidate.read_out);
        if (candidate.outputs != nullptr) std::memcpy(candidate.outputs, x_, sizeof(float) * WIDTH * count);
    }

  private:
    // Gathers x, Q and V of the first layer.
    void gather(const Candidate &candidate, int rows) {
        for (int first = 0; first < rows; first += ROWS) {
            Tile<Number> parts[PARTS];
            gather_tile(weights_, candidate, first, parts);
            keep(parts[0], first);
            Number::store(parts[1], queries_ + first * WORDS);
            Number::store_values(parts[2], values_, first);
        }
    }

    // Computes Q and V from x.
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

    // Transposes the words of x into K.
    void transpose_keys(int rows) {
        // No query reads the keys behind the last row.
        for (int token = 0; token < rows; token += 16)
            for (int word = 0; word < WORDS; word += 16)
                transpose(words_ + token * WORDS + word, WORDS, keys_ + word * stride_ + token, stride_);
    }

    // x = LN(x + softmax(Q K) V), six tokens at a time. The scores of the next six tokens are computed one step ahead, so
    // that their products hide the latency of this step's reductions.
    void attend(int layer, int rows) {
        Vector greatest = compute_scores(0, 0);
        for (int first = 0, buffer = 0; first < rows; first += ROWS, buffer ^= 1) {
            Vector next = greatest;
            if (first + ROWS < rows) next = compute_scores(first + ROWS, buffer ^ 1);
            const Vector scale = softmax(first, buffer, greatest);
            Tile<Number> tile;
            tile.clear();
            // Rounded up to an even number of keys: the probability of the one behind the last is 0.
            tile.add(probabilities_, stride_, values_, WIDTH, (first + ROWS + Number::PER_WORD - 1) / Number::PER_WORD);
            for (int row = 0; row < ROWS; row++) {
                const Vector own = scale.broadcast_row(row);
                for (int column = 0; column < VECTORS; column++)
                    tile.of[row][column] = Vector::fma(
                        tile.of[row][column], own, Vector::load(x_ + (first + row) * WIDTH + column * Vector::LANES));
            }
            layer_norm<Number>(tile, layer > 0);
            keep(tile, first);
            greatest = next;
        }
    }

    // Computes the scores Q K of six tokens, later keys masked; returns the greatest of each.
    Vector compute_scores(int first, int buffer) {
        return greatest_scores(first, [&](auto count, int vector, Vector *greatest) {
            score<count()>(first, vector, scores_ + buffer * ROWS * stride_, greatest);
        });
    }

    template <int C>
    void score(int first, int vector, float *scores, Vector *greatest) {
        Sums<Number, ROWS, C> sums;
        sums.clear();
        sums.add(queries_ + first * WORDS, WORDS, keys_ + vector * Vector::LANES, stride_, WORDS);
        // Vectors before the first row's own place need no mask.
        if ((vector + C) * Vector::LANES > first)
            for (int row = 0; row < ROWS; row++)
                for (int column = 0; column < C; column++)
                    sums.of[row][column] =
                        sums.of[row][column].mask_after((vector + column) * Vector::LANES, first + row, MASKED);
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < C; column++) {
                sums.of[row][column].store(scores + row * stride_ + (vector + column) * Vector::LANES);
                greatest[row] = Vector::max(greatest[row], sums.of[row][column]);
            }
    }

    // Writes 2 to the power of each score less the row's greatest; returns one over the sum of each row.
    Vector softmax(int first, int buffer, Vector greatest) {
        const int vectors = vectors_seen(first);
        Vector parts[ROWS];
        for (int row = 0; row < ROWS; row++) {
            const float *scores = scores_ + (buffer * ROWS + row) * stride_;
            const Vector most = greatest.broadcast_row(row);
            parts[row] = Vector::zero();
            for (int place = 0; place < vectors * Vector::LANES; place += Vector::LANES) {
                const Vector power = (Vector::load(scores + place) - most).template power_of_two<Number::DEGREE>();
                Number::put(power, probabilities_ + row * stride_, place);
                parts[row] = parts[row] + power;
            }
        }
        return Vector::broadcast(1.0f) / Vector::reduce_rows(parts, [](Vector a, Vector b) { return a + b; });
    }

    // x = LN(x + W2 relu(W1 x)); the wide layer of the next six tokens is computed one step ahead.
    void feed_forward(int layer, int rows, bool x_wanted) {
        const float *narrow = weights_.narrow.data() + static_cast<size_t>(layer) * weights_.ffn / Number::PER_WORD * WIDTH;
        widen(layer, 0, 0);
        for (int first = 0, buffer = 0; first < rows; first += ROWS, buffer ^= 1) {
            if (first + ROWS < rows) widen(layer, first + ROWS, buffer ^ 1);
            Tile<Number> tile;
            for (int row = 0; row < ROWS; row++)
                for (int column = 0; column < VECTORS; column++)
                    tile.of[row][column] = Vector::load(x_ + (first + row) * WIDTH + column * Vector::LANES);
            const int words = weights_.ffn / Number::PER_WORD;
            tile.add(wide_ + buffer * ROWS * words, words, narrow, WIDTH, words);
            layer_norm<Number>(tile, true);
            keep(tile, first, x_wanted);
        }
    }

    // Computes relu(W1 x) of six tokens, 32 channels at a time.
    void widen(int layer, int first, int buffer) {
        const float *matrix = weights_.widen.data() + static_cast<size_t>(layer) * WORDS * weights_.ffn;
        const int words = weights_.ffn / Number::PER_WORD;
        constexpr int C = 32 / Vector::LANES;
        for (int begin = 0; begin < weights_.ffn; begin += 32) {
            Sums<Number, ROWS, C> wide;
            wide.clear();
            wide.add(words_ + first * WORDS, WORDS, matrix + begin, weights_.ffn, WORDS);
            for (int row = 0; row < ROWS; row++)
                for (int column = 0; column < C; column++)
                    Number::put(Vector::max(wide.of[row][column], Vector::zero()),
                                wide_ + (buffer * ROWS + row) * words, begin + column * Vector::LANES);
        }
    }

    // Stores six tokens of x, and their words.
    void keep(const Tile<Number> &tile, int first, bool x_wanted = true) {
        if (x_wanted) store_rows<Number>(tile, x_ + first * WIDTH);
        Number::store(tile, words_ + first * WORDS);
    }

    const Prepared &weights_;
    const size_t stride_;
    float *x_, *words_, *keys_, *values_, *queries_, *scores_, *probabilities_, *wide_;
};

// The part of a token's input that depends on neither the candidate nor its place, and the products of that part.
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
                    of[column] = Vector::fma(Vector::broadcast(share), Vector::load(from + column * Vector::LANES), of[column]);
            };
            const int64_t at = index[first + row];
            double age_s = 0;
            if (at < 0) {
                add(weights.surface.data(), 1.0f);
            } else {
                const int8_t *embedding = tokens.rows + at * EMBEDDING;
                const float length = inverse_norm(embedding);
                for (int column = 0; column < EMBEDDING / Vector::LANES; column++)
                    of[column] = Vector::of_bytes(embedding + column * Vector::LANES) * Vector::broadcast(length) *
                                 Vector::broadcast(weights.input_scale);
                for (uint64_t types = tokens.types[at]; types; types &= types - 1)
                    add(weights.action.data() + std::countr_zero(types) * WIDTH, 1.0f);
                add(weights.surface.data() + tokens.surfaces[at] * WIDTH, 1.0f);
                age_s = static_cast<double>(std::max<int64_t>(tokens.request_ms - tokens.ms[at], 0)) / 1000;
            }
            if (weights.age_knots) {
                const int last = weights.age_knots - 1;
                const float place =
                    clamp_unit(std::log1p(static_cast<float>(age_s)) / weights.age_span) * static_cast<float>(last);
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
struct Float32 {
    static constexpr int PER_WORD = 1, DEGREE = 5;

    static inline __attribute__((always_inline)) Vector dot(Vector a, Vector b, Vector sum) { return Vector::fma(a, b, sum); }
    static inline void put(Vector value, float *words, int place) { value.store(words + place); }
    // Loads a vector from a row's words.
    static inline Vector take(const float *words, int column) { return Vector::load(words + column * Vector::LANES); }
    static void store(const Tile<Float32> &tile, float *to) { store_rows<Float32>(tile, to); }
    static void store_values(const Tile<Float32> &tile, float *values, int first) { store(tile, values + first * WIDTH); }
    static void pack(const float *matrix, int in, int out, float *words) {
        std::memcpy(words, matrix, sizeof(float) * in * out);
    }
};

inline void complete(const Prepared &weights, float *rows, int64_t count) {
    for (int64_t first = 0; first < count; first += ROWS) {
        float *row = rows + first * ROW;
        for (int part = 1; part < PARTS; part++) {
            const float *matrix = (part == 1 ? weights.first_match : weights.first_value).data();
            Tile<Float32> tile;
            tile.clear();
            tile.add(row, ROW, matrix, WIDTH, WIDTH);
            for (int own = 0; own < std::min<int64_t>(ROWS, count - first); own++)
                for (int column = 0; column < VECTORS; column++)
                    tile.of[own][column].store(row + own * ROW + part * WIDTH + column * Vector::LANES);
        }
    }
}

}  // namespace
