// Cross and heads with AVX-512.
#include "vector_avx512.h"

#include "heads_blocks.h"

void heads_avx512(const HeadsPrepared &heads, const float *inputs, int rows, float *scratch, float *logits) {
    heads_of(heads, inputs, rows, scratch, logits);
}
