// Cross and heads with AVX-512.
#include "vector_avx512.h"

#include "heads_blocks.h"

const HeadsFunction AVX512_HEADS = heads_of;
