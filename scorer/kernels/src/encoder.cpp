// The encoder of scorer/encoder.py, from a user's tokens to the greatest of each channel of the read-out.

#include "encoder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <new>
#include <utility>

#include "kernels.h"
#include "quantised.h"
#include "threads.h"

namespace {

constexpr int EMBEDDING = WIDTH / 2;

struct Encoder {
    Prepared prepared;
    const EncoderFunctions &functions;
    // What rows of tokens are made of.
    std::vector<float> action, surface, age;
    int age_knots;
    float age_span;
};

const EncoderFunctions *functions_of(int32_t level) {
    switch (level) {
        case LIFELINE_AVX2: return &AVX2_ENCODER;
        case LIFELINE_AVX512: return &AVX512_ENCODER;
        case LIFELINE_BF16: return &BF16_ENCODER;
        default: return nullptr;
    }
}

std::vector<float> packed(const EncoderFunctions &functions, const float *matrices, int count, int in, int out) {
    const size_t words = functions.words(in, out);
    std::vector<float> made(words * count);
    for (int number = 0; number < count; number++)
        functions.pack(matrices + static_cast<size_t>(number) * in * out, in, out, made.data() + number * words);
    return made;
}

void embed(const int8_t *row, float scale, float *to) {
    const float length = inverse_norm(row);
    for (int channel = 0; channel < EMBEDDING; channel++) to[channel] = static_cast<float>(row[channel]) * length * scale;
}

// The first part of a token's row: all of its input that depends on neither the candidate nor its place.
void make_row(const Encoder &encoder, const lifeline_tokens &tokens, int64_t index, float *to) {
    std::fill_n(to, WIDTH, 0.0f);
    const auto add = [&](const float *from, float share) {
        for (int channel = 0; channel < WIDTH; channel++) to[channel] += share * from[channel];
    };
    double age_s = 0;
    if (index < 0) {
        add(encoder.surface.data(), 1.0f);
    } else {
        embed(tokens.rows + index * EMBEDDING, encoder.prepared.input_scale, to);
        for (uint64_t types = tokens.types[index]; types; types &= types - 1)
            add(encoder.action.data() + std::countr_zero(types) * WIDTH, 1.0f);
        add(encoder.surface.data() + tokens.surfaces[index] * WIDTH, 1.0f);
        age_s = static_cast<double>(std::max<int64_t>(tokens.asked_ms - tokens.ms[index], 0)) / 1000;
    }
    if (encoder.age_knots) {
        const int last = encoder.age_knots - 1;
        const float place =
            std::clamp(std::log1p(static_cast<float>(age_s)) / encoder.age_span, 0.0f, 1.0f) * static_cast<float>(last);
        const int low = std::min(static_cast<int>(place), last - 1);
        add(encoder.age.data() + low * WIDTH, 1.0f - (place - static_cast<float>(low)));
        add(encoder.age.data() + (low + 1) * WIDTH, place - static_cast<float>(low));
    }
}

// Rows of the tokens that were selected for any candidate.
class Rows {
  public:
    Rows(const Encoder &encoder, const lifeline_tokens &tokens, const lifeline_encoding &job, int32_t threads)
        : place_(tokens.count + 1, -1) {
        // The neutral token, -1, stands behind the last.
        const auto count = static_cast<int64_t>(place_.size());
        std::vector<int64_t> used;
        for (int64_t at = 0; at < job.candidate_count * job.length; at++) {
            const int64_t index = job.index[at] < 0 ? count - 1 : job.index[at];
            if (place_[index] < 0) {
                place_[index] = static_cast<int32_t>(used.size());
                used.push_back(job.index[at]);
            }
        }
        // Rows are completed six at a time.
        rows_ = std::make_unique_for_overwrite<float[]>((used.size() + ROWS) * ROW);
        std::fill_n(rows_.get() + used.size() * ROW, ROWS * ROW, 0.0f);
        const auto make = [&](int64_t from, int64_t to) {
            for (int64_t number = from; number < to; number++) make_row(encoder, tokens, used[number], rows_.get() + number * ROW);
            encoder.functions.complete(encoder.prepared, rows_.get() + from * ROW, to - from);
        };
        in_threads(static_cast<int64_t>(used.size()), AT_ONCE, threads, [&] { return make; });
    }

    const float *of(int64_t index) const {
        return rows_.get() + static_cast<size_t>(place_[index < 0 ? place_.size() - 1 : index]) * ROW;
    }

  private:
    static constexpr int64_t AT_ONCE = 42 * ROWS;

    std::vector<int32_t> place_;
    std::unique_ptr<float[]> rows_;
};

void encode_one(const Encoder &encoder, const Rows &rows, const lifeline_encoding &job, int64_t number,
                std::vector<const float *> &pointers, float *scratch) {
    const int64_t from = number * job.length;
    float parts[ROWS * ROW] = {};
    embed(job.candidates + number * EMBEDDING, encoder.prepared.input_scale, parts + EMBEDDING);
    encoder.functions.complete(encoder.prepared, parts, 1);
    int count = 0;
    while (count < job.length && job.valid[from + count]) {
        pointers[count] = rows.of(job.index[from + count]);
        count++;
    }
    float *outputs = job.outputs == nullptr ? nullptr : job.outputs + from * WIDTH;
    encoder.functions.encode(encoder.prepared,
                             {pointers.data(), job.similarity + from, parts, count, job.read_out + number * WIDTH, outputs},
                             scratch);
}

// Rows of 64 channels, [count][64], with their products beside them: [count][3][64].
std::vector<float> completed(const EncoderFunctions &functions, const Prepared &prepared, const float *from, int count) {
    std::vector<float> made(static_cast<size_t>(count + ROWS) * ROW);
    for (int row = 0; row < count; row++) std::copy_n(from + row * WIDTH, WIDTH, made.data() + row * ROW);
    functions.complete(prepared, made.data(), count);
    return made;
}

}  // namespace

LIFELINE_API void *lifeline_encoder_new(const lifeline_weights *weights, int32_t level) {
    const EncoderFunctions *functions = functions_of(level);
    if (functions == nullptr || level > lifeline_level()) return nullptr;
    const auto copy = [](const float *from, size_t rows) { return std::vector<float>(from, from + rows * WIDTH); };
    try {
        const int layers = weights->layers, ffn = weights->ffn;
        Prepared prepared{
            layers, ffn, weights->length, weights->similarity_knots, weights->input_scale, {}, {},
            copy(weights->match, WIDTH), copy(weights->value, WIDTH),
            packed(*functions, weights->match, layers, WIDTH, WIDTH), packed(*functions, weights->value, layers, WIDTH, WIDTH),
            packed(*functions, weights->widen, layers, WIDTH, ffn), packed(*functions, weights->narrow, layers, ffn, WIDTH),
            packed(*functions, weights->read_out, 1, WIDTH, WIDTH), copy(weights->read_out_bias, 1)};
        prepared.position = completed(*functions, prepared, weights->position, weights->length);
        prepared.similarity = completed(*functions, prepared, weights->similarity, weights->similarity_knots);
        return new Encoder{
            std::move(prepared),
            *functions,
            copy(weights->action, 64),
            copy(weights->surface, 256),
            copy(weights->age, weights->age_knots),
            weights->age_knots,
            weights->age_span,
        };
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

LIFELINE_API void lifeline_encoder_free(void *encoder) { delete static_cast<Encoder *>(encoder); }

LIFELINE_API int32_t lifeline_encode(const void *prepared, const lifeline_tokens *tokens, const lifeline_encoding *job,
                                     int32_t threads) {
    const Encoder &encoder = *static_cast<const Encoder *>(prepared);
    try {
        const Rows rows(encoder, *tokens, *job, threads);
        const auto worker = [&] {
            return [&, pointers = std::vector<const float *>(job->length),
                    scratch = std::vector<float>(encoder.functions.scratch(encoder.prepared))](int64_t from, int64_t to) mutable {
                for (int64_t number = from; number < to; number++)
                    encode_one(encoder, rows, *job, number, pointers, scratch.data());
            };
        };
        return in_threads(job->candidate_count, 1, threads, worker) ? 0 : 2;
    } catch (const std::bad_alloc &) {
        return 2;
    }
}
