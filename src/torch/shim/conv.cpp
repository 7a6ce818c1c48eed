// Convolution, bias and ReLU in one pass on the CPU, with weights in the layout that oneDNN likes best. The operators
// are libtorch's own (its compiler uses them); they have no function of their own in its headers.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

int gen_fail(const char* what);

namespace {

at::Tensor call(const char* name, std::vector<c10::IValue> stack) {
  auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
  op.callBoxed(&stack);
  return stack.at(0).toTensor();
}

template <typename F>
int guarded(F&& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& e) {
    return gen_fail(e.what());
  } catch (...) {
    return gen_fail("unknown C++ exception");
  }
}

using Ints = std::vector<int64_t>;

}  // namespace

extern "C" {

// The weight reordered for inputs of `size` [N, C, H, W].
int gen_conv_pack(at::Tensor* weight, const int64_t* padding, int64_t stride, const int64_t* size, at::Tensor** out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    *out = new at::Tensor(call(
        "mkldnn::_reorder_convolution_weight",
        {*weight, Ints(padding, padding + 2), Ints{stride, stride}, Ints{1, 1}, int64_t(1), Ints(size, size + 4)}));
  });
}

// relu(conv2d(x, weight) + bias) with a weight of `gen_conv_pack`.
int gen_conv_relu(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, const int64_t* padding, int64_t stride,
                  at::Tensor** out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    *out = new at::Tensor(call(
        "mkldnn::_convolution_pointwise",
        {*x, *weight, *bias, Ints(padding, padding + 2), Ints{stride, stride}, Ints{1, 1}, int64_t(1),
         std::string("relu"), c10::List<std::optional<at::Scalar>>(), std::string("")}));
  });
}

}  // extern "C"
