// The encoder in float32, with AVX2.
#include "vector_avx2.h"

#include "encoder_blocks.h"

const EncoderFunctions AVX2_ENCODER = {Float32::pack, word_count<Float32>, complete,
                                         Layers<Float32>::TOKEN_ROW, make_rows<Float32>, Layers<Float32>::scratch, encode<Float32>};
