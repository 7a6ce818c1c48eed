// One step of a SaShiMi network for a few sequences, start to finish. Compiled once for each instruction set under
// the name GEN_STEP; it includes nothing whose inline functions could leak into the rest of the program.

#include "exp.h"
#include "step_kernel.h"

#include <math.h>

INLINE double exp_of(double x) { return exp(x); }

namespace {

template <typename T>
struct Lanes {
  typedef T V __attribute__((vector_size(64), aligned(8), may_alias));
  static constexpr int64_t L = 64 / sizeof(T);
};
template <>
struct Lanes<float> {
  typedef float V __attribute__((vector_size(64), aligned(4), may_alias));
  static constexpr int64_t L = 16;
};

template <typename T>
INLINE typename Lanes<T>::V load(const T* p) { return *(const typename Lanes<T>::V*)p; }
template <typename T>
INLINE void store(T* p, typename Lanes<T>::V v) { *(typename Lanes<T>::V*)p = v; }

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7, that of f32 itself.
INLINE float erf_of(float x) {
  const float a = x < 0 ? -x : x;
  const float t = 1.0f / (1.0f + 0.3275911f * a);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float e = 1.0f - p * t * exp_of(-a * a);
  return x < 0 ? -e : e;
}
INLINE double erf_of(double x) { return erf(x); }

template <typename T>
INLINE T gelu(T x) { return T(0.5) * x * (T(1) + erf_of(x * T(0.70710678118654752440))); }

template <typename T>
void gelu_all(T* x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] = gelu(x[i]);
}

// y += v sigmoid(g).
template <typename T>
void add_gated(const T* v, const T* g, T* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += v[i] / (T(1) + exp_of(-g[i]));
}

template <typename T>
void add_to(const T* x, T* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

template <typename T>
void copy(const T* x, T* y, int64_t n) { memcpy(y, x, n * sizeof(T)); }

template <typename T>
void normalise(const GenNorm& norm, const T* x, T* y, int64_t h, int64_t hp) {
  T sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < h; ++i) sum += x[i];
  const T mean = sum / T(h);
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < h; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const T* a = (const T*)norm.a;
  if (norm.kind == 0) {
    const T scale = a[1] / T(sqrt(squares / T(h))), shift = mean - a[0];
#pragma omp simd
    for (int64_t i = 0; i < h; ++i) y[i] = (x[i] - shift) * scale;
  } else {
    const T* b = (const T*)norm.b;
    const T scale = T(1) / T(sqrt(squares / T(h) + T(1e-5)));
#pragma omp simd
    for (int64_t i = 0; i < h; ++i) y[i] = (x[i] - mean) * scale * a[i] + b[i];
  }
  for (int64_t i = h; i < hp; ++i) y[i] = 0;
}

// R rows by J tiles of outputs.
template <typename T, int R, int J>
INLINE void map_block(const T* w, const T* b, int64_t in, const T* x, int64_t xs, T* y, int64_t ys) {
  constexpr int64_t L = Lanes<T>::L;
  typename Lanes<T>::V acc[R][J];
  for (int j = 0; j < J; ++j)
    for (int r = 0; r < R; ++r) acc[r][j] = load(b + j * L);
  for (int64_t k = 0; k < in; ++k)
    for (int j = 0; j < J; ++j) {
      const typename Lanes<T>::V v = load(w + (j * in + k) * L);
      for (int r = 0; r < R; ++r) acc[r][j] += v * x[r * xs + k];
    }
  for (int j = 0; j < J; ++j)
    for (int r = 0; r < R; ++r) store(y + r * ys + j * L, acc[r][j]);
}

template <typename T, int R, int J>
INLINE int64_t map_tiles(const GenMap& m, int64_t tile, const T* x, int64_t xs, T* y, int64_t ys) {
  constexpr int64_t L = Lanes<T>::L;
  const int64_t tiles = m.out / L;
  for (; tile + J <= tiles; tile += J)
    map_block<T, R, J>((const T*)m.w + tile * m.in * L, (const T*)m.b + tile * L, m.in, x, xs, y + tile * L, ys);
  return tile;
}

// y = W x + b for `rows` rows at distances xs and ys.
template <typename T>
void map(const GenMap& m, int64_t rows, const T* x, int64_t xs, T* y, int64_t ys) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    int64_t tile = map_tiles<T, 4, 4>(m, 0, x + r * xs, xs, y + r * ys, ys);
    map_tiles<T, 4, 1>(m, tile, x + r * xs, xs, y + r * ys, ys);
  }
  for (; r + 2 <= rows; r += 2) {
    int64_t tile = map_tiles<T, 2, 4>(m, 0, x + r * xs, xs, y + r * ys, ys);
    map_tiles<T, 2, 1>(m, tile, x + r * xs, xs, y + r * ys, ys);
  }
  for (; r < rows; ++r) {
    int64_t tile = map_tiles<T, 1, 8>(m, 0, x + r * xs, xs, y + r * ys, ys);
    tile = map_tiles<T, 1, 4>(m, tile, x + r * xs, xs, y + r * ys, ys);
    map_tiles<T, 1, 1>(m, tile, x + r * xs, xs, y + r * ys, ys);
  }
}

// y = C x + D u after x <- d x - sum_k p_k (w_k . x) + b u, for all features; K >= 0 fixes the rank.
template <typename T, int K>
void ssm(const GenLayer& l, int64_t hp, int64_t rows, const T* u, T* y, int64_t stride, T* state, int64_t ss) {
  constexpr int64_t L = Lanes<T>::L;
  typedef typename Lanes<T>::V V;
  const int64_t n = l.n, rank = K >= 0 ? K : l.rank, fields = 6 + 2 * rank;
  for (int64_t tile = 0; tile < hp / L; ++tile) {
    const T* w = (const T*)l.w + tile * rank * n * 2 * L;
    const T* params = (const T*)l.q + tile * n * fields * L;
    const V d = load((const T*)l.d + tile * L);
    for (int64_t r = 0; r < rows; ++r) {
      T* x = state + r * ss + l.state + tile * n * 2 * L;
      const V in = load(u + r * stride + tile * L);
      V s[K >= 0 ? (K > 0 ? K : 1) : 16];
      for (int64_t k = 0; k < rank; ++k) {
        V even = {}, odd = {};
        const T* row = w + k * n * 2 * L;
        for (int64_t i = 0; i < n; ++i) {
          even += load(row + 2 * i * L) * load(x + 2 * i * L);
          odd += load(row + (2 * i + 1) * L) * load(x + (2 * i + 1) * L);
        }
        s[k] = even + odd;
      }
      V out = d * in, other = {};
      const T* q = params;
      for (int64_t i = 0; i < n; ++i, q += fields * L) {
        const V re = load(x + 2 * i * L), im = load(x + (2 * i + 1) * L);
        const V dr = load(q), di = load(q + L);
        V next = dr * re - di * im + load(q + 2 * L) * in;
        V turn = di * re + dr * im + load(q + 3 * L) * in;
        for (int64_t k = 0; k < rank; ++k) {
          next -= load(q + (6 + 2 * k) * L) * s[k];
          turn -= load(q + (7 + 2 * k) * L) * s[k];
        }
        store(x + 2 * i * L, next);
        store(x + (2 * i + 1) * L, turn);
        out += load(q + 4 * L) * next;
        other += load(q + 5 * L) * turn;
      }
      store(y + r * stride + tile * L, out + other);
    }
  }
}

template <typename T>
struct Run {
  const GenNet& net;
  int64_t rows, ss;
  T* state;

  // x <- x + layer(norm(x)).
  void layer(const GenLayer& l, const GenLevel& at, T* x, T* scratch) {
    const int64_t hp = at.hp, wide = net.widest;
    T *z = scratch, *a = z + rows * wide, *b = a + rows * wide;
    for (int64_t r = 0; r < rows; ++r) normalise(l.norm, x + r * hp, z + r * hp, at.h, hp);
    if (l.kind == 1) {
      const int64_t inner = l.first.out;
      map(l.first, rows, z, hp, a, inner);
      gelu_all(a, rows * inner);
      map(l.second, rows, a, inner, b, hp);
      add_to(b, x, rows * hp);
      return;
    }
    if (l.rank == 0) ssm<T, 0>(l, hp, rows, z, a, hp, state, ss);
    else if (l.rank == 1) ssm<T, 1>(l, hp, rows, z, a, hp, state, ss);
    else ssm<T, -1>(l, hp, rows, z, a, hp, state, ss);
    gelu_all(a, rows * hp);
    map(l.first, rows, a, hp, b, hp);
    if (!l.glu) return add_to(b, x, rows * hp);
    map(l.second, rows, a, hp, z, hp);
    add_gated(b, z, x, rows * hp);
  }

  // One vector at level i, after `done` others, in place.
  void level(int64_t i, int64_t done, T* x, T* scratch) {
    const GenLevel& at = net.level[i];
    const GenLayer* layers = net.layer + at.first;
    const int64_t size = rows * at.hp;
    T *outs = scratch, *delayed = outs + (at.downs + 1) * size, *coarse = delayed + size;
    T* rest = coarse + rows * net.widest;
    copy(x, outs, size);
    for (int64_t k = 0; k < at.downs; ++k) {
      layer(layers[k], at, x, rest);
      copy(x, outs + (k + 1) * size, size);
    }
    if (at.factor == 0) return add_to(outs, x, size);
    const int64_t phase = done % at.factor;
    for (int64_t r = 0; r < rows; ++r) {
      copy(state + r * ss + at.pending + phase * at.hp, delayed + r * at.hp, at.hp);
      copy(x + r * at.hp, state + r * ss + at.group + phase * at.hp, at.hp);
    }
    if (phase == at.factor - 1) {
      map(at.coarser, rows, state + at.group, ss, coarse, net.level[i + 1].hp);
      level(i + 1, done / at.factor, coarse, rest);
      map(at.finer, rows, coarse, net.level[i + 1].hp, state + at.pending, ss);
    }
    add_to(delayed, x, size);
    copy(x, delayed, size);
    for (int64_t k = 0; k < at.ups; ++k) {
      layer(layers[at.downs + k], at, x, rest);
      if (net.unet) add_to(outs + (at.downs - 1 - k) * size, x, size);
    }
    if (!net.unet) add_to(delayed, x, size);
  }

  void all(const GenCall& call) {
    const GenLevel& top = net.level[0];
    T *x = (T*)call.scratch, *z = x + rows * top.hp, *out = z + rows * top.hp;
    for (int64_t r = 0; r < rows; ++r) {
      copy((const T*)net.table + call.tokens[call.from + r] * top.hp, x + r * top.hp, top.hp);
      if (call.class_rows) add_to((const T*)call.class_rows + (call.from + r) * top.hp, x + r * top.hp, top.hp);
    }
    level(0, call.done, x, out + rows * net.head.out);
    for (int64_t r = 0; r < rows; ++r) normalise(net.norm, x + r * top.hp, z + r * top.hp, top.h, top.hp);
    map(net.head, rows, z, top.hp, out, net.head.out);
    for (int64_t r = 0; r < rows; ++r)
      copy(out + r * net.head.out, (T*)call.logits + (call.from + r) * net.vocab, net.vocab);
  }
};

template <typename T>
void step(const GenNet* net, const GenCall* call) {
  Run<T> run{*net, call->rows, net->state_size, (T*)call->state + call->from * net->state_size};
  run.all(*call);
}

}  // namespace

#define NAME2(a, b) a##b
#define NAME(a, b) NAME2(a, b)
extern "C" void NAME(GEN_STEP, _f32)(const GenNet* net, const GenCall* call) { step<float>(net, call); }
extern "C" void NAME(GEN_STEP, _f64)(const GenNet* net, const GenCall* call) { step<double>(net, call); }
