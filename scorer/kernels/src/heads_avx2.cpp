// Cross and heads with AVX2 and FMA.
#include "vector_avx2.h"

#include "heads_blocks.h"

void heads_avx2(const HeadsPrepared &heads, const float *inputs, int rows, float *scratch, float *logits) {
    heads_of(heads, inputs, rows, scratch, logits);
}
