// Group normalisation (Wu and He 2018) followed by SiLU or nothing, in one pass over memory, on the CPU: f32 and
// bf16 images, contiguous or channels-last, statistics in f32 summed in blocks. libtorch's own kernels read and
// write the image once for the norm and once for SiLU, keep both results for the backward pass, and are slow for
// channels-last images with few channels in a group.
//
// With z = w xhat + b, xhat = (x - mean) rstd, y = z sigmoid(z):
//   dz = dy s (1 + z (1 - s)), s = sigmoid(z);  db = sum dz;  dw = sum dz xhat;
//   dx = rstd (w dz - mean_g(w dz) - xhat mean_g(w dz xhat)), mean_g over the elements of a group.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "guard.h"
#include "kernel.h"

namespace {

INLINE float sigmoid(float z) { return 1.0f / (1.0f + exp_of(-z)); }

INLINE float silu_grad(float z) {
  const float s = sigmoid(z);
  return s * (1.0f + z * (1.0f - s));
}

INLINE float widened(uint16_t v) {
  const uint32_t bits = uint32_t(v) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

// To nearest, ties to even; a NaN stays one.
INLINE uint16_t narrowed(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return f != f ? uint16_t(0x7FC0) : uint16_t(rounded);
}

CLONES void widen(const uint16_t* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = widened(x[i]);
}

CLONES void narrow(const float* x, uint16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = narrowed(x[i]);
}

constexpr int64_t BLOCK = 1024;

// --- one channel after the other ---------------------------------------------------------------

CLONES double sum(const float* x, int64_t n) {
  double total = 0;
  for (int64_t from = 0; from < n; from += BLOCK) {
    const int64_t to = std::min(n, from + BLOCK);
    float part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t i = from; i < to; ++i) part += x[i];
    total += part;
  }
  return total;
}

CLONES double sum_squares(const float* x, int64_t n, float mean) {
  double total = 0;
  for (int64_t from = 0; from < n; from += BLOCK) {
    const int64_t to = std::min(n, from + BLOCK);
    float part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t i = from; i < to; ++i) part += (x[i] - mean) * (x[i] - mean);
    total += part;
  }
  return total;
}

CLONES void affine(const float* x, float* y, int64_t n, float a, float b) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = a * x[i] + b;
}

CLONES void affine_silu(const float* x, float* y, int64_t n, float a, float b) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float z = a * x[i] + b;
    y[i] = z * sigmoid(z);
  }
}

// dz, and the sums of dz and dz (x - mean).
CLONES void grad_in(const float* x, const float* dy, float* dz, int64_t n, float a, float b, float mean, bool silu,
                    double* sums) {
  for (int64_t from = 0; from < n; from += BLOCK) {
    const int64_t to = std::min(n, from + BLOCK);
    float first = 0, second = 0;
    if (silu) {
#pragma omp simd reduction(+ : first, second)
      for (int64_t i = from; i < to; ++i) {
        const float g = dy[i] * silu_grad(a * x[i] + b);
        dz[i] = g;
        first += g;
        second += g * (x[i] - mean);
      }
    } else {
#pragma omp simd reduction(+ : first, second)
      for (int64_t i = from; i < to; ++i) {
        dz[i] = dy[i];
        first += dy[i];
        second += dy[i] * (x[i] - mean);
      }
    }
    sums[0] += first;
    sums[1] += second;
  }
}

CLONES void grad_out(const float* x, const float* dz, float* dx, int64_t n, float p, float q, float r) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) dx[i] = p * dz[i] + q * x[i] + r;
}

// --- one pixel after the other: a row holds all channels ----------------------------------------

CLONES void add_row(const float* x, float* total, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) total[i] += x[i];
}

CLONES void add_square_row(const float* x, const float* mean, float* total, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) total[i] += (x[i] - mean[i]) * (x[i] - mean[i]);
}

CLONES void affine_row(const float* x, float* y, const float* a, const float* b, int64_t n, bool silu) {
  if (silu) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float z = a[i] * x[i] + b[i];
      y[i] = z * sigmoid(z);
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = a[i] * x[i] + b[i];
  }
}

CLONES void grad_in_row(const float* x, const float* dy, float* dz, const float* a, const float* b, const float* mean,
                        float* first, float* second, int64_t n, bool silu) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float g = silu ? dy[i] * silu_grad(a[i] * x[i] + b[i]) : dy[i];
    dz[i] = g;
    first[i] += g;
    second[i] += g * (x[i] - mean[i]);
  }
}

CLONES void grad_out_row(const float* x, const float* dz, float* dx, const float* p, const float* q, const float* r,
                         int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) dx[i] = p[i] * dz[i] + q[i] * x[i] + r[i];
}

// --- images -------------------------------------------------------------------------------------

// Values of an image in f32: where they are, or widened into `room`.
const float* values(const float* x, float*, int64_t) { return x; }
const float* values(const uint16_t* x, float* room, int64_t n) {
  widen(x, room, n);
  return room;
}
// Where results may be written before `store`.
float* target(float* y, float*) { return y; }
float* target(uint16_t*, float* room) { return room; }
void store(const float*, float*, int64_t) {}
void store(const float* from, uint16_t* y, int64_t n) { narrow(from, y, n); }

struct Shape {
  int64_t batch, channels, pixels, groups;
  double eps;
  bool last, silu;
  int64_t width() const { return channels / groups; }
};

// Sums of f32 rows, moved to f64 every few rows.
struct Totals {
  std::vector<float> part;
  std::vector<double> whole;
  int64_t rows = 0;
  explicit Totals(int64_t n) : part(n), whole(n) {}
  void row() {
    if (++rows % 64 == 0) flush();
  }
  void flush() {
    for (size_t i = 0; i < part.size(); ++i) whole[i] += part[i], part[i] = 0;
  }
};

template <typename T>
void forward_group(const Shape& s, const T* x, const float* w, const float* b, T* y, float* mean, float* rstd,
                   std::vector<float>& room) {
  const int64_t d = s.width(), n = d * s.pixels;
  room.resize(n);
  const float* in = values(x, room.data(), n);
  const double m = sum(in, n) / double(n);
  const double r = 1.0 / std::sqrt(sum_squares(in, n, float(m)) / double(n) + s.eps);
  *mean = float(m), *rstd = float(r);
  float* out = target(y, room.data());
  for (int64_t c = 0; c < d; ++c) {
    const float scale = float(r * w[c]), shift = float(b[c] - m * r * w[c]);
    const int64_t at = c * s.pixels;
    (s.silu ? affine_silu : affine)(in + at, out + at, s.pixels, scale, shift);
  }
  store(out, y, n);
}

template <typename T>
void forward_last(const Shape& s, const T* x, const float* w, const float* b, T* y, float* mean, float* rstd) {
  const int64_t c = s.channels, d = s.width();
  std::vector<float> room(c), means(c), scale(c), shift(c);
  Totals sums(c), squares(c);
  for (int64_t i = 0; i < s.pixels; ++i, sums.row())
    add_row(values(x + i * c, room.data(), c), sums.part.data(), c);
  sums.flush();
  const double count = double(d * s.pixels);
  for (int64_t g = 0; g < s.groups; ++g) {
    double total = 0;
    for (int64_t j = g * d; j < (g + 1) * d; ++j) total += sums.whole[j];
    mean[g] = float(total / count);
    std::fill_n(means.begin() + g * d, d, mean[g]);
  }
  for (int64_t i = 0; i < s.pixels; ++i, squares.row())
    add_square_row(values(x + i * c, room.data(), c), means.data(), squares.part.data(), c);
  squares.flush();
  for (int64_t g = 0; g < s.groups; ++g) {
    double total = 0;
    for (int64_t j = g * d; j < (g + 1) * d; ++j) total += squares.whole[j];
    rstd[g] = float(1.0 / std::sqrt(total / count + s.eps));
    for (int64_t j = g * d; j < (g + 1) * d; ++j) scale[j] = rstd[g] * w[j], shift[j] = b[j] - mean[g] * scale[j];
  }
  for (int64_t i = 0; i < s.pixels; ++i) {
    float* out = target(y + i * c, room.data());
    affine_row(values(x + i * c, room.data(), c), out, scale.data(), shift.data(), c, s.silu);
    store(out, y + i * c, c);
  }
}

// Factors of dx = p dz + q x + r for the channels of a group, from sums over its channels.
void factors(const Shape& s, float mean, float rstd, const float* w, const float* dw, const float* db, float* p,
             float* q, float* r) {
  const int64_t d = s.width();
  double first = 0, second = 0;
  for (int64_t c = 0; c < d; ++c) first += double(w[c]) * db[c], second += double(w[c]) * dw[c];
  const double count = double(d * s.pixels);
  first /= count, second /= count;
  for (int64_t c = 0; c < d; ++c) {
    p[c] = rstd * w[c];
    q[c] = float(-second * rstd * rstd);
    r[c] = float(second * rstd * rstd * mean - first * rstd);
  }
}

template <typename T>
void backward_group(const Shape& s, const T* x, const T* dy, const float* w, const float* b, float mean, float rstd,
                    T* dx, float* dw, float* db, std::vector<float>& room) {
  const int64_t d = s.width(), n = d * s.pixels;
  room.resize(3 * n);
  float* dz = room.data() + 2 * n;
  const float *in = values(x, room.data(), n), *grad = values(dy, room.data() + n, n);
  for (int64_t c = 0; c < d; ++c) {
    const float scale = rstd * w[c];
    const int64_t at = c * s.pixels;
    double sums[2] = {0, 0};
    grad_in(in + at, grad + at, dz + at, s.pixels, scale, b[c] - mean * scale, mean, s.silu, sums);
    db[c] = float(sums[0]), dw[c] = float(sums[1] * rstd);
  }
  std::vector<float> p(d), q(d), r(d);
  factors(s, mean, rstd, w, dw, db, p.data(), q.data(), r.data());
  float* out = target(dx, dz);
  for (int64_t c = 0; c < d; ++c)
    grad_out(in + c * s.pixels, dz + c * s.pixels, out + c * s.pixels, s.pixels, p[c], q[c], r[c]);
  store(out, dx, n);
}

template <typename T>
void backward_last(const Shape& s, const T* x, const T* dy, const float* w, const float* b, const float* mean,
                   const float* rstd, T* dx, float* dw, float* db, std::vector<float>& dz) {
  const int64_t c = s.channels, d = s.width();
  dz.resize(c * s.pixels);
  std::vector<float> in(c), grad(c), means(c), scale(c), shift(c), p(c), q(c), r(c);
  for (int64_t j = 0; j < c; ++j) {
    means[j] = mean[j / d], scale[j] = rstd[j / d] * w[j], shift[j] = b[j] - means[j] * scale[j];
  }
  Totals first(c), second(c);
  for (int64_t i = 0; i < s.pixels; ++i, first.row(), second.row())
    grad_in_row(values(x + i * c, in.data(), c), values(dy + i * c, grad.data(), c), dz.data() + i * c, scale.data(),
                shift.data(), means.data(), first.part.data(), second.part.data(), c, s.silu);
  first.flush(), second.flush();
  for (int64_t j = 0; j < c; ++j) db[j] = float(first.whole[j]), dw[j] = float(second.whole[j] * rstd[j / d]);
  for (int64_t g = 0; g < s.groups; ++g) {
    const int64_t at = g * d;
    factors(s, mean[g], rstd[g], w + at, dw + at, db + at, &p[at], &q[at], &r[at]);
  }
  for (int64_t i = 0; i < s.pixels; ++i) {
    float* out = target(dx + i * c, grad.data());
    grad_out_row(values(x + i * c, in.data(), c), dz.data() + i * c, out, p.data(), q.data(), r.data(), c);
    store(out, dx + i * c, c);
  }
}

// --- tensors ------------------------------------------------------------------------------------

Shape shape_of(const at::Tensor& x, int64_t groups, double eps, bool silu) {
  const int64_t batch = x.size(0), channels = x.size(1);
  return {batch, channels, x.numel() / std::max<int64_t>(batch * channels, 1), groups, eps, !x.is_contiguous(), silu};
}

at::Tensor dense(const at::Tensor& x) {
  if (x.is_contiguous() || (x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast))) return x;
  return x.contiguous();
}

template <typename T>
T* data(const at::Tensor& x) { return static_cast<T*>(x.data_ptr()); }

template <typename T>
void forward_all(const Shape& s, const at::Tensor& x, const float* w, const float* b, const at::Tensor& y, float* mean,
                 float* rstd) {
  const T* in = data<T>(x);
  T* out = data<T>(y);
  const int64_t image = s.channels * s.pixels, group = s.width() * s.pixels, d = s.width();
  if (s.last) {
    at::parallel_for(0, s.batch, 1, [&](int64_t from, int64_t to) {
      for (int64_t n = from; n < to; ++n)
        forward_last(s, in + n * image, w, b, out + n * image, mean + n * s.groups, rstd + n * s.groups);
    });
    return;
  }
  at::parallel_for(0, s.batch * s.groups, std::max<int64_t>(1, 8192 / std::max<int64_t>(group, 1)), [&](int64_t from, int64_t to) {
    std::vector<float> room;
    for (int64_t i = from; i < to; ++i) {
      const int64_t c = i % s.groups * d;
      forward_group(s, in + i * group, w + c, b + c, out + i * group, mean + i, rstd + i, room);
    }
  });
}

template <typename T>
void backward_all(const Shape& s, const at::Tensor& x, const at::Tensor& dy, const float* w, const float* b,
                  const float* mean, const float* rstd, const at::Tensor& dx, float* dw, float* db) {
  const T *in = data<T>(x), *grad = data<T>(dy);
  T* out = data<T>(dx);
  const int64_t image = s.channels * s.pixels, group = s.width() * s.pixels, d = s.width();
  if (s.last) {
    at::parallel_for(0, s.batch, 1, [&](int64_t from, int64_t to) {
      std::vector<float> dz;
      for (int64_t n = from; n < to; ++n)
        backward_last(s, in + n * image, grad + n * image, w, b, mean + n * s.groups, rstd + n * s.groups,
                      out + n * image, dw + n * s.channels, db + n * s.channels, dz);
    });
    return;
  }
  at::parallel_for(0, s.batch * s.groups, std::max<int64_t>(1, 8192 / std::max<int64_t>(group, 1)), [&](int64_t from, int64_t to) {
    std::vector<float> room;
    for (int64_t i = from; i < to; ++i) {
      const int64_t c = i % s.groups * d;
      backward_group(s, in + i * group, grad + i * group, w + c, b + c, mean[i], rstd[i], out + i * group,
                     dw + i * d, db + i * d, room);
    }
  });
}

// y, mean [N, G], rstd [N, G].
std::vector<at::Tensor> forward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, int64_t groups,
                                double eps, bool silu) {
  const Shape s = shape_of(x, groups, eps, silu);
  auto y = at::empty_like(x);
  auto mean = at::empty({s.batch, groups}, w.options()), rstd = at::empty_like(mean);
  auto* run = x.scalar_type() == at::kFloat ? forward_all<float> : forward_all<uint16_t>;
  run(s, x, data<float>(w), data<float>(b), y, data<float>(mean), data<float>(rstd));
  return {y, mean, rstd};
}

struct NormSilu : torch::autograd::Function<NormSilu> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& w,
                            const at::Tensor& b, int64_t groups, double eps, bool silu) {
    auto out = ::forward(x, w, b, groups, eps, silu);
    context->save_for_backward({x, w, b, out[1], out[2]});
    context->saved_data["groups"] = groups;
    context->saved_data["eps"] = eps;
    context->saved_data["silu"] = silu;
    return out[0];
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &w = saved[1], &b = saved[2];
    const int64_t groups = context->saved_data["groups"].toInt();
    const double eps = context->saved_data["eps"].toDouble();
    const bool silu = context->saved_data["silu"].toBool();
    torch::autograd::variable_list out(6);
    if (at::GradMode::is_enabled()) {
      // Derivatives of derivatives are asked for: through libtorch's own functions.
      auto y = at::group_norm(x.to(at::kFloat), groups, w, b, eps, false);
      if (silu) y = at::silu(y);
      torch::autograd::variable_list inputs;
      std::vector<int> places;
      for (int i = 0; i < 3; ++i)
        if (saved[i].requires_grad()) inputs.push_back(saved[i]), places.push_back(i);
      auto found = torch::autograd::grad({y.to(x.scalar_type())}, inputs, {grads[0]}, true, true, true);
      for (size_t i = 0; i < places.size(); ++i) out[places[i]] = found[i];
      return out;
    }
    const Shape s = shape_of(x, groups, eps, silu);
    const auto format = s.last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    const auto dy = grads[0].to(x.scalar_type()).contiguous(format);
    auto dx = at::empty_like(x);
    auto dw = at::empty({s.batch, s.channels}, w.options()), db = at::empty_like(dw);
    auto* run = x.scalar_type() == at::kFloat ? backward_all<float> : backward_all<uint16_t>;
    run(s, x, dy, data<float>(w), data<float>(b), data<float>(saved[3]), data<float>(saved[4]), dx, data<float>(dw),
        data<float>(db));
    out[0] = dx, out[1] = dw.sum(0), out[2] = db.sum(0);
    return out;
  }
};

}  // namespace

extern "C" int gen_group_norm(at::Tensor* x, at::Tensor* w, at::Tensor* b, int64_t groups, double eps, int silu,
                              at::Tensor** out) {
  return guarded([&] {
    const auto kind = x->scalar_type();
    TORCH_CHECK(x->device().is_cpu() && (kind == at::kFloat || kind == at::kBFloat16), "group norm: f32 or bf16 on the CPU");
    TORCH_CHECK(w->scalar_type() == at::kFloat && b->scalar_type() == at::kFloat && w->is_contiguous() && b->is_contiguous(),
                "group norm: contiguous f32 weights");
    TORCH_CHECK(x->dim() >= 2 && groups > 0 && x->size(1) % groups == 0 && w->numel() == x->size(1) && b->numel() == x->size(1),
                "group norm: ", x->sizes(), " do not divide into ", groups, " groups");
    const auto in = dense(*x);
    const bool graph = at::GradMode::is_enabled() && (x->requires_grad() || w->requires_grad() || b->requires_grad());
    auto y = graph ? NormSilu::apply(in, *w, *b, groups, eps, silu != 0) : forward(in, *w, *b, groups, eps, silu != 0)[0];
    *out = new at::Tensor(std::move(y));
  });
}
