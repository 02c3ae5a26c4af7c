// The cross of scorer/model.py, and the MLP behind it, from each candidate's input to its logits.

#include "heads.h"

#include <algorithm>
#include <new>
#include <utility>

#include "threads.h"

namespace {

struct Heads {
    HeadsPrepared prepared;
    HeadsFunction function;
};

int round_up(int columns) { return (columns + HEAD_COLUMNS - 1) / HEAD_COLUMNS * HEAD_COLUMNS; }

Linear linear(const float *matrix, const float *bias, int in, int out) {
    const int columns = round_up(out);
    Linear layer{in, out, columns, std::vector<float>(static_cast<size_t>(in) * columns), std::vector<float>(columns)};
    for (int row = 0; row < in; row++)
        std::copy_n(matrix + static_cast<size_t>(row) * out, out, layer.matrix.data() + static_cast<size_t>(row) * columns);
    std::copy_n(bias, out, layer.bias.data());
    return layer;
}

}  // namespace

LIFELINE_API void *lifeline_heads_new(const lifeline_heads *weights, int32_t instruction_set) {
    if (instruction_set < LIFELINE_AVX2 || instruction_set > lifeline_instruction_set()) return nullptr;
    try {
        HeadsPrepared prepared{weights->width, round_up(weights->width), {}, {}};
        int number = 0;
        for (; number < weights->cross_layers; number++)
            prepared.cross.push_back(linear(weights->matrices[number], weights->biases[number], weights->width, weights->width));
        for (int in = weights->width, layer = 0; layer < weights->mlp_layers; layer++, number++) {
            const int out = weights->sizes[layer];
            prepared.mlp.push_back(linear(weights->matrices[number], weights->biases[number], in, out));
            prepared.stride = std::max(prepared.stride, prepared.mlp.back().columns);
            in = out;
        }
        return new Heads{std::move(prepared), instruction_set == LIFELINE_AVX2 ? AVX2_HEADS : AVX512_HEADS};
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

LIFELINE_API void lifeline_heads_free(void *heads) { delete static_cast<Heads *>(heads); }

LIFELINE_API int32_t lifeline_logits(const void *handle, const float *inputs, int64_t count, float *logits, int32_t threads) {
    const Heads &heads = *static_cast<const Heads *>(handle);
    const HeadsPrepared &prepared = heads.prepared;
    try {
        const auto worker = [&] {
            return [&, scratch = std::vector<float>(3 * HEAD_BLOCK * static_cast<size_t>(prepared.stride))](int64_t from,
                                                                                                          int64_t to) mutable {
                heads.function(prepared, inputs + from * prepared.width, static_cast<int>(to - from), scratch.data(),
                               logits + from * prepared.mlp.back().out);
            };
        };
        Phase phase(count, HEAD_BLOCK, worker);
        return in_threads(threads, phase) ? LIFELINE_OK : LIFELINE_OUT_OF_MEMORY;
    } catch (const std::bad_alloc &) {
        return LIFELINE_OUT_OF_MEMORY;
    }
}
