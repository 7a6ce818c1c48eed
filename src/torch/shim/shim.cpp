// What tch lacks, as plain C functions: per-sample generators, autocast, fused optimisers, context
// switches. Every function catches every exception and returns 0,
// or -1 with the message in `gen_last_error`. Tensors cross as `at::Tensor*`, the same pointer as tch's.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/normal.h>

#include <string>
#include <vector>

#include "guard.h"

namespace {

thread_local std::string last_error;

std::vector<at::Tensor> list(at::Tensor* const* tensors, size_t n) {
  std::vector<at::Tensor> out;
  out.reserve(n);
  for (size_t i = 0; i < n; ++i) out.push_back(*tensors[i]);
  return out;
}

at::DeviceType device_type(int cuda) { return cuda ? at::kCUDA : at::kCPU; }

}  // namespace

// Declared in guard.h.
int gen_fail(const char* what) {
  last_error = what;
  return -1;
}

extern "C" {

const char* gen_last_error() { return last_error.c_str(); }

// --- generators -------------------------------------------------------------------------------

int gen_generator_new(uint64_t seed, at::Generator** out) {
  return guarded([&] { *out = new at::Generator(at::make_generator<at::CPUGeneratorImpl>(seed)); });
}

void gen_generator_free(at::Generator* g) { delete g; }

// Fills `dest` (CPU) with standard normal values of the generator's stream.
int gen_generator_normal(at::Generator* g, at::Tensor* dest) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    dest->normal_(0.0, 1.0, *g);
  });
}

// Fills `dest` (CPU, i64) with uniform integers in [0, high).
int gen_generator_randint(at::Generator* g, at::Tensor* dest, int64_t high) {
  return guarded([&] { dest->random_(0, high, *g); });
}

// --- modes ------------------------------------------------------------------------------------

// Sets autocast of a device; returns what was set through the out parameters.
int gen_autocast_set(int cuda, int enabled, int dtype, int* was_enabled, int* was_dtype) {
  return guarded([&] {
    auto device = device_type(cuda);
    *was_enabled = at::autocast::is_autocast_enabled(device);
    *was_dtype = static_cast<int>(at::autocast::get_autocast_dtype(device));
    at::autocast::set_autocast_enabled(device, enabled);
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(dtype));
    at::autocast::increment_nesting();
  });
}

int gen_autocast_restore(int cuda, int enabled, int dtype) {
  return guarded([&] {
    auto device = device_type(cuda);
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device, enabled);
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(dtype));
  });
}

int gen_set_deterministic(int on) {
  return guarded([&] {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(on, false);
    context.setDeterministicCuDNN(on);
    context.setBenchmarkCuDNN(!on);
  });
}

int gen_set_tf32(int on) {
  return guarded([&] {
    auto& context = at::globalContext();
    context.setAllowTF32CuBLAS(on);
    context.setAllowTF32CuDNN(on);
  });
}

int gen_set_flush_denormal(int on) {
  return guarded([&] { at::globalContext().setFlushDenormal(on); });
}

// --- optimisers -------------------------------------------------------------------------------

// One step of Adam (decoupled = 0) or AdamW (decoupled = 1); `steps` hold the number of this step.
int gen_fused_adam(int decoupled, size_t n, at::Tensor* const* params, at::Tensor* const* grads,
                   at::Tensor* const* m, at::Tensor* const* v, at::Tensor* const* steps, double lr,
                   double beta1, double beta2, double weight_decay, double eps,
                   at::Tensor* grad_scale, at::Tensor* found_inf) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto p = list(params, n), g = list(grads, n), a = list(m, n), b = list(v, n), s = list(steps, n);
    std::optional<at::Tensor> scale, inf;
    if (grad_scale) scale = *grad_scale;
    if (found_inf) inf = *found_inf;
    if (decoupled)
      at::_fused_adamw_(p, g, a, b, {}, s, lr, beta1, beta2, weight_decay, eps, false, false, scale, inf);
    else
      at::_fused_adam_(p, g, a, b, {}, s, lr, beta1, beta2, weight_decay, eps, false, false, scale, inf);
  });
}

// dest += weight * (source - dest), for every pair.
int gen_foreach_lerp(size_t n, at::Tensor* const* dest, at::Tensor* const* source, double weight) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto d = list(dest, n), s = list(source, n);
    at::_foreach_lerp_(d, s, weight);
  });
}

int gen_foreach_copy(size_t n, at::Tensor* const* dest, at::Tensor* const* source) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto d = list(dest, n), s = list(source, n);
    at::_foreach_copy_(d, s);
  });
}

// Gradients of all tensors become undefined, so that the next backward pass hands its own over.
int gen_drop_grads(size_t n, at::Tensor* const* tensors) {
  return guarded([&] {
    for (size_t i = 0; i < n; ++i) tensors[i]->mutable_grad().reset();
  });
}

// tensors *= factor (a tensor with one element on their device).
int gen_foreach_mul(size_t n, at::Tensor* const* tensors, at::Tensor* factor) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto t = list(tensors, n);
    at::_foreach_mul_(t, *factor);
  });
}

// The Euclidean norm of all tensors taken as one vector: a tensor with one element, no host sync.
int gen_foreach_norm(size_t n, at::Tensor* const* tensors, at::Tensor** out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto norms = at::_foreach_norm(list(tensors, n));
    *out = new at::Tensor(at::linalg_vector_norm(at::stack(norms)));
  });
}

}  // extern "C"
