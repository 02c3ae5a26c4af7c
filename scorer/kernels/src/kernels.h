// The C ABI of the kernels; scorer/kernels/abi.py is its Python side. A change on either side needs the same change on
// the other, and the next LIFELINE_ABI_VERSION.
#pragma once

#include <cstdint>

#if defined(__GNUC__)
#define LIFELINE_API extern "C" __attribute__((visibility("default")))
#endif

constexpr int32_t LIFELINE_ABI_VERSION = 1;

// Instruction sets, each one including those before it.
enum lifeline_instruction_set_number : int32_t {
    LIFELINE_NONE = 0,
    LIFELINE_AVX2 = 1,         // and FMA
    LIFELINE_AVX512 = 2,       // F, BW, DQ, VL
    LIFELINE_AVX512_BF16 = 3,  // and VNNI and BF16
};

// Operands of the encoder's matrix products. All but float32 need AVX512_BF16.
enum lifeline_precision : int32_t {
    LIFELINE_FLOAT32 = 0,
    LIFELINE_BFLOAT16 = 1,
    LIFELINE_INT8 = 2,
};

// Status of a call.
enum lifeline_status : int32_t {
    LIFELINE_OK = 0,
    LIFELINE_UNAVAILABLE = 1,    // the processor lacks the instruction set
    LIFELINE_OUT_OF_MEMORY = 2,
    LIFELINE_OUT_OF_RANGE = 3,   // an index is outside its array
};

// The secret seed of the hash of item ids. See store/id_hash.py.
struct lifeline_seed {
    uint64_t mask;
    uint64_t first;
    uint64_t second;
};

// One sequence's events, oldest first.
struct lifeline_events {
    const int64_t *ms;
    const uint64_t *items;
    const uint8_t *types;  // action type ids, from 1
    int64_t count;
};

// Its tokens, oldest first; the arrays have room for as many tokens as there are events.
struct lifeline_merged {
    int64_t *newest;       // each token's newest event
    uint64_t *types;       // bit id - 1 for each action type
    int64_t count;
    int64_t probes;        // hash slots visited after an item's first
};

// One user's tokens, c candidates, and the arrays for S_all of each candidate. See scorer/selection.py.
struct lifeline_selection {
    const int8_t *explicit_rows;    // [explicit_count][32], oldest first
    const int8_t *impression_rows;  // [impression_count][32], oldest first
    const int8_t *candidates;       // [candidate_count][32]
    int64_t explicit_count;
    int64_t impression_count;
    int64_t candidate_count;
    int64_t real_time_from;         // explicit tokens before it are S_LL
    int32_t lifelong_selected;
    int32_t recent_kept;
    int32_t real_time_selected;
    int32_t impressions_selected;
    int64_t *index;                 // [candidate_count][L], L the sum of the four
    float *similarity;              // [candidate_count][L]
    uint8_t *source;                // [candidate_count][L]
    uint8_t *valid;                 // [candidate_count][L]
};

// A request's tokens as the encoder reads them.
struct lifeline_tokens {
    const int8_t *rows;        // [count][32]
    const uint64_t *types;     // [count]: bit id - 1 for each action type
    const uint8_t *surfaces;   // [count]
    const int64_t *ms;         // [count]: milliseconds since 1970
    int64_t count;
    int64_t request_ms;          // the time of the request
};

// The weights of an encoder, by the names of scorer/model.py. Matrices are [in][out]; d = 64.
struct lifeline_weights {
    int32_t layers;
    int32_t ffn;                // a multiple of 32
    int32_t length;             // positions
    int32_t similarity_knots;   // 0: none
    int32_t age_knots;
    float input_scale;
    float age_span;             // log1p of the seconds at the last knot
    const float *action;        // [64][64]
    const float *surface;       // [256][64]
    const float *position;      // [length][64]
    const float *similarity;    // [similarity_knots][64]
    const float *age;           // [age_knots][64]
    const float *match;         // [layers][64][64]: Q K^T log2(e) / 8
    const float *value;         // [layers][64][64]
    const float *widen;         // [layers][64][ffn]
    const float *narrow;        // [layers][ffn][64]
    const float *read_out;      // [64][64], padded with columns of zeros
    const float *read_out_bias; // [64]
    // For int8 alone: the number that 127 stands for in a layer's inputs, in the feed-forward half's inputs and in the
    // values, and that 255 stands for in the wide layer.
    const float *inputs;        // [layers]
    const float *middles;       // [layers]
    const float *values;        // [layers][64]
    const float *wides;         // [layers][ffn]
};

// Selections to encode, and the arrays for the results.
struct lifeline_encoding {
    const int8_t *candidates;   // [candidate_count][32]
    const int64_t *index;       // [candidate_count][length], -1 for the neutral token
    const float *similarity;    // [candidate_count][length]
    const uint8_t *valid;       // [candidate_count][length], a prefix of each row
    int64_t candidate_count;
    int32_t length;             // at most that of the weights
    float *read_out;            // [candidate_count][64]
    float *outputs;             // [candidate_count][length][64]: of the last layer; may be null
};

// Cross and heads, as scorer/model.py has them. The matrices are [in][out], the cross's and then the MLP's.
struct lifeline_heads {
    int32_t width;              // of a candidate's input
    int32_t cross_layers;       // [width][width] each
    int32_t mlp_layers;         // at least one: the last gives the logits, a ReLU follows each of the others
    const int32_t *sizes;       // [mlp_layers]: outputs of each
    const float *const *matrices;
    const float *const *biases;
};

// LIFELINE_ABI_VERSION of the library.
LIFELINE_API int32_t lifeline_abi_version(void);
// The best instruction set that the processor has.
LIFELINE_API int32_t lifeline_instruction_set(void);
// Merges the events of a visit on one item into one token; a pause longer than `gap_ms` starts a visit. OK or
// OUT_OF_MEMORY.
LIFELINE_API int32_t lifeline_merge(const lifeline_events *events, int64_t gap_ms, const lifeline_seed *seed,
                                    lifeline_merged *merged);
// Sets for each event of `shown` whether an event of `acted` on the same item is in the same visit; here visits are runs
// of events of both kinds. OK or OUT_OF_MEMORY.
LIFELINE_API int32_t lifeline_engaged(const lifeline_events *shown, const lifeline_events *acted, int64_t gap_ms,
                                      const lifeline_seed *seed, uint8_t *engaged);
// Packs the weights for an instruction set and a precision. Null if the processor lacks the instruction set, if that has
// no products of the precision, or if memory ran out.
LIFELINE_API void *lifeline_encoder_new(const lifeline_weights *weights, int32_t instruction_set, int32_t precision);
LIFELINE_API void lifeline_encoder_free(void *encoder);
// Encodes every candidate's selection. OK, OUT_OF_MEMORY, or OUT_OF_RANGE: an index is not that of a token, or a
// candidate's position 0 is not valid.
LIFELINE_API int32_t lifeline_encode(const void *encoder, const lifeline_tokens *tokens, const lifeline_encoding *job,
                                     int32_t threads);
// Null if the processor lacks the instruction set, or if memory ran out.
LIFELINE_API void *lifeline_heads_new(const lifeline_heads *heads, int32_t instruction_set);
LIFELINE_API void lifeline_heads_free(void *heads);
// Computes [count][heads] logits from [count][width] inputs. OK or OUT_OF_MEMORY.
LIFELINE_API int32_t lifeline_logits(const void *heads, const float *inputs, int64_t count, float *logits, int32_t threads);
// Finds the newest of `count` tokens on each of `item_count` items; -1 if there is none. OK or OUT_OF_MEMORY.
LIFELINE_API int32_t lifeline_last_touch(const uint64_t *tokens, int64_t count, const uint64_t *items, int64_t item_count,
                                         const lifeline_seed *seed, int64_t *newest);
// Selects S_all for every candidate. OK, UNAVAILABLE or OUT_OF_MEMORY.
LIFELINE_API int32_t lifeline_select(const lifeline_selection *job, int32_t instruction_set, int32_t threads);
