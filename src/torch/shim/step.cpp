// Holds the tensors of a SaShiMi network made ready for stepping, and runs its steps on libtorch's threads.

#include "guard.h"
#include "step_kernel.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

extern "C" {
#define DECLARE(name)                                   \
  void name##_f32(const GenNet* net, const GenCall* call); \
  void name##_f64(const GenNet* net, const GenCall* call);
#ifdef GEN_STEP_X86
DECLARE(gen_step_v4)
DECLARE(gen_step_v3)
#endif
DECLARE(gen_step_base)
}

namespace {

GenStep best(bool wide) {
#ifdef GEN_STEP_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd"))
    return wide ? gen_step_v4_f64 : gen_step_v4_f32;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return wide ? gen_step_v3_f64 : gen_step_v3_f32;
#endif
  return wide ? gen_step_base_f64 : gen_step_base_f32;
}

// Reads the description that src/net/sashimi/pack.rs writes, in the same order, checking every size.
struct Reader {
  const int64_t* ints;
  size_t n_ints, at_int = 0;
  at::Tensor* const* tensors;
  size_t n_tensors, at_tensor = 0;
  at::ScalarType type;
  std::vector<at::Tensor>* held;

  int64_t number() {
    if (at_int >= n_ints) throw std::runtime_error("the description of the network is too short");
    return ints[at_int++];
  }
  const void* values(int64_t numel) {
    if (at_tensor >= n_tensors) throw std::runtime_error("the network is short of tensors");
    const at::Tensor& t = *tensors[at_tensor++];
    if (!t.is_contiguous() || t.scalar_type() != type || !t.device().is_cpu() || t.numel() != numel)
      throw std::runtime_error("tensor " + std::to_string(at_tensor - 1) + " of the network does not fit: " +
                               std::to_string(t.numel()) + " values for " + std::to_string(numel));
    held->push_back(t);
    return t.data_ptr();
  }
  GenMap map(int64_t in, int64_t out) { GenMap m{in, out}; m.w = values(in * out), m.b = values(out); return m; }
  GenNorm norm(int64_t kind, int64_t h) {
    GenNorm n{kind};
    n.a = values(kind ? h : 2);
    n.b = kind ? values(h) : nullptr;
    return n;
  }
};

}  // namespace

struct GenStepper {
  GenNet net{};
  std::vector<GenLevel> levels;
  std::vector<GenLayer> layers;
  std::vector<at::Tensor> held;
  at::ScalarType type;
  GenStep run;
};

namespace {

void read(GenStepper& s, Reader& in) {
  const int64_t lanes = s.type == at::kDouble ? 8 : 16;
  const auto padded = [&](int64_t h) { return (h + lanes - 1) / lanes * lanes; };
  GenNet& net = s.net;
  net.vocab = in.number();
  const int64_t kind = in.number();
  net.unet = in.number();
  net.levels = in.number();
  if (net.levels < 1 || net.levels > 16) throw std::runtime_error("the network has no levels");
  struct Size { int64_t h, factor, downs, ups; };
  std::vector<Size> sizes;
  for (int64_t i = 0; i < net.levels; ++i) {
    Size z;
    z.h = in.number(), z.factor = in.number(), z.downs = in.number(), z.ups = in.number();
    if (net.unet && z.factor && z.downs != z.ups) throw std::runtime_error("the ways down and up differ");
    sizes.push_back(z);
  }
  net.table = in.values(net.vocab * padded(sizes[0].h));
  const auto widen = [&](int64_t w) { net.widest = std::max(net.widest, w); };
  const auto layer = [&](int64_t h) {
    const int64_t hp = padded(h);
    GenLayer l{};
    l.kind = in.number();
    l.norm = in.norm(kind, h);
    if (l.kind == 0) {
      l.n = in.number(), l.rank = in.number(), l.glu = in.number();
      if (l.rank < 0 || l.rank > 16) throw std::runtime_error("a layer of this rank cannot be stepped");
      l.w = in.values(hp * l.rank * l.n * 2);
      l.q = in.values(hp * l.n * (6 + 2 * l.rank));
      l.d = in.values(hp);
      l.first = in.map(h, hp);
      if (l.glu) l.second = in.map(h, hp);
      l.state = net.state_size;
      net.state_size += hp * l.n * 2;
    } else {
      const int64_t inner = in.number();
      l.first = in.map(h, padded(inner));
      l.second = in.map(inner, hp);
      widen(padded(inner));
    }
    s.layers.push_back(l);
  };
  for (int64_t i = 0; i < net.levels; ++i) {
    const Size& z = sizes[i];
    GenLevel level{};
    level.h = z.h, level.hp = padded(z.h), level.factor = z.factor;
    level.first = int64_t(s.layers.size()), level.downs = z.downs, level.ups = z.ups;
    widen(level.hp);
    for (int64_t k = 0; k < z.downs; ++k) layer(z.h);
    if (z.factor) {
      if (i + 1 >= net.levels) throw std::runtime_error("a pool without a level below");
      const int64_t below = sizes[i + 1].h, group = z.factor * level.hp;
      level.coarser = in.map(group, padded(below));
      level.finer = in.map(below, group);
      level.group = net.state_size, level.pending = net.state_size + group;
      net.state_size += 2 * group;
    } else if (i + 1 < net.levels) {
      throw std::runtime_error("a level that nothing leads to");
    }
    for (int64_t k = 0; k < z.ups; ++k) layer(z.h);
    s.levels.push_back(level);
  }
  net.norm = in.norm(1, sizes[0].h);
  net.head = in.map(sizes[0].h, padded(net.vocab));
  net.level = s.levels.data(), net.layer = s.layers.data();
  if (in.at_int != in.n_ints || in.at_tensor != in.n_tensors)
    throw std::runtime_error("the description of the network is too long");
}

}  // namespace

extern "C" {

int gen_stepper_new(const int64_t* ints, size_t n_ints, at::Tensor* const* tensors, size_t n_tensors, int wide,
                    GenStepper** out, int64_t* state_size) {
  return guarded([&] {
    auto s = std::make_unique<GenStepper>();
    s->type = wide ? at::kDouble : at::kFloat;
    s->run = best(wide);
    Reader in{ints, n_ints, 0, tensors, n_tensors, 0, s->type, &s->held};
    read(*s, in);
    *state_size = s->net.state_size;
    *out = s.release();
  });
}

void gen_stepper_free(GenStepper* s) { delete s; }

int gen_stepper_step(const GenStepper* s, const at::Tensor* tokens, const at::Tensor* class_rows,
                     const at::Tensor* state, int64_t done, const at::Tensor* logits) {
  return guarded([&] {
    const GenNet& net = s->net;
    const int64_t batch = tokens->numel();
    const auto fits = [&](const at::Tensor& t, int64_t numel) {
      return t.is_contiguous() && t.device().is_cpu() && t.scalar_type() == s->type && t.numel() == numel;
    };
    if (!tokens->is_contiguous() || tokens->scalar_type() != at::kLong || !tokens->device().is_cpu() || done < 0 ||
        !fits(*state, batch * net.state_size) || !fits(*logits, batch * net.vocab) ||
        (class_rows && !fits(*class_rows, batch * net.level[0].hp)))
      throw std::runtime_error("the tensors of a step do not fit the network");
    const int64_t* ids = tokens->const_data_ptr<int64_t>();
    for (int64_t i = 0; i < batch; ++i)
      if (ids[i] < 0 || ids[i] >= net.vocab)
        throw std::runtime_error("token " + std::to_string(ids[i]) + " is not in [0, " + std::to_string(net.vocab) + ")");
    // Each thread takes a few sequences through the whole network, so that weights are read once for all of them.
    const int64_t threads = std::max<int64_t>(1, at::get_num_threads());
    const int64_t rows = std::min<int64_t>(8, (batch + threads - 1) / threads);
    const int64_t groups = (batch + rows - 1) / rows, scratch = gen_step_scratch(net, rows);
    at::Tensor room = at::empty({std::min(groups, threads), scratch}, at::TensorOptions().dtype(s->type));
    char* base = static_cast<char*>(room.data_ptr());
    const int64_t bytes = scratch * int64_t(room.element_size());
    const auto work = [&](int64_t from, int64_t to, char* place) {
      for (int64_t g = from; g < to; ++g) {
        GenCall call{};
        call.tokens = ids, call.class_rows = class_rows ? class_rows->data_ptr() : nullptr;
        call.state = state->data_ptr(), call.logits = logits->data_ptr(), call.scratch = place;
        call.done = done, call.from = g * rows, call.rows = std::min(rows, batch - g * rows);
        s->run(&net, &call);
      }
    };
    if (groups == 1) return work(0, 1, base);
    at::parallel_for(0, groups, 1, [&](int64_t from, int64_t to) {
      work(from, to, base + at::get_thread_num() % room.size(0) * bytes);
    });
  });
}

}  // extern "C"
