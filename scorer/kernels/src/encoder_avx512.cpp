// The encoder in float32, with AVX-512.
#include "vector_avx512.h"

#include "encoder_blocks.h"

const EncoderFunctions AVX512_ENCODER = {Single::pack, word_count<Single>, complete,
                                         Layers<Single>::TOKEN_ROW, make_rows<Single>, Layers<Single>::scratch, encode<Single>};
