"""The Triton kernels. `scorer.gpu.selection` and `scorer.gpu.encoder` launch them, and document the shapes.

Selection: one program per candidate. Registers hold the cosines of a whole pool, as integers in the same order.
Bisection finds the smallest selected key, and the tokens from it on are written in their order, so nothing is sorted.
Encoder: one program for 64 tokens of a candidate, one launch per layer. The keys are the inputs themselves, because the
product Q K^T is applied to the queries. The softmax weights sum the inputs first, and V is applied to the sum, so a
block of earlier tokens is read once and serves both products.
"""

import triton
import triton.language as tl

LIFELONG, RECENT, REAL_TIME, IMPRESSION = (tl.constexpr(number) for number in (1, 2, 3, 4))
_MIN_KEY = tl.constexpr(-(1 << 31))
_MAX_KEY = tl.constexpr((1 << 31) - 1)
_EPSILON = tl.constexpr(1e-5)


@triton.jit
def _cosines(tokens, stride, norms, candidate, own_norm, start, stop, BLOCK: tl.constexpr, CHANNELS: tl.constexpr):
    """Return places, cosines, and which cosines are known, of tokens start..stop; tokens are [CHANNELS][stride]."""
    place = start + tl.arange(0, BLOCK)
    is_valid = place < stop
    dot = tl.zeros((BLOCK,), tl.int32)
    for channel in range(CHANNELS):
        factor = tl.load(candidate + channel).to(tl.int32)
        dot += factor * tl.load(tokens + channel * stride + place, mask=is_valid, other=0).to(tl.int32)
    norm = tl.load(norms + place, mask=is_valid, other=0.0)
    # Rounded after each product, like the other backends; -0 becomes 0.
    cosine = (dot.to(tl.float32) * own_norm) * norm
    cosine = tl.where(cosine == 0, 0.0, cosine)
    # The norm is 0 for a missing token and for a zero vector.
    return place, cosine, norm * own_norm > 0


@triton.jit
def _put(outputs_index, similarity, source, at, place, cosine, kept, kind):
    tl.store(outputs_index + at, place, mask=kept)
    tl.store(similarity + at, cosine, mask=kept)
    tl.store(source + at, kind, mask=kept)


@triton.jit
def _nearest(
    tokens, stride, norms, candidate, own_norm, start, stop, wanted, used,
    index, similarity, source, kind, BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write the nearest of a pool after the first `used` places, oldest first; return the new `used`."""
    place, cosine, known = _cosines(tokens, stride, norms, candidate, own_norm, start, stop, BLOCK, CHANNELS)
    bits = cosine.to(tl.int32, bitcast=True)
    key = tl.where(known, bits ^ ((bits >> 31) & 0x7FFFFFFF), _MIN_KEY)
    # Bisection for the greatest key that `wanted` tokens reach; the least key if there are fewer tokens.
    low = tl.full((), _MIN_KEY + 1, tl.int64)
    high = tl.full((), _MAX_KEY, tl.int64)
    for _ in range(32):
        middle = low + (high - low + 1) // 2
        enough = tl.sum((key >= middle).to(tl.int32)) >= wanted
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    equal = (key == low).to(tl.int32)
    too_many = tl.maximum(tl.sum((key >= low).to(tl.int32)) - wanted, 0)
    # Of equal keys, keep the newer tokens.
    kept = known & ((key > low) | ((equal > 0) & (tl.cumsum(equal, 0) > too_many)))
    rank = tl.cumsum(kept.to(tl.int32), 0)
    _put(index, similarity, source, used + rank - 1, place, cosine, kept, kind)
    return used + tl.sum(kept.to(tl.int32))


@triton.jit
def select(
    tokens, stride, norms, candidates, candidate_norms, bounds,
    index, similarity, source,
    wanted_lifelong, wanted_real_time, wanted_impressions,
    LENGTH: tl.constexpr, POOL: tl.constexpr, SMALL: tl.constexpr, FILL: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Select for one candidate from three pools, and the recent tokens; `bounds`, int32[4], are the pool ends."""
    row = tl.program_id(0)
    candidate = candidates + row * CHANNELS
    own_norm = tl.load(candidate_norms + row)
    lifelong, recent, explicit, every = (
        tl.load(bounds), tl.load(bounds + 1), tl.load(bounds + 2), tl.load(bounds + 3)
    )  # fmt: skip
    index += row * LENGTH
    similarity += row * LENGTH
    source += row * LENGTH
    used = _nearest(tokens, stride, norms, candidate, own_norm, 0, lifelong, wanted_lifelong, 0,
                    index, similarity, source, LIFELONG, POOL, CHANNELS)  # fmt: skip
    place, cosine, known = _cosines(tokens, stride, norms, candidate, own_norm, recent, explicit, SMALL, CHANNELS)
    newest = place < explicit
    _put(index, similarity, source, used + place - recent, place, tl.where(known, cosine, 0.0), newest, RECENT)
    used += explicit - recent
    used = _nearest(tokens, stride, norms, candidate, own_norm, lifelong, recent, wanted_real_time, used,
                    index, similarity, source, REAL_TIME, SMALL, CHANNELS)  # fmt: skip
    used = _nearest(tokens, stride, norms, candidate, own_norm, explicit, every, wanted_impressions, used,
                    index, similarity, source, IMPRESSION, SMALL, CHANNELS)  # fmt: skip
    rest = tl.arange(0, FILL)
    _put(index, similarity, source, rest, -1, 0.0, (rest >= used) & (rest < LENGTH), 0)


@triton.jit
def _norm(x, WIDTH: tl.constexpr):
    x = x - (tl.sum(x, 1) / WIDTH)[:, None]
    return x * (1.0 / tl.sqrt(tl.sum(x * x, 1) / WIDTH + _EPSILON))[:, None]


@triton.jit
def _dot(a, b, LOW: tl.constexpr):
    """Return a matrix product with operands of float32 or bfloat16; the sums are float32."""
    if LOW:
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _load_x(
    x, index, similarity, position, candidate, knots, neutral, at, count,
    FIRST: tl.constexpr, KNOTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Return a layer's inputs, float32[BLOCK, WIDTH]; those of the first layer are gathered and summed here."""
    channel = tl.arange(0, WIDTH)
    is_valid = at < count
    if not FIRST:
        return tl.load(x + at[:, None] * WIDTH + channel[None, :], mask=is_valid[:, None], other=0.0)
    row = tl.load(index + at, mask=is_valid, other=-1)
    row = tl.where(row < 0, neutral, row)
    inputs = tl.load(x + row[:, None] * WIDTH + channel[None, :])
    inputs += tl.load(position + at[:, None] * WIDTH + channel[None, :], mask=is_valid[:, None], other=0.0)
    inputs += tl.load(candidate + channel)[None, :]
    if KNOTS:
        cosine = tl.load(similarity + at, mask=is_valid, other=0.0)
        knot = tl.minimum(tl.maximum((cosine + 1) / 2, 0.0), 1.0) * (KNOTS - 1)
        low = tl.minimum(knot.to(tl.int32), KNOTS - 2)
        share = (knot - low.to(tl.float32))[:, None]
        below = tl.load(knots + low[:, None] * WIDTH + channel[None, :])
        above = tl.load(knots + (low + 1)[:, None] * WIDTH + channel[None, :])
        inputs += (1 - share) * below + share * above
    return inputs


@triton.jit
def encode_layer(
    x, index, similarity, counts, position, candidates, knots, neutral,
    match, value, widen, narrow, read_out, bias,
    out, best,
    LENGTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, FFN: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, KNOTS: tl.constexpr, LOW: tl.constexpr,
):  # fmt: skip
    """Encode BLOCK tokens of one candidate; the last layer also max-pools the read-out."""
    row, block = tl.program_id(0), tl.program_id(1)
    count = tl.load(counts + row)
    if FIRST:
        index += row * LENGTH
        similarity += row * LENGTH
    else:
        x += row * PADDED * WIDTH
    candidates += row * WIDTH
    channel, inner, wide = tl.arange(0, WIDTH), tl.arange(0, BLOCK), tl.arange(0, FFN)
    square = channel[:, None] * WIDTH + channel[None, :]
    at = block * BLOCK + inner
    own = _load_x(x, index, similarity, position, candidates, knots, neutral, at, count, FIRST, KNOTS, WIDTH)
    query = _dot(own, tl.load(match + square), LOW)
    greatest = tl.full((BLOCK,), -1e30, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    attended = tl.zeros((BLOCK, WIDTH), tl.float32)
    for earlier in range(block + 1):
        keys = earlier * BLOCK + inner
        other = _load_x(x, index, similarity, position, candidates, knots, neutral, keys, count, FIRST, KNOTS, WIDTH)
        score = _dot(query, tl.trans(other), LOW)
        score = tl.where((keys[None, :] <= at[:, None]) & (keys < count)[None, :], score, -1e30)
        higher = tl.maximum(greatest, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        rescale = tl.exp2(greatest - higher)
        total = total * rescale + tl.sum(weight, 1)
        attended = attended * rescale[:, None] + _dot(weight, other, LOW)
        greatest = higher
    y = _norm(own + _dot(attended / total[:, None], tl.load(value + square), LOW), WIDTH)
    up = tl.load(widen + channel[:, None] * FFN + wide[None, :])
    down = tl.load(narrow + wide[:, None] * WIDTH + channel[None, :])
    y = _norm(y + _dot(tl.maximum(_dot(y, up, LOW), 0.0), down, LOW), WIDTH)
    tl.store(out + (row * PADDED + at)[:, None] * WIDTH + channel[None, :], y)
    if LAST:
        read = _dot(y, tl.load(read_out + square), LOW) + tl.load(bias + channel)[None, :]
        read = tl.where((at < count)[:, None], read, float("-inf"))
        blocks = PADDED // BLOCK
        tl.store(best + (row * blocks + block) * WIDTH + channel, tl.max(read, 0))
