// The encoder of scorer/encoder.py: from a user's tokens to the read-out, max-pooled over the tokens.

#include "encoder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <new>
#include <numeric>
#include <utility>

#include "kernels.h"
#include "quantized.h"
#include "threads.h"

namespace {

constexpr int EMBEDDING = WIDTH / 2;

struct Encoder {
    Prepared prepared;
    const EncoderFunctions &functions;
};

// Null if the processor lacks the instruction set, or if that has no products of the precision.
const EncoderFunctions *functions_of(int32_t instruction_set, int32_t precision) {
    if (instruction_set < LIFELINE_AVX2 || instruction_set > lifeline_instruction_set()) return nullptr;
    if (precision == LIFELINE_FLOAT32) return instruction_set == LIFELINE_AVX2 ? &AVX2_ENCODER : &AVX512_ENCODER;
    if (instruction_set < LIFELINE_AVX512_BF16) return nullptr;
    switch (precision) {
        case LIFELINE_BFLOAT16: return &BF16_ENCODER;
        case LIFELINE_INT8: return &INT8_ENCODER;
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

// A selection that does not fit its tokens.
struct OutOfRange {};

// Rows of the tokens that were selected for any candidate.
class Rows {
  public:
    static constexpr int64_t CHUNK = 42 * ROWS;

    Rows(const Encoder &encoder, const lifeline_tokens &tokens, const lifeline_encoding &job)
        : encoder_(encoder), tokens_(tokens), stride_(encoder.functions.token_row), place_(tokens.count + 1, -1) {
        // The neutral token, -1, has the last place.
        const auto count = static_cast<int64_t>(place_.size());
        for (int64_t at = 0; at < job.candidate_count * job.length; at++) {
            if (job.index[at] >= tokens.count) throw OutOfRange();
            const int64_t index = job.index[at] < 0 ? count - 1 : job.index[at];
            if (place_[index] < 0) {
                place_[index] = static_cast<int32_t>(used_.size());
                used_.push_back(job.index[at]);
            }
        }
        for (int64_t number = 0; number < job.candidate_count; number++)
            if (!job.valid[number * job.length]) throw OutOfRange();
        rows_ = std::make_unique_for_overwrite<float[]>(used_.size() * stride_);
    }

    int64_t count() const { return static_cast<int64_t>(used_.size()); }

    void make(int64_t from, int64_t to) {
        encoder_.functions.make_rows(encoder_.prepared, tokens_, used_.data() + from, to - from, rows_.get() + from * stride_);
    }

    const float *of(int64_t index) const {
        return rows_.get() + static_cast<size_t>(place_[index < 0 ? place_.size() - 1 : index]) * stride_;
    }

  private:
    const Encoder &encoder_;
    const lifeline_tokens &tokens_;
    const size_t stride_;
    std::vector<int32_t> place_;
    std::vector<int64_t> used_;
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

// Rows of 64 channels, [count][64], followed by their two products: [count][3][64].
std::vector<float> completed(const EncoderFunctions &functions, const Prepared &prepared, const float *from, int count) {
    std::vector<float> made(static_cast<size_t>(count + ROWS) * ROW);
    for (int row = 0; row < count; row++) std::copy_n(from + row * WIDTH, WIDTH, made.data() + row * ROW);
    functions.complete(prepared, made.data(), count);
    return made;
}

// Subtracts the mean of each row from matrices [in][64], so that what they add to a token has mean 0. The layer norm
// would subtract it anyway.
std::vector<float> centred(const float *matrices, size_t rows) {
    std::vector<float> made(matrices, matrices + rows * WIDTH);
    for (size_t row = 0; row < rows; row++) {
        const auto from = made.begin() + row * WIDTH;
        const double mean = std::accumulate(from, from + WIDTH, 0.0) / WIDTH;
        std::transform(from, from + WIDTH, from, [&](float value) { return static_cast<float>(value - mean); });
    }
    return made;
}

// Quantizes a matrix [in][out] to int8, with a scale for each output channel. `step` is the value of one step of the
// input; a `shifted` input has 128 steps added.
Int8Matrix quantize(const float *matrix, int in, int out, float step, bool shifted) {
    Int8Matrix result{std::vector<float>(static_cast<size_t>(in) / 4 * out), std::vector<float>(out), std::vector<float>(out)};
    int8_t *bytes = reinterpret_cast<int8_t *>(result.words.data());
    for (int column = 0; column < out; column++) {
        float greatest = 1e-9f;
        for (int row = 0; row < in; row++) greatest = std::max(greatest, std::abs(matrix[row * out + column]));
        int32_t sum = 0;
        for (int row = 0; row < in; row++) {
            const auto value = static_cast<int8_t>(std::lrint(matrix[row * out + column] / greatest * 127));
            bytes[(row / 4 * out + column) * 4 + row % 4] = value;
            sum += value;
        }
        result.scale[column] = step * greatest / 127;
        result.offset[column] = shifted ? -128.0f * static_cast<float>(sum) * result.scale[column] : 0.0f;
    }
    return result;
}

// `value` and `narrow` are those of one layer, centred.
ByteWeights byte_weights(const lifeline_weights &weights, int layer, const float *value, const float *narrow) {
    const int ffn = weights.ffn;
    const float *values = weights.values + layer * WIDTH, *wides = weights.wides + static_cast<size_t>(layer) * ffn;
    const float input = weights.inputs[layer], middle = weights.middles[layer];
    ByteWeights made{quantize(weights.match + layer * WIDTH * WIDTH, WIDTH, WIDTH, input / 127, true),
                     quantize(value, WIDTH, WIDTH, input / 127, true),
                     quantize(weights.widen + static_cast<size_t>(layer) * WIDTH * ffn, WIDTH, ffn, middle / 127, true),
                     {}, input, middle, std::vector<float>(WIDTH), std::vector<float>(WIDTH), std::vector<float>(ffn)};
    for (int channel = 0; channel < WIDTH; channel++) {
        made.value_scales[channel] = 127 / values[channel];
        made.value_steps[channel] = values[channel] / 127;
    }
    // Each wide channel's scale is part of the weights that read it.
    std::vector<float> read(narrow, narrow + static_cast<size_t>(ffn) * WIDTH);
    for (int channel = 0; channel < ffn; channel++) {
        made.wide_scales[channel] = 255 / wides[channel];
        for (int column = 0; column < WIDTH; column++) read[channel * WIDTH + column] *= wides[channel];
    }
    made.narrow = quantize(read.data(), ffn, WIDTH, 1.0f / 255, false);
    return made;
}

}  // namespace

LIFELINE_API void *lifeline_encoder_new(const lifeline_weights *weights, int32_t instruction_set, int32_t precision) {
    const EncoderFunctions *functions = functions_of(instruction_set, precision);
    if (functions == nullptr) return nullptr;
    const auto copy = [](const float *from, size_t rows) { return std::vector<float>(from, from + rows * WIDTH); };
    try {
        const int layers = weights->layers, ffn = weights->ffn;
        const std::vector<float> value = centred(weights->value, static_cast<size_t>(layers) * WIDTH),
                                 narrow = centred(weights->narrow, static_cast<size_t>(layers) * ffn);
        Prepared prepared{
            layers, ffn, weights->length, weights->similarity_knots, weights->age_knots, weights->input_scale,
            weights->age_span, copy(weights->action, 64), copy(weights->surface, 256), copy(weights->age, weights->age_knots),
            {}, {},
            copy(weights->match, WIDTH), copy(value.data(), WIDTH),
            packed(*functions, weights->match, layers, WIDTH, WIDTH), packed(*functions, value.data(), layers, WIDTH, WIDTH),
            packed(*functions, weights->widen, layers, WIDTH, ffn), packed(*functions, narrow.data(), layers, ffn, WIDTH),
            packed(*functions, weights->read_out, 1, WIDTH, WIDTH), copy(weights->read_out_bias, 1), {}};
        for (int layer = 0; precision == LIFELINE_INT8 && layer < layers; layer++)
            prepared.bytes.push_back(byte_weights(*weights, layer, value.data() + layer * WIDTH * WIDTH,
                                                  narrow.data() + static_cast<size_t>(layer) * ffn * WIDTH));
        prepared.position = completed(*functions, prepared, weights->position, weights->length);
        prepared.similarity = completed(*functions, prepared, weights->similarity, weights->similarity_knots);
        return new Encoder{std::move(prepared), *functions};
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

LIFELINE_API void lifeline_encoder_free(void *encoder) { delete static_cast<Encoder *>(encoder); }

LIFELINE_API int32_t lifeline_encode(const void *prepared, const lifeline_tokens *tokens, const lifeline_encoding *job,
                                     int32_t threads) {
    const Encoder &encoder = *static_cast<const Encoder *>(prepared);
    try {
        Rows rows(encoder, *tokens, *job);
        const auto worker = [&] {
            return [&, pointers = std::vector<const float *>(job->length),
                    scratch = std::vector<float>(encoder.functions.scratch(encoder.prepared))](int64_t from, int64_t to) mutable {
                for (int64_t number = from; number < to; number++)
                    encode_one(encoder, rows, *job, number, pointers, scratch.data());
            };
        };
        Phase making(rows.count(), Rows::CHUNK, [&] { return [&](int64_t from, int64_t to) { rows.make(from, to); }; });
        Phase encoding(job->candidate_count, 1, worker);
        return in_threads(threads, making, encoding) ? LIFELINE_OK : LIFELINE_OUT_OF_MEMORY;
    } catch (const OutOfRange &) {
        return LIFELINE_OUT_OF_RANGE;
    } catch (const std::bad_alloc &) {
        return LIFELINE_OUT_OF_MEMORY;
    }
}
