// Cross and heads with AVX2 and FMA.
#include "vector_avx2.h"

#include "heads_blocks.h"

const HeadsFunction AVX2_HEADS = heads_of;
