// The encoder with products of bfloat16; sums, norms and what is carried from layer to layer are float32.
#include "bfloat16.h"

const EncoderFunctions BF16_ENCODER = {Bfloat16::pack, word_count<Bfloat16>, complete,
                                       Layers<Bfloat16>::TOKEN_ROW, make_rows<Bfloat16>, Layers<Bfloat16>::scratch, encode<Bfloat16>};
