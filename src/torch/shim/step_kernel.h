// What one step of a SaShiMi network consists of, as plain data: shared by the file that is compiled once for each
// instruction set and the one that holds the tensors. `T` is float or double; pointers are to T.
//
// Features come in lanes of L = 64 bytes, widths are padded to multiples of L and padded values are zero.

#pragma once

#include <cstdint>

struct GenMap {
  int64_t in, out;     // `out` padded
  const void *w, *b;   // w: [out/L][in][L]
};

struct GenNorm {
  int64_t kind;        // 0: two numbers m, s in `a`; 1: weight `a` and bias `b`
  const void *a, *b;
};

struct GenLayer {
  int64_t kind;        // 0: state space; 1: feed-forward
  int64_t n, rank, glu;
  GenNorm norm;
  const void* w;       // rows of the low-rank part, [tile][rank][n][2][L]
  const void* q;       // d, b, c (real, imaginary) and columns of the low-rank part, [tile][n][6 + 2 rank][L]
  const void* d;
  GenMap first, second;
  int64_t state;       // offset in a sample's state, [tile][n][2][L]
};

struct GenLevel {
  int64_t h, hp;       // width and padded width
  int64_t factor;      // of the pool below, 0 for none
  int64_t first, downs, ups;  // layers [first, first + downs) run before the pool, then `ups` after it
  GenMap coarser, finer;
  int64_t group, pending;     // offsets in a sample's state, each [factor][hp]
};

struct GenNet {
  int64_t vocab, unet, levels, widest, state_size;
  const GenLevel* level;
  const GenLayer* layer;
  GenNorm norm;
  GenMap head;
  const void* table;   // [vocab][hp]
};

// One step of the `rows` sequences from `from` on; `done` steps went before. `class_rows` [B][hp] or null;
// `scratch` holds gen_step_scratch(net, rows) values.
struct GenCall {
  const int64_t* tokens;
  const void* class_rows;
  void *state, *logits, *scratch;
  int64_t done, from, rows;
};

inline int64_t gen_step_scratch(const GenNet& net, int64_t rows) {
  int64_t total = (net.levels + 4) * net.widest + net.head.out;
  for (int64_t i = 0; i < net.levels; ++i) total += (net.level[i].downs + 4) * net.level[i].hp;
  return total * rows;
}

typedef void (*GenStep)(const GenNet*, const GenCall*);
