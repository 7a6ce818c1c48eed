// What decoding of language models on the CPU is made of: products of a few rows with a large matrix, which cost
// what reading the matrix costs, and attention of one new token to those before it. Activations are f32; matrices
// are f32, bf16, f16, or 8-bit integers with a scale for each row.
//
// libtorch's own products of one row read f32 at the speed of memory, but bf16 at 60 % and int8 at a tenth to a half
// of it, and of four rows of f32 at half of it (measured with AVX-512 on two cores). Each number here is summed in an order that
// does not depend on the number of rows, so a sequence is the same to the last bit in batches of any size.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>
#include <vector>

#include "guard.h"
#include "kernel.h"

namespace {

constexpr int64_t WIDE = 16;
typedef float floats __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef int32_t ints __attribute__((vector_size(64)));
typedef uint16_t shorts __attribute__((vector_size(32)));
typedef _Float16 halves __attribute__((vector_size(32)));
typedef int8_t bytes __attribute__((vector_size(16)));

struct bf16 {
  uint16_t bits;
};

INLINE void load(const float* p, floats& v) { std::memcpy(&v, p, sizeof v); }

INLINE void load(const bf16* p, floats& v) {
  shorts s;
  std::memcpy(&s, p, sizeof s);
  const words w = __builtin_convertvector(s, words) << 16;
  std::memcpy(&v, &w, sizeof v);
}

INLINE void load(const _Float16* p, floats& v) {
  halves h;
  std::memcpy(&h, p, sizeof h);
  v = __builtin_convertvector(h, floats);
}

INLINE void load(const int8_t* p, floats& v) {
  bytes b;
  std::memcpy(&b, p, sizeof b);
  v = __builtin_convertvector(__builtin_convertvector(b, ints), floats);
}

INLINE float single(float v) { return v; }
INLINE float single(_Float16 v) { return float(v); }
INLINE float single(int8_t v) { return float(v); }
INLINE float single(bf16 v) {
  const uint32_t w = uint32_t(v.bits) << 16;
  float f;
  std::memcpy(&f, &w, sizeof f);
  return f;
}

INLINE float total(const floats& v) {
  float a[WIDE];
  std::memcpy(a, &v, sizeof a);
  for (int step = WIDE / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) a[i] += a[i + step];
  return a[0];
}

// out[r][n] = sum_i x[r][i] w[n][i].
template <int R, int N, class W>
INLINE void tile(const float* x, const W* w, int64_t k, float out[R][N]) {
  floats sum[R][N] = {};
  int64_t i = 0;
  for (; i + WIDE <= k; i += WIDE) {
    floats a[R];
    for (int r = 0; r < R; ++r) load(x + r * k + i, a[r]);
    for (int n = 0; n < N; ++n) {
      floats b;
      load(w + n * k + i, b);
      // Rows of the next tile, and of one further on into the second cache, which has more requests under way: they lie too
      // far for the processor to foresee (one thread, bf16 of 768 columns: 7 GB/s with neither, 10.7 with the first, 12.9).
      if (i % (64 / int64_t(sizeof(W))) == 0) {
        __builtin_prefetch(w + (n + N) * k + i);
        __builtin_prefetch(w + (n + 4 * N) * k + i, 0, 2);
      }
      for (int r = 0; r < R; ++r) sum[r][n] += a[r] * b;
    }
  }
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) {
      float s = total(sum[r][n]);
      for (int64_t j = i; j < k; ++j) s += x[r * k + j] * single(w[n * k + j]);
      out[r][n] = s;
    }
}

struct Product {
  const float* x;  // [m, k]
  int64_t m, n, k;
  const float *scale, *bias, *add;  // [n], [n], [m, n], or null
  float* y;                         // [m, n]
};

template <int R, int N, class W>
INLINE void finish(const Product& p, const W* w, int64_t row, int64_t col) {
  float out[R][N];
  tile<R, N>(p.x + row * p.k, w + col * p.k, p.k, out);
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) {
      const int64_t at = (row + r) * p.n + col + n;
      float v = out[r][n];
      if (p.scale) v *= p.scale[col + n];
      if (p.bias) v += p.bias[col + n];
      if (p.add) v += p.add[at];
      p.y[at] = v;
    }
}

// Columns [from, to) of the product: rows of the matrix, four at a time while they are in the cache.
template <class W>
INLINE void span(const Product& p, const W* w, int64_t from, int64_t to) {
  int64_t col = from;
  for (; col + 4 <= to; col += 4) {
    int64_t row = 0;
    for (; row + 4 <= p.m; row += 4) finish<4, 4>(p, w, row, col);
    for (; row + 2 <= p.m; row += 2) finish<2, 4>(p, w, row, col);
    for (; row < p.m; ++row) finish<1, 4>(p, w, row, col);
  }
  for (; col < to; ++col)
    for (int64_t row = 0; row < p.m; ++row) finish<1, 1>(p, w, row, col);
}

CLONES void span_f32(const Product& p, const float* w, int64_t from, int64_t to) { span(p, w, from, to); }
CLONES void span_bf16(const Product& p, const bf16* w, int64_t from, int64_t to) { span(p, w, from, to); }
CLONES void span_f16(const Product& p, const _Float16* w, int64_t from, int64_t to) { span(p, w, from, to); }
CLONES void span_i8(const Product& p, const int8_t* w, int64_t from, int64_t to) { span(p, w, from, to); }

CLONES void rms_row(const float* x, const float* w, float* y, int64_t n, float eps, float offset) {
  floats sum = {};
  int64_t i = 0;
  for (; i + WIDE <= n; i += WIDE) {
    floats v;
    load(x + i, v);
    sum += v * v;
  }
  float squares = total(sum);
  for (; i < n; ++i) squares += x[i] * x[i];
  const float by = 1.0f / std::sqrt(squares / float(n) + eps);
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) y[j] = x[j] * by * (w[j] + offset);
}

// --- attention of one token ---------------------------------------------------------------------

struct Attention {
  int64_t heads, groups, dim;  // heads of queries, heads of keys and values, numbers of a head
  int64_t capacity, at;        // places of the cache, and that of the token
  int64_t window;              // tokens it looks back at, itself included; 0 for all
  float scale, cap, eps;
  const float *cos, *sin;        // [positions, dim / 2], or null
  const float *q_norm, *k_norm;  // [dim], or null
};

INLINE float dot(const float* a, const float* b, int64_t n) {
  floats sum = {};
  int64_t i = 0;
  for (; i + WIDE <= n; i += WIDE) {
    floats u, v;
    load(a + i, u);
    load(b + i, v);
    sum += u * v;
  }
  float s = total(sum);
  for (; i < n; ++i) s += a[i] * b[i];
  return s;
}

// A query or key: normalised, turned by its position, scaled.
INLINE void prepare(const Attention& a, const float* from, const float* norm, int64_t position, float scale, float* to) {
  const int64_t n = a.dim, half = n / 2;
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
  if (norm) {
    const float by = 1.0f / std::sqrt(dot(from, from, n) / float(n) + a.eps);
    for (int64_t i = 0; i < n; ++i) to[i] = to[i] * by * norm[i];
  }
  if (a.cos) {
    const float *c = a.cos + position * half, *s = a.sin + position * half;
    for (int64_t i = 0; i < half; ++i) {
      const float u = to[i], v = to[i + half];
      to[i] = u * c[i] - v * s[i];
      to[i + half] = v * c[i] + u * s[i];
    }
  }
  for (int64_t i = 0; i < n; ++i) to[i] *= scale;
}

// The heads that share the keys `k` and values `v` [capacity, dim] of group `g`. `row` holds queries, keys and values
// of the token, `pad` is the number of places before its sequence; `work` holds rep (dim + at + 1) numbers.
CLONES void attend_group(const Attention& a, const float* row, int64_t g, int64_t pad, float* k, float* v, float* out,
                         float* work) {
  const int64_t d = a.dim, rep = a.heads / a.groups, n = a.at + 1;
  const int64_t from = std::max(pad, a.window > 0 ? n - a.window : int64_t(0));
  const int64_t position = a.at - pad;
  prepare(a, row + (a.heads + g) * d, a.k_norm, position, 1.0f, k + a.at * d);
  std::memcpy(v + a.at * d, row + (a.heads + a.groups + g) * d, d * sizeof(float));
  float *q = work, *p = work + rep * d;
  for (int64_t r = 0; r < rep; ++r) prepare(a, row + (g * rep + r) * d, a.q_norm, position, a.scale, q + r * d);
  for (int64_t t = from; t < n; ++t)
    for (int64_t r = 0; r < rep; ++r) p[r * n + t] = dot(q + r * d, k + t * d, d);
  for (int64_t r = 0; r < rep; ++r) {
    float* s = p + r * n;
    if (a.cap > 0)
      for (int64_t t = from; t < n; ++t) s[t] = a.cap * std::tanh(s[t] / a.cap);
    float top = s[from];
    for (int64_t t = from; t < n; ++t) top = std::max(top, s[t]);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = from; t < n; ++t) {
      s[t] = exp_of(s[t] - top);
      sum += s[t];
    }
    const float by = 1.0f / sum;
    for (int64_t t = from; t < n; ++t) s[t] *= by;
  }
  float* y = out + g * rep * d;
  for (int64_t i = 0; i < rep * d; ++i) y[i] = 0;
  for (int64_t t = from; t < n; ++t)
    for (int64_t r = 0; r < rep; ++r) {
      const float w = p[r * n + t];
      const float* value = v + t * d;
#pragma omp simd
      for (int64_t i = 0; i < d; ++i) y[r * d + i] += w * value[i];
    }
}

const float* floats_of(const at::Tensor* t, int64_t n, const char* what) {
  if (!t) return nullptr;
  TORCH_CHECK(t->device().is_cpu() && t->scalar_type() == at::kFloat && t->is_contiguous() && t->numel() == n, what,
              ": ", n, " contiguous f32 numbers on the CPU are needed");
  return t->data_ptr<float>();
}

}  // namespace

// y = x w^T * scale + bias + add for x [..., k], w [n, k].
extern "C" int gen_linear_rows(at::Tensor* x, at::Tensor* w, at::Tensor* scale, at::Tensor* bias, at::Tensor* add,
                               at::Tensor** out) {
  return guarded([&] {
    TORCH_CHECK(x->dim() > 0 && w->dim() == 2 && x->size(-1) == w->size(1), "a product of ", x->sizes(), " and ",
                w->sizes(), " is not defined");
    TORCH_CHECK(w->device().is_cpu() && w->is_contiguous(), "few rows: a contiguous matrix on the CPU is needed");
    const int64_t n = w->size(0), k = w->size(1), m = k > 0 ? x->numel() / k : 0;
    auto sizes = x->sizes().vec();
    sizes.back() = n;
    auto y = at::empty(sizes, x->options());
    const Product p = {floats_of(x, m * k, "rows"),      m, n, k, floats_of(scale, n, "scales"), floats_of(bias, n, "bias"),
                       floats_of(add, m * n, "residual"), y.data_ptr<float>()};
    const void* data = w->data_ptr();
    const auto kind = w->scalar_type();
    TORCH_CHECK(kind == at::kFloat || kind == at::kBFloat16 || kind == at::kHalf || kind == at::kChar,
                "few rows: a matrix of f32, bf16, f16 or int8 is needed");
    // Blocks of four rows of the matrix; at least 64 kB of work for a thread.
    const int64_t blocks = (n + 3) / 4, grain = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, k * m));
    at::parallel_for(0, blocks, grain, [&](int64_t first, int64_t last) {
      const int64_t from = first * 4, to = std::min(n, last * 4);
      if (kind == at::kFloat) span_f32(p, static_cast<const float*>(data), from, to);
      else if (kind == at::kBFloat16) span_bf16(p, static_cast<const bf16*>(data), from, to);
      else if (kind == at::kHalf) span_f16(p, static_cast<const _Float16*>(data), from, to);
      else span_i8(p, static_cast<const int8_t*>(data), from, to);
    });
    *out = new at::Tensor(std::move(y));
  });
}

// y = x / sqrt(mean(x^2) + eps) * (w + offset) over the last axis.
extern "C" int gen_rms_norm(at::Tensor* x, at::Tensor* w, double eps, double offset, at::Tensor** out) {
  return guarded([&] {
    const int64_t n = w->numel(), rows = n > 0 ? x->numel() / n : 0;
    TORCH_CHECK(x->dim() > 0 && x->size(-1) == n, "RMS norm of ", x->sizes(), " with ", n, " weights");
    const float *from = floats_of(x, rows * n, "RMS norm"), *weight = floats_of(w, n, "RMS norm");
    auto y = at::empty_like(*x);
    float* to = y.data_ptr<float>();
    at::parallel_for(0, rows, std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, n)), [&](int64_t a, int64_t b) {
      for (int64_t i = a; i < b; ++i) rms_row(from + i * n, weight, to + i * n, n, float(eps), float(offset));
    });
    *out = new at::Tensor(std::move(y));
  });
}

// Attention of the token at place `at` of every sequence: `qkv` [B, (heads + 2 groups) dim]; its key and value are
// written to the caches `k`, `v` [B, groups, capacity, dim]. `pads` [B] i64. The result is [B, heads dim].
extern "C" int gen_attend_step(at::Tensor* qkv, at::Tensor* cos, at::Tensor* sin, at::Tensor* q_norm, at::Tensor* k_norm,
                               double eps, at::Tensor* k, at::Tensor* v, at::Tensor* pads, int64_t at, int64_t window,
                               double scale, double cap, at::Tensor** out) {
  return guarded([&] {
    TORCH_CHECK(qkv->dim() == 2 && k->dim() == 4 && k->sizes() == v->sizes(), "attention of one token: wrong shapes");
    const int64_t batch = qkv->size(0), groups = k->size(1), capacity = k->size(2), dim = k->size(3);
    TORCH_CHECK(dim > 0 && groups > 0 && k->size(0) == batch && qkv->size(1) % dim == 0, "attention of one token: wrong shapes");
    const int64_t heads = qkv->size(1) / dim - 2 * groups;
    TORCH_CHECK(heads > 0 && heads % groups == 0 && dim % 2 == 0 && at >= 0 && at < capacity,
                "attention of one token: place ", at, " of ", capacity, ", ", heads, " heads in ", groups, " groups");
    TORCH_CHECK(pads->scalar_type() == at::kLong && pads->is_contiguous() && pads->numel() == batch && pads->device().is_cpu(),
                "attention of one token: wrong padding");
    const int64_t* pad = pads->data_ptr<int64_t>();
    const int64_t cache = k->numel(), table = cos ? cos->numel() : 0;
    for (int64_t b = 0; b < batch; ++b)
      TORCH_CHECK(pad[b] >= 0 && pad[b] <= at && (!cos || (at - pad[b] + 1) * (dim / 2) <= table),
                  "attention of one token: position out of range");
    const Attention a = {heads, groups, dim, capacity, at, window, float(scale), float(cap), float(eps),
                         floats_of(cos, table, "table"), floats_of(sin, table, "table"),
                         floats_of(q_norm, dim, "norm"), floats_of(k_norm, dim, "norm")};
    const float* rows = floats_of(qkv, qkv->numel(), "queries");
    float* keys = const_cast<float*>(floats_of(k, cache, "keys"));
    float* values = const_cast<float*>(floats_of(v, cache, "values"));
    auto y = at::empty({batch, heads * dim}, qkv->options());
    float* to = y.data_ptr<float>();
    const int64_t rep = heads / groups, row = qkv->size(1), size = capacity * dim;
    const int64_t grain = std::max<int64_t>(1, (1 << 13) / ((at + 1) * dim * rep));
    at::parallel_for(0, batch * groups, grain, [&](int64_t first, int64_t last) {
      std::vector<float> work(rep * (dim + at + 1));
      for (int64_t i = first; i < last; ++i) {
        const int64_t b = i / groups, g = i % groups;
        attend_group(a, rows + b * row, g, pad[b], keys + i * size, values + i * size, to + b * heads * dim, work.data());
      }
    });
    *out = new at::Tensor(std::move(y));
  });
}
