// TorchScript modules and AOTInductor packages as plain C functions: load, describe, run; and export of a
// network by tracing, with its parameters as parameters of the module instead of constants.
// Conventions as in shim.cpp. Texts are returned through `gen_last_text`, as JSON.

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/passes/fixup_trace_scope_blocks.h>
#include <torch/csrc/jit/passes/normalize_ops.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/script.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "guard.h"

namespace {

using torch::jit::Module;
using Package = torch::inductor::AOTIModelPackageLoader;

thread_local std::string last_text;

std::string quoted(const std::string& text) {
  std::ostringstream out;
  out << '"';
  for (unsigned char c : text) {
    if (c == '"' || c == '\\')
      out << '\\' << c;
    else if (c < 0x20)
      out << ' ';
    else
      out << c;
  }
  out << '"';
  return out.str();
}

std::string joined(const std::vector<std::string>& parts) {
  std::string out = "[";
  for (size_t i = 0; i < parts.size(); ++i) out += (i ? "," : "") + parts[i];
  return out + "]";
}

c10::Device device_of(int cuda_index) {
  return cuda_index < 0 ? c10::Device(c10::kCPU) : c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(cuda_index));
}

// The first tensor of what a module returned: the output itself, the head of a tuple or list, the entry
// `sample` (or the only one) of a dictionary.
at::Tensor first_tensor(const c10::IValue& value) {
  if (value.isTensor()) return value.toTensor();
  if (value.isTuple() && !value.toTupleRef().elements().empty()) return first_tensor(value.toTupleRef().elements()[0]);
  if (value.isTensorList() && !value.toTensorList().empty()) return value.toTensorList().get(0);
  if (value.isList() && !value.toListRef().empty()) return first_tensor(value.toListRef()[0]);
  if (value.isGenericDict()) {
    auto dict = value.toGenericDict();
    for (const auto& entry : dict)
      if (dict.size() == 1 || (entry.key().isString() && entry.key().toStringRef() == "sample"))
        return first_tensor(entry.value());
  }
  throw std::runtime_error("the module returns " + value.tagKind() + ", a tensor is needed");
}

// The graph value of the attribute with this dotted name.
torch::jit::Value* attribute(torch::jit::Graph& graph, torch::jit::Value* value, const std::string& name) {
  std::stringstream parts(name);
  for (std::string part; std::getline(parts, part, '.');) value = graph.insertGetAttr(value, part);
  return value;
}

// What tracing recorded as constants and would tie the module to one device: tensors become buffers, and
// devices become that of the first input.
void free_of_device(Module& module, torch::jit::Graph& graph) {
  torch::jit::Value* device = nullptr;
  std::vector<torch::jit::Node*> constants;
  for (auto* node : graph.nodes())
    if (node->kind() == torch::jit::prim::Constant) constants.push_back(node);
  size_t buffers = 0;
  for (auto* node : constants) {
    torch::jit::WithInsertPoint at(*graph.nodes().begin());
    auto* old = node->output();
    if (old->type()->kind() == c10::TypeKind::DeviceObjType) {
      if (!device) device = graph.insert(torch::jit::prim::device, {graph.inputs()[1]});
      old->replaceAllUsesWith(device);
    } else if (old->type()->isSubtypeOf(*c10::TensorType::get()) && node->hasAttribute(torch::jit::attr::value)) {
      auto tensor = node->t(torch::jit::attr::value);
      if (tensor.dim() == 0) continue;
      auto name = "constant_" + std::to_string(buffers++);
      module.register_buffer(name, tensor.detach());
      old->replaceAllUsesWith(graph.insertGetAttr(graph.inputs()[0], name));
    }
  }
}

}  // namespace

extern "C" {

const char* gen_last_text() { return last_text.c_str(); }

// --- TorchScript ------------------------------------------------------------------------------

int gen_module_load(const char* path, int cuda_index, Module** out) {
  return guarded([&] {
    auto module = torch::jit::load(path, device_of(cuda_index));
    module.eval();
    *out = new Module(std::move(module));
  });
}

void gen_module_free(Module* m) { delete m; }

int gen_module_to(Module* m, int dtype) {
  return guarded([&] { m->to(static_cast<at::ScalarType>(dtype)); });
}

// {"methods": [name..], "parameters": n, "buffers": n, "arguments": [{"name", "type", "default"}..]}
int gen_module_describe(Module* m, const char* method) {
  return guarded([&] {
    std::vector<std::string> methods, arguments;
    for (const auto& each : m->get_methods()) methods.push_back(quoted(each.name()));
    if (auto found = m->find_method(method)) {
      const auto& schema = found->function().getSchema();
      for (size_t i = 1; i < schema.arguments().size(); ++i) {
        const auto& a = schema.arguments()[i];
        arguments.push_back("{\"name\":" + quoted(a.name()) + ",\"type\":" + quoted(a.type()->repr_str()) +
                            ",\"optional\":" + (a.default_value() ? "true" : "false") + "}");
      }
    }
    int64_t parameters = 0, buffers = 0;
    for (const auto& p : m->parameters()) parameters += p.numel();
    for (const auto& b : m->buffers()) buffers += b.numel();
    last_text = "{\"methods\":" + joined(methods) + ",\"parameters\":" + std::to_string(parameters) +
                ",\"buffers\":" + std::to_string(buffers) + ",\"arguments\":" + joined(arguments) + "}";
  });
}

int gen_module_run(Module* m, const char* method, size_t n, at::Tensor* const* inputs, at::Tensor** out) {
  return guarded([&] {
    // The profiling executor would specialise on the first calls and recompile on every new shape.
    torch::jit::GraphOptimizerEnabledGuard plain(false);
    c10::Stack stack;
    for (size_t i = 0; i < n; ++i) stack.emplace_back(*inputs[i]);
    *out = new at::Tensor(first_tensor(m->get_method(method)(std::move(stack))));
  });
}

// --- AOTInductor ------------------------------------------------------------------------------

int gen_package_load(const char* path, int device_index, Package** out) {
  return guarded([&] {
    *out = new Package(path, "model", false, 1, static_cast<c10::DeviceIndex>(device_index));
  });
}

void gen_package_free(Package* p) { delete p; }

// The package's own metadata, read without loading its code.
int gen_package_metadata(const char* path) {
  return guarded([&] {
    std::vector<std::string> entries;
    std::string text = "{";
    for (const auto& [key, value] : Package::load_metadata_from_package(path, "model"))
      text += (text.size() > 1 ? "," : "") + quoted(key) + ":" + quoted(value);
    last_text = text + "}";
  });
}

int gen_package_run(Package* p, size_t n, at::Tensor* const* inputs, at::Tensor** out) {
  return guarded([&] {
    std::vector<at::Tensor> list;
    for (size_t i = 0; i < n; ++i) list.push_back(*inputs[i]);
    auto outputs = p->run(list);
    if (outputs.empty()) throw std::runtime_error("the package returns nothing, a tensor is needed");
    *out = new at::Tensor(outputs[0]);
  });
}

// --- export -----------------------------------------------------------------------------------

// A module with the given parameters (dotted names make submodules), recording what happens to `inputs`
// from now on in this thread.
int gen_trace_begin(size_t n, const char* const* names, at::Tensor* const* tensors, const int* trained,
                    size_t inputs_n, const char* const* input_names, at::Tensor* const* inputs, Module** out) {
  return guarded([&] {
    if (torch::jit::tracer::isTracing()) throw std::runtime_error("tracing already");
    auto unit = std::make_shared<torch::jit::CompilationUnit>();
    Module root("__torch__.Network", unit);
    size_t types = 0;
    for (size_t i = 0; i < n; ++i) {
      Module at = root;
      std::string name = names[i], path;
      for (size_t dot; (dot = name.find('.')) != std::string::npos; name = name.substr(dot + 1)) {
        const auto head = name.substr(0, dot);
        path += "_" + head;
        if (!at.hasattr(head)) at.register_module(head, Module("__torch__.Network_" + std::to_string(types++), unit));
        at = at.attr(head).toModule();
      }
      if (trained[i])
        at.register_parameter(name, *tensors[i], false);
      else
        at.register_buffer(name, *tensors[i]);
    }
    auto state = std::make_shared<torch::jit::tracer::TracingState>();
    torch::jit::tracer::setTracingState(state);
    auto& graph = *state->graph;
    auto* self = graph.insertInput(0, "self")->setType(root._ivalue()->type());
    for (size_t i = 0; i < inputs_n; ++i) {
      auto* value = graph.addInput(input_names[i]);
      value->setType(torch::jit::TensorType::get());
      state->setValue(*inputs[i], value);
    }
    for (size_t i = 0; i < n; ++i) state->setValue(*tensors[i], attribute(graph, self, names[i]));
    *out = new Module(root);
  });
}

// Ends the recording with this output and saves the module.
int gen_trace_end(Module* m, at::Tensor* output, const char* path) {
  const int status = guarded([&] {
    auto state = torch::jit::tracer::getTracingState();
    if (!state) throw std::runtime_error("not tracing");
    state->graph->registerOutput(state->getOutput(*output, 0));
    torch::jit::FixupTraceScopeBlocks(state->graph, m);
    torch::jit::NormalizeOps(state->graph);
    torch::jit::tracer::setTracingState(nullptr);
    free_of_device(*m, *state->graph);
    auto name = c10::QualifiedName(*m->type()->name(), "forward");
    auto function = m->_ivalue()->compilation_unit()->create_function(name, state->graph);
    m->type()->addMethod(function);
    for (const auto& p : m->parameters()) at::Tensor(p).set_requires_grad(true);
    // A stream, so that the archive is not named after the file.
    std::ofstream out(path, std::ios::binary);
    m->save(out);
    out.close();
    if (!out) throw std::runtime_error("cannot write the file");
  });
  if (status) torch::jit::tracer::abandon();
  return status;
}

int gen_is_tracing() { return torch::jit::tracer::isTracing(); }

void gen_trace_abandon() { torch::jit::tracer::abandon(); }

}  // extern "C"
