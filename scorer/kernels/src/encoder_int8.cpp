// The encoder with products of int8, but for the read-out, which is of bfloat16: what scorer/int8.py computes.
//
// One side of a product is unsigned: activations. Inputs have 128 added, and a sum over the weights takes that part out
// again; keys have 128 added too, which adds the same to all scores of a query and does not change its softmax;
// probabilities and the wide layer are never negative. The other side is signed: weights, values and queries.
#include "bfloat16.h"

namespace {

constexpr int BYTE_WORDS = WIDTH / 4;  // of a token

struct Bytes {
    // Unsigned words of rows, signed vectors of columns. Inline assembly, because with the intrinsic and its casts g++
    // spills every sum to memory at every step.
    static inline __attribute__((always_inline)) Vector dot(Vector a, Vector b, Vector sum) {
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum.lanes) : "v"(a.lanes), "v"(b.lanes));
        return sum;
    }
};

struct Scores {
    // Signed words of queries, unsigned vectors of keys.
    static inline __attribute__((always_inline)) Vector dot(Vector a, Vector b, Vector sum) { return Bytes::dot(b, a, sum); }
};

// Sums are whole numbers in the lanes of a Vector.
inline Vector number(Vector sum) { return {_mm512_cvtepi32_ps(_mm512_castps_si512(sum.lanes))}; }
inline Vector whole(Vector value) { return {_mm512_castsi512_ps(_mm512_cvtps_epi32(value.lanes))}; }
inline Vector magnitude(Vector value) { return {_mm512_abs_ps(value.lanes)}; }

// Stores sixteen integers as bytes, saturated.
inline void put_unsigned(Vector wholes, uint8_t *to) {
    const __m512i above = _mm512_max_epi32(_mm512_castps_si512(wholes.lanes), _mm512_setzero_si512());
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_cvtusepi32_epi8(above));
}
inline void put_signed(Vector wholes, int8_t *to) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_cvtsepi32_epi8(_mm512_castps_si512(wholes.lanes)));
}
// Rounds sixteen numbers, adds 128 and stores them as bytes.
inline void put_shifted(Vector value, uint8_t *to) {
    const __m512i sum = _mm512_add_epi32(_mm512_cvtps_epi32(value.lanes), _mm512_set1_epi32(128));
    put_unsigned({_mm512_castsi512_ps(sum)}, to);
}

template <class T>
T *bytes(float *words) {
    return reinterpret_cast<T *>(words);
}

class Int8Layers {
  public:
    static size_t scratch(const Prepared &weights) {
        const size_t length = padded(weights.length);
        return length * WIDTH                    // x
               + length * WIDTH / 2              // the read-out's inputs, in bfloat16
               + 4 * length * BYTE_WORDS         // x as words, K, Q and V by rows
               + length * BYTE_WORDS + 4 * WIDTH // V
               + length                          // the step of each query
               + 2 * ROWS * length               // scores
               + ROWS * length / 4               // probabilities
               + 2 * ROWS * weights.ffn / 4      // the wide layer
               + 16 * 16;
    }

    Int8Layers(const Prepared &weights, float *memory) : weights_(weights), stride_(padded(weights.length)) {
        const auto take = [&](size_t count) {
            float *part = memory;
            memory += count;
            return part;
        };
        x_ = take(stride_ * WIDTH);
        last_ = take(stride_ * WIDTH / 2);
        words_ = take(stride_ * BYTE_WORDS);
        keys_ = take(BYTE_WORDS * stride_);
        queries_ = take(stride_ * BYTE_WORDS);
        rows_ = take(stride_ * BYTE_WORDS);
        values_ = take(stride_ * BYTE_WORDS + 4 * WIDTH);
        steps_ = take(stride_);
        scores_ = take(2 * ROWS * stride_);
        probabilities_ = take(ROWS * stride_ / 4);
        wide_ = take(2 * ROWS * weights.ffn / 4);
    }

    void encode(const Candidate &candidate) {
        const int count = candidate.count;
        const int rows = (count + ROWS - 1) / ROWS * ROWS;
        for (int first = 0; first < rows; first += ROWS) {
            Tile<Bfloat16> parts[PARTS];
            gather_tile(weights_, candidate, first, parts);
            keep(parts[0], first, weights_.bytes[0].input);
            keep_query(parts[1], first, 0);
            keep_value(parts[2], first, 0);
        }
        for (int layer = 0; layer < weights_.layers; layer++) {
            const bool last = layer + 1 == weights_.layers;
            if (layer > 0) project(layer, rows);
            interleave(rows);
            for (int token = 0; token < rows; token += 16)
                transpose(words_ + token * BYTE_WORDS, BYTE_WORDS, keys_ + token, stride_);
            attend(layer, rows);
            feed_forward(layer, rows, last, candidate.outputs != nullptr);
        }
        read_out<Bfloat16>(weights_, last_, count, candidate.read_out);
        if (candidate.outputs != nullptr) std::memcpy(candidate.outputs, x_, sizeof(float) * WIDTH * count);
    }

  private:
    // Stores six tokens of x, and their words.
    void keep(const Tile<Bfloat16> &tile, int first, float greatest) {
        const Vector scale = Vector::broadcast(127 / greatest);
        store_rows<Bfloat16>(tile, x_ + first * WIDTH);
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < VECTORS; column++)
                put_shifted(tile.of[row][column] * scale,
                            bytes<uint8_t>(words_) + (first + row) * WIDTH + column * Vector::LANES);
    }

    // Each query has a scale of its own.
    void keep_query(const Tile<Bfloat16> &tile, int first, int layer) {
        Vector parts[ROWS];
        for (int row = 0; row < ROWS; row++) {
            parts[row] = magnitude(tile.of[row][0]);
            for (int column = 1; column < VECTORS; column++)
                parts[row] = Vector::max(parts[row], magnitude(tile.of[row][column]));
        }
        const Vector greatest = Vector::max(Vector::reduce_rows(parts, Vector::max), Vector::broadcast(1e-9f));
        const Vector scales = Vector::broadcast(127.0f) / greatest;
        const Vector steps = greatest * Vector::broadcast(weights_.bytes[layer].input / (127.0f * 127.0f));
        for (int row = 0; row < ROWS; row++) {
            const Vector scale = scales.broadcast_row(row);
            for (int column = 0; column < VECTORS; column++)
                put_signed(whole(tile.of[row][column] * scale),
                           bytes<int8_t>(queries_) + (first + row) * WIDTH + column * Vector::LANES);
            steps_[first + row] = _mm512_cvtss_f32(steps.broadcast_row(row).lanes);
        }
    }

    void keep_value(const Tile<Bfloat16> &tile, int first, int layer) {
        const float *scales = weights_.bytes[layer].value_scales.data();
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < VECTORS; column++) {
                const int at = column * Vector::LANES;
                put_signed(whole(tile.of[row][column] * Vector::load(scales + at)),
                           bytes<int8_t>(rows_) + (first + row) * WIDTH + at);
            }
    }

    // Interleaves the rows of V into words of four keys, the same channel of each. Keys behind the last row have
    // probability 0.
    void interleave(int rows) {
        const int8_t *from = bytes<int8_t>(rows_);
        for (int key = 0; key < rows; key += 4)
            for (int channel = 0; channel < WIDTH; channel += 16) {
                const auto row = [&](int number) {
                    return _mm_loadu_si128(reinterpret_cast<const __m128i *>(from + (key + number) * WIDTH + channel));
                };
                const __m128i low01 = _mm_unpacklo_epi8(row(0), row(1)), high01 = _mm_unpackhi_epi8(row(0), row(1));
                const __m128i low23 = _mm_unpacklo_epi8(row(2), row(3)), high23 = _mm_unpackhi_epi8(row(2), row(3));
                __m128i *to = reinterpret_cast<__m128i *>(values_ + key / 4 * WIDTH + channel);
                _mm_storeu_si128(to, _mm_unpacklo_epi16(low01, low23));
                _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(low01, low23));
                _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(high01, high23));
                _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(high01, high23));
            }
    }

    // Converts sums of a product with words of x to float32.
    template <int C>
    static void finish(const Sums<Bytes, ROWS, C> &sums, const Int8Matrix &matrix, int from, Sums<Bfloat16, ROWS, C> &to) {
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < C; column++) {
                const int at = from + column * Vector::LANES;
                to.of[row][column] = Vector::fma(number(sums.of[row][column]), Vector::load(matrix.scale.data() + at),
                                                   Vector::load(matrix.offset.data() + at));
            }
    }

    // Computes Q and V from x.
    void project(int layer, int rows) {
        const ByteWeights &own = weights_.bytes[layer];
        for (int first = 0; first < rows; first += ROWS) {
            Sums<Bytes, ROWS, VECTORS> sums;
            Tile<Bfloat16> tile;
            sums.clear();
            sums.add(words_ + first * BYTE_WORDS, BYTE_WORDS, own.match.words.data(), WIDTH, BYTE_WORDS);
            finish(sums, own.match, 0, tile);
            keep_query(tile, first, layer);
            sums.clear();
            sums.add(words_ + first * BYTE_WORDS, BYTE_WORDS, own.value.words.data(), WIDTH, BYTE_WORDS);
            finish(sums, own.value, 0, tile);
            keep_value(tile, first, layer);
        }
    }

    // x = LN(x + softmax(Q K) V), the scores of the next six tokens one step ahead.
    void attend(int layer, int rows) {
        const ByteWeights &own = weights_.bytes[layer];
        Vector greatest = compute_scores(0, 0);
        for (int first = 0, buffer = 0; first < rows; first += ROWS, buffer ^= 1) {
            Vector next = greatest;
            if (first + ROWS < rows) next = compute_scores(first + ROWS, buffer ^ 1);
            const Vector scale = softmax(first, buffer, greatest);
            Sums<Bytes, ROWS, VECTORS> sums;
            sums.clear();
            sums.add(probabilities_, stride_ / 4, values_, WIDTH, (first + ROWS + 3) / 4);
            Tile<Bfloat16> tile;
            for (int row = 0; row < ROWS; row++) {
                const Vector of_row = scale.broadcast_row(row);
                for (int column = 0; column < VECTORS; column++) {
                    const int at = column * Vector::LANES;
                    const Vector value = number(sums.of[row][column]) * Vector::load(own.value_steps.data() + at);
                    tile.of[row][column] = Vector::fma(value, of_row, Vector::load(x_ + (first + row) * WIDTH + at));
                }
            }
            layer_norm<Bfloat16>(tile, layer > 0);
            keep(tile, first, own.middle);
            greatest = next;
        }
    }

    Vector compute_scores(int first, int buffer) {
        return greatest_scores(first, [&](auto count, int vector, Vector *greatest) {
            score<count()>(first, vector, scores_ + buffer * ROWS * stride_, greatest);
        });
    }

    template <int C>
    void score(int first, int vector, float *scores, Vector *greatest) {
        Sums<Scores, ROWS, C> sums;
        sums.clear();
        sums.add(queries_ + first * BYTE_WORDS, BYTE_WORDS, keys_ + vector * Vector::LANES, stride_, BYTE_WORDS);
        const bool is_masked = (vector + C) * Vector::LANES > first;
        for (int row = 0; row < ROWS; row++) {
            const Vector step = Vector::broadcast(steps_[first + row]);
            for (int column = 0; column < C; column++) {
                Vector part = number(sums.of[row][column]) * step;
                if (is_masked) part = part.mask_after((vector + column) * Vector::LANES, first + row, MASKED);
                part.store(scores + row * stride_ + (vector + column) * Vector::LANES);
                greatest[row] = Vector::max(greatest[row], part);
            }
        }
    }

    // Writes probabilities in 255 steps; returns one over the sum of each row.
    Vector softmax(int first, int buffer, Vector greatest) {
        const int vectors = vectors_seen(first);
        Vector parts[ROWS];
        for (int row = 0; row < ROWS; row++) {
            const float *scores = scores_ + (buffer * ROWS + row) * stride_;
            const Vector most = greatest.broadcast_row(row);
            __m512i sum = _mm512_setzero_si512();
            for (int place = 0; place < vectors * Vector::LANES; place += Vector::LANES) {
                const Vector power = (Vector::load(scores + place) - most).power_of_two<Bfloat16::DEGREE>();
                const Vector steps = whole(power * Vector::broadcast(255.0f));
                put_unsigned(steps, bytes<uint8_t>(probabilities_) + row * stride_ + place);
                sum = _mm512_add_epi32(sum, _mm512_castps_si512(steps.lanes));
            }
            parts[row] = number({_mm512_castsi512_ps(sum)});
        }
        return Vector::broadcast(1.0f) / Vector::reduce_rows(parts, [](Vector a, Vector b) { return a + b; });
    }

    // x = LN(x + W2 relu(W1 x)), the wide layer of the next six tokens one step ahead.
    void feed_forward(int layer, int rows, bool last, bool x_wanted) {
        const ByteWeights &own = weights_.bytes[layer];
        widen(layer, 0, 0);
        for (int first = 0, buffer = 0; first < rows; first += ROWS, buffer ^= 1) {
            if (first + ROWS < rows) widen(layer, first + ROWS, buffer ^ 1);
            Sums<Bytes, ROWS, VECTORS> sums;
            sums.clear();
            const int words = weights_.ffn / 4;
            sums.add(wide_ + buffer * ROWS * words, words, own.narrow.words.data(), WIDTH, words);
            Tile<Bfloat16> tile;
            finish(sums, own.narrow, 0, tile);
            for (int row = 0; row < ROWS; row++)
                for (int column = 0; column < VECTORS; column++)
                    tile.of[row][column] =
                        tile.of[row][column] + Vector::load(x_ + (first + row) * WIDTH + column * Vector::LANES);
            layer_norm<Bfloat16>(tile, true);
            if (!last) {
                keep(tile, first, weights_.bytes[layer + 1].input);
                continue;
            }
            Bfloat16::store(tile, last_ + first * WIDTH / 2);
            if (x_wanted) store_rows<Bfloat16>(tile, x_ + first * WIDTH);
        }
    }

    void widen(int layer, int first, int buffer) {
        const ByteWeights &own = weights_.bytes[layer];
        for (int begin = 0; begin < weights_.ffn; begin += 32) {
            Sums<Bytes, ROWS, 2> sums;
            sums.clear();
            sums.add(words_ + first * BYTE_WORDS, BYTE_WORDS, own.widen.words.data() + begin, weights_.ffn, BYTE_WORDS);
            Sums<Bfloat16, ROWS, 2> wide;
            finish(sums, own.widen, begin, wide);
            for (int row = 0; row < ROWS; row++)
                for (int column = 0; column < 2; column++) {
                    const int at = begin + column * Vector::LANES;
                    put_unsigned(whole(wide.of[row][column] * Vector::load(own.wide_scales.data() + at)),
                                 bytes<uint8_t>(wide_) + (buffer * ROWS + row) * weights_.ffn + at);
                }
        }
    }

    const Prepared &weights_;
    const size_t stride_;
    float *x_, *last_, *words_, *keys_, *queries_, *rows_, *values_, *steps_, *scores_, *probabilities_, *wide_;
};

void encode_int8(const Prepared &weights, const Candidate &candidate, float *scratch) {
    Int8Layers(weights, scratch).encode(candidate);
}

}  // namespace

const EncoderFunctions INT8_ENCODER = {Bfloat16::pack,            word_count<Bfloat16>, complete,   Layers<Bfloat16>::TOKEN_ROW,
                                       make_rows<Bfloat16>, Int8Layers::scratch, encode_int8};
