// The C ABI of the kernels. Structures are laid out like their ctypes twins in scorer/kernels/library.py.
#pragma once

#include <cstdint>

#if defined(__GNUC__)
#define LIFELINE_API extern "C" __attribute__((visibility("default")))
#endif

// Instruction sets, each one including those before it.
enum lifeline_level : int32_t {
    LIFELINE_NONE = 0,
    LIFELINE_AVX2 = 1,    // and FMA
    LIFELINE_AVX512 = 2,  // F, BW, DQ, VL
    LIFELINE_BF16 = 3,    // and VNNI and BF16
};

// One user's tokens, c candidates, and where S_all of each candidate goes. See scorer/selection.py.
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

LIFELINE_API int32_t lifeline_level(void);
// 0; 1 where the processor lacks the level, 2 where memory is short.
LIFELINE_API int32_t lifeline_select(const lifeline_selection *job, int32_t level, int32_t threads);
