// The encoder with products of bfloat16; sums, norms and what is carried from layer to layer are float32.
#include "half.h"

const EncoderFunctions BF16_ENCODER = {Half::pack, word_count<Half>, complete,
                                       Layers<Half>::TOKEN_ROW, make_rows<Half>, Layers<Half>::scratch, encode<Half>};
