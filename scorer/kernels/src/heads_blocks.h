// Cross and heads. The file that includes this one chooses the instruction set by its `Vector`.
#pragma once

#include <algorithm>
#include <utility>

#include "heads.h"

namespace {

// to = from W + b for HEAD_ROWS rows and COUNT vectors of columns.
template <int COUNT>
void product(const Linear &linear, const float *from, size_t stride, int column, float *to) {
    Vector sum[HEAD_ROWS][COUNT];
    for (int part = 0; part < COUNT; part++)
        for (int row = 0; row < HEAD_ROWS; row++)
            sum[row][part] = Vector::load(linear.bias.data() + column + part * Vector::LANES);
    const float *weights = linear.matrix.data() + column;
    for (int channel = 0; channel < linear.in; channel++, weights += linear.columns) {
        Vector weight[COUNT];
        for (int part = 0; part < COUNT; part++) weight[part] = Vector::load(weights + part * Vector::LANES);
        for (int row = 0; row < HEAD_ROWS; row++) {
            const Vector value = Vector::broadcast(from[row * stride + channel]);
            for (int part = 0; part < COUNT; part++) sum[row][part] = Vector::fma(value, weight[part], sum[row][part]);
        }
    }
    for (int row = 0; row < HEAD_ROWS; row++)
        for (int part = 0; part < COUNT; part++) sum[row][part].store(to + row * stride + column + part * Vector::LANES);
}

template <int COUNT>
void products(const Linear &linear, const float *from, int rows, size_t stride, int column, float *to) {
    for (int row = 0; row < rows; row += HEAD_ROWS)
        product<COUNT>(linear, from + row * stride, stride, column, to + row * stride);
}

void apply(const Linear &linear, const float *from, int rows, size_t stride, float *to) {
    int column = 0;
    for (; column + Vector::GROUP * Vector::LANES <= linear.columns; column += Vector::GROUP * Vector::LANES)
        products<Vector::GROUP>(linear, from, rows, stride, column, to);
    switch ((linear.columns - column) / Vector::LANES) {
        case 3: products<3>(linear, from, rows, stride, column, to); break;
        case 2: products<2>(linear, from, rows, stride, column, to); break;
        case 1: products<1>(linear, from, rows, stride, column, to); break;
        default: break;
    }
}

template <class Change>
void each(float *rows, int count, size_t stride, int columns, const Change &change) {
    for (int row = 0; row < count; row++)
        for (int column = 0; column < columns; column += Vector::LANES) {
            const size_t at = row * stride + column;
            change(Vector::load(rows + at), at).store(rows + at);
        }
}

void heads_of(const HeadsPrepared &heads, const float *inputs, int rows, float *scratch, float *logits) {
    const size_t stride = heads.stride, block = HEAD_BLOCK * stride;
    float *first = scratch, *x = first + block, *next = x + block;
    std::fill_n(first, block, 0.0f);
    for (int row = 0; row < rows; row++) std::copy_n(inputs + row * heads.width, heads.width, first + row * stride);
    std::copy_n(first, block, x);
    for (const Linear &layer : heads.cross) {
        apply(layer, x, rows, stride, next);
        each(next, rows, stride, layer.columns,
             [&](Vector value, size_t at) { return Vector::fma(Vector::load(first + at), value, Vector::load(x + at)); });
        std::swap(x, next);
    }
    for (const Linear &layer : heads.mlp) {
        apply(layer, x, rows, stride, next);
        if (&layer != &heads.mlp.back())
            each(next, rows, stride, layer.columns, [](Vector value, size_t) { return Vector::max(value, Vector::zero()); });
        std::swap(x, next);
    }
    const int out = heads.mlp.back().out;
    for (int row = 0; row < rows; row++) std::copy_n(x + row * stride, out, logits + row * out);
}

}  // namespace
