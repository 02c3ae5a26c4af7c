// S_all of every candidate, exact: what scorer/selection.py defines, to the bit.
//
// The lifelong pool is large, and only few of its tokens are selected. So a sample, every nth token, gives a threshold
// that about three times the requested number of tokens should reach. One pass over the pool keeps the tokens above the
// threshold, and the exact top K is taken from those. If fewer than K tokens reach it, the estimate was too high, and a
// second pass keeps all tokens.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "packed.h"
#include "quantized.h"
#include "threads.h"

namespace {

constexpr int64_t SAMPLE_SIZE = 1024;
constexpr int KEPT_PER_SELECTED = 3;
constexpr int64_t FILL_BLOCKS = 64;  // blocks that a thread packs at a time
constexpr float NOT_A_NUMBER = std::numeric_limits<float>::quiet_NaN();

enum Source : uint8_t { NONE, LIFELONG, RECENT, REAL_TIME, IMPRESSION };

struct Aligned {
    void operator()(void *memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};

template <class T>
using Array = std::unique_ptr<T[], Aligned>;

template <class T>
Array<T> array(size_t count) {
    return Array<T>(static_cast<T *>(::operator new[](std::max<size_t>(count, 1) * sizeof(T), std::align_val_t{64})));
}

// A pool and its memory.
struct PackedPool {
    Pool pool;
    Array<uint8_t> blocks;
    Array<float> norms;
    const Functions &functions;
    const int8_t *rows;
    int64_t step;

    // Allocates for every `interval`th of `count` rows; `first` is the index of the first row. Call `fill` before use.
    PackedPool(const Functions &kernels, const int8_t *from, int64_t count, int64_t first, int64_t interval = 1)
        : functions(kernels), rows(from), step(interval) {
        pool.count = (count + step - 1) / step;
        pool.first = first;
        blocks = array<uint8_t>(allocated_blocks() * BLOCK_BYTES);
        norms = array<float>(allocated_blocks() * BLOCK);
        pool.blocks = blocks.get();
        pool.inverse_norm = norms.get();
    }

    // Blocks of memory: one more than the pool has, because blocks are read in pairs.
    int64_t allocated_blocks() const { return pool.block_count() + 1; }

    // Packs the blocks from `from` to before `to`.
    void fill(int64_t from, int64_t to) const {
        const int64_t first = from * BLOCK, end = std::min(to * BLOCK, pool.count);
        if (first < end) functions.norms(rows + first * step * CHANNELS, step, end - first, norms.get() + first);
        for (int64_t token = first; token < to * BLOCK; token++) {
            uint8_t *words = blocks.get() + token / BLOCK * BLOCK_BYTES + token % BLOCK * 4;
            if (token >= pool.count) {
                norms[token] = NOT_A_NUMBER;
                for (int word = 0; word < CHANNELS / 4; word++) std::memset(words + word * BLOCK * 4, 128, 4);
                continue;
            }
            const int8_t *row = rows + token * step * CHANNELS;
            for (int word = 0; word < CHANNELS / 4; word++) {
                uint32_t four;
                std::memcpy(&four, row + word * 4, 4);
                four ^= 0x80808080u;
                std::memcpy(words + word * BLOCK * 4, &four, 4);
            }
        }
    }
};

// The memory of one thread, uninitialized, because most of it is never used.
struct Scratch {
    Array<float> values, cosines;
    Array<int32_t> places, keys;
    Kept kept[TILE];

    // For pools of at most `pool_size` tokens, and for the cosines of at most `cosine_count` tokens.
    Scratch(int64_t pool_size, int64_t cosine_count)
        : values(array<float>(TILE * (cosine_count + 2 * BLOCK))), cosines(array<float>(TILE * (pool_size + BLOCK))),
          places(array<int32_t>(TILE * (pool_size + BLOCK))), keys(array<int32_t>(pool_size)) {
        for (int row = 0; row < TILE; row++)
            kept[row] = {places.get() + row * (pool_size + BLOCK), cosines.get() + row * (pool_size + BLOCK), 0};
    }
};

class Selector {
  public:
    Selector(const lifeline_selection &job, const Functions &functions)
        : job_(job), functions_(functions), recent_from_(std::max<int64_t>(0, job.explicit_count - job.recent_kept)),
          lifelong_(functions, job.explicit_rows, job.real_time_from, 0),
          sample_(functions, job.explicit_rows, job.real_time_from, 0, step()),
          real_time_(functions, job.explicit_rows + job.real_time_from * CHANNELS, recent_from_ - job.real_time_from, job.real_time_from),
          recent_(functions, job.explicit_rows + recent_from_ * CHANNELS, job.explicit_count - recent_from_, recent_from_),
          impressions_(functions, job.impression_rows, job.impression_count, job.explicit_count),
          length_(job.lifelong_selected + job.recent_kept + job.real_time_selected + job.impressions_selected) {
        for (const PackedPool *pool : {&sample_, &real_time_, &recent_, &impressions_}) pool->fill(0, pool->allocated_blocks());
    }

    // The largest pool. The caller fills it, in several threads, before the first `select`.
    const PackedPool &lifelong() const { return lifelong_; }

    int64_t tiles() const { return (job_.candidate_count + TILE - 1) / TILE; }

    int64_t largest() const {
        return std::max({lifelong_.pool.count, real_time_.pool.count, impressions_.pool.count});
    }

    // The most tokens whose cosines are all computed at once.
    int64_t cosine_count() const { return std::max(sample_.pool.count, recent_.pool.count); }

    void select(int64_t number, Scratch &scratch) const {
        Tile tile;
        const int64_t begin = number * TILE;
        const int rows = static_cast<int>(std::min<int64_t>(TILE, job_.candidate_count - begin));
        for (int row = 0; row < TILE; row++) {
            const int8_t *own = job_.candidates + (begin + std::min(row, rows - 1)) * CHANNELS;
            std::memcpy(tile.words[row], own, CHANNELS);
            int32_t sum = 0;
            for (int channel = 0; channel < CHANNELS; channel++) sum += own[channel];
            tile.offset[row] = -128 * sum;
            const float norm = inverse_norm(own);
            tile.inverse_norm[row] = norm > 0 ? norm : NOT_A_NUMBER;
        }
        int64_t used[TILE] = {};
        for (int row = 0; row < rows; row++) {
            const int64_t at = (begin + row) * length_;
            std::fill_n(job_.index + at, length_, -1);
            std::fill_n(job_.similarity + at, length_, 0.0f);
            std::fill_n(job_.source + at, length_, NONE);
            std::fill_n(job_.valid + at, length_, 0);
        }
        nearest(tile, begin, rows, lifelong_.pool, &sample_.pool, job_.lifelong_selected, LIFELONG, used, scratch);
        select_recent(tile, begin, rows, used, scratch);
        nearest(tile, begin, rows, real_time_.pool, nullptr, job_.real_time_selected, REAL_TIME, used, scratch);
        nearest(tile, begin, rows, impressions_.pool, nullptr, job_.impressions_selected, IMPRESSION, used, scratch);
        for (int row = 0; row < rows; row++) {
            uint8_t *valid = job_.valid + (begin + row) * length_;
            std::fill_n(valid, std::max<int64_t>(used[row], 1), 1);
        }
    }

  private:
    int64_t step() const { return std::max<int64_t>(1, job_.real_time_from / SAMPLE_SIZE); }

    // Keeps for each row the tokens whose cosine is at least the row's threshold.
    void keep(const Tile &tile, const Pool &pool, const float *threshold, Scratch &scratch) const {
        for (Kept &own : scratch.kept) own.count = 0;
        functions_.keep(pool, tile, threshold, scratch.kept);
    }

    // Sets thresholds that about KEPT_PER_SELECTED times `wanted` of the `of` tokens of the pool should reach.
    void estimate_thresholds(const Tile &tile, int rows, const Pool &sample, int64_t of, int wanted, float *threshold,
               Scratch &scratch) const {
        const size_t stride = sample.count + 2 * BLOCK;
        const double share = static_cast<double>(KEPT_PER_SELECTED) * wanted / static_cast<double>(of);
        const auto rank = static_cast<int64_t>(std::ceil(share * static_cast<double>(sample.count)));
        functions_.cosines(sample.blocks, sample.inverse_norm, sample.block_count(), tile, scratch.values.get(), stride);
        for (int row = 0; row < rows; row++) {
            const float *values = scratch.values.get() + row * stride;
            float low = -1.0f, high = 1.0f;
            for (int round = 0; round < 12; round++) {
                const float middle = (low + high) / 2;
                (functions_.count_above(values, sample.count, middle) >= rank ? low : high) = middle;
            }
            threshold[row] = low;
        }
    }

    // Selects the nearest tokens of a pool and writes them oldest first. Of equal cosines the newer one is selected.
    void nearest(const Tile &tile, int64_t begin, int rows, const Pool &pool, const Pool *sample, int wanted,
                 Source source, int64_t *used, Scratch &scratch) const {
        if (wanted == 0 || pool.count == 0) return;
        float threshold[TILE];
        std::fill_n(threshold, TILE, std::numeric_limits<float>::infinity());
        std::fill_n(threshold, rows, -std::numeric_limits<float>::infinity());
        const bool estimated = sample != nullptr && pool.count >= 2 * SAMPLE_SIZE && pool.count >= 8 * wanted;
        if (estimated) estimate_thresholds(tile, rows, *sample, pool.count, wanted, threshold, scratch);
        keep(tile, pool, threshold, scratch);
        if (estimated) {
            bool too_few = false;
            for (int row = 0; row < rows; row++) {
                if (scratch.kept[row].count < wanted) {
                    threshold[row] = -std::numeric_limits<float>::infinity();
                    too_few = true;
                }
            }
            if (too_few) keep(tile, pool, threshold, scratch);
        }
        for (int row = 0; row < rows; row++) select_nearest(begin + row, row, pool, wanted, source, used[row], scratch);
    }

    // Selects the `wanted` nearest of a row's kept tokens.
    void select_nearest(int64_t candidate, int row, const Pool &pool, int wanted, Source source, int64_t &used,
             Scratch &scratch) const {
        const Kept &kept = scratch.kept[row];
        const int64_t found = kept.count;
        int32_t lowest = std::numeric_limits<int32_t>::min();
        int64_t older = 0;  // tokens with the lowest key that are too old to be selected
        if (found > wanted) {
            int32_t *keys = scratch.keys.get();
            int32_t least, most;
            functions_.keys(kept.value, found, keys, &least, &most);
            // Bisection for the greatest key that `wanted` tokens reach.
            int64_t low = least, high = most;
            while (low < high) {
                const int64_t middle = low + (high - low + 1) / 2;
                if (functions_.count_keys_above(keys, found, static_cast<int32_t>(middle)) >= wanted)
                    low = middle;
                else
                    high = middle - 1;
            }
            lowest = static_cast<int32_t>(low);
            older = functions_.count_keys_above(keys, found, lowest) - wanted;
        }
        const int64_t at = candidate * length_ + used;
        const int64_t picked = functions_.pick(kept, lowest, older, pool.first, job_.index + at, job_.similarity + at);
        std::fill_n(job_.source + at, picked, source);
        used += picked;
    }

    // Selects the newest tokens, whatever their cosine.
    void select_recent(const Tile &tile, int64_t begin, int rows, int64_t *used, Scratch &scratch) const {
        const Pool &pool = recent_.pool;
        const size_t stride = pool.count + 2 * BLOCK;
        functions_.cosines(pool.blocks, pool.inverse_norm, pool.block_count(), tile, scratch.values.get(), stride);
        for (int row = 0; row < rows; row++) {
            const float *values = scratch.values.get() + row * stride;
            for (int64_t token = 0; token < pool.count; token++) {
                const int64_t at = (begin + row) * length_ + used[row]++;
                job_.index[at] = pool.first + token;
                job_.similarity[at] = std::isnan(values[token]) ? 0.0f : values[token] + 0.0f;
                job_.source[at] = RECENT;
            }
        }
    }

    const lifeline_selection &job_;
    const Functions &functions_;
    const int64_t recent_from_;
    const PackedPool lifelong_, sample_, real_time_, recent_, impressions_;
    const int64_t length_;
};

const Functions *functions_of(int32_t instruction_set) {
    if (instruction_set > lifeline_instruction_set()) return nullptr;
    switch (instruction_set) {
        case LIFELINE_AVX2: return &AVX2_FUNCTIONS;
        case LIFELINE_AVX512: return &AVX512_FUNCTIONS;
        case LIFELINE_AVX512_BF16: return &BF16_FUNCTIONS;
        default: return nullptr;
    }
}

}  // namespace

LIFELINE_API int32_t lifeline_abi_version(void) { return LIFELINE_ABI_VERSION; }

LIFELINE_API int32_t lifeline_instruction_set(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return LIFELINE_NONE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return LIFELINE_AVX2;
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bf16")) return LIFELINE_AVX512;
    return LIFELINE_AVX512_BF16;
}

LIFELINE_API int32_t lifeline_select(const lifeline_selection *job, int32_t instruction_set, int32_t threads) {
    const Functions *functions = functions_of(instruction_set);
    if (functions == nullptr) return LIFELINE_UNAVAILABLE;
    try {
        const Selector selector(*job, *functions);
        const auto worker = [&] {
            return [&, scratch = Scratch(selector.largest(), selector.cosine_count())](int64_t from, int64_t to) mutable {
                for (int64_t tile = from; tile < to; tile++) selector.select(tile, scratch);
            };
        };
        const PackedPool &lifelong = selector.lifelong();
        Phase filling(lifelong.allocated_blocks(), FILL_BLOCKS, [&] { return [&](int64_t from, int64_t to) { lifelong.fill(from, to); }; });
        Phase selecting(selector.tiles(), 1, worker);
        return in_threads(threads, filling, selecting) ? LIFELINE_OK : LIFELINE_OUT_OF_MEMORY;
    } catch (const std::bad_alloc &) {
        return LIFELINE_OUT_OF_MEMORY;
    }
}
