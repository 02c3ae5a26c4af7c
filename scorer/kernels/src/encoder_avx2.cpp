// The encoder in float32, with AVX2.
#include "vector_avx2.h"

#include "encoder_blocks.h"

const EncoderFunctions AVX2_ENCODER = {Single::pack, word_count<Single>, complete,
                                         Layers<Single>::TOKEN_ROW, make_rows<Single>, Layers<Single>::scratch, encode<Single>};
