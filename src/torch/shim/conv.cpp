// Convolutions of oneDNN with the activation in the same pass and the weights in the library's own layout:
// operations that libtorch registers, but gives no C++ name. CPU only. Conventions as in shim.cpp.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <string>
#include <vector>

#include "guard.h"

namespace {

using Ints = at::IntArrayRef;

std::optional<c10::OperatorHandle> find(const char* name) {
  return c10::Dispatcher::singleton().findSchema({name, ""});
}

}  // namespace

extern "C" {

// Whether this libtorch has these operations.
int gen_conv_fused_available() {
  return find("mkldnn::_convolution_pointwise") && find("mkldnn::_reorder_convolution_weight") ? 1 : 0;
}

// `weight` [O, I, kh, kw] in the layout that suits inputs of `size` (4 values).
int gen_conv_pack(at::Tensor* weight, const int64_t* stride, const int64_t* padding, const int64_t* size,
                  at::Tensor** out) {
  return guarded([&] {
    const std::vector<int64_t> one{1, 1};
    auto packed = find("mkldnn::_reorder_convolution_weight")
                      .value()
                      .typed<at::Tensor(const at::Tensor&, Ints, Ints, Ints, int64_t, at::OptionalIntArrayRef)>()
                      .call(*weight, Ints(padding, 2), Ints(stride, 2), one, 1, Ints(size, 4));
    *out = new at::Tensor(packed);
  });
}

// max(0, conv(x) + bias).
int gen_conv_relu(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, const int64_t* stride,
                  const int64_t* padding, at::Tensor** out) {
  return guarded([&] {
    const std::vector<int64_t> one{1, 1};
    auto y = find("mkldnn::_convolution_pointwise")
                 .value()
                 .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, Ints, Ints,
                                   Ints, int64_t, c10::string_view, c10::List<std::optional<at::Scalar>>,
                                   std::optional<c10::string_view>)>()
                 .call(*x, *weight, *bias, Ints(padding, 2), Ints(stride, 2), one, 1, "relu",
                       c10::List<std::optional<at::Scalar>>(), std::nullopt);
    *out = new at::Tensor(y);
  });
}

}  // extern "C"
