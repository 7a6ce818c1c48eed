// What the kernels of this folder share: exp, and compilation for several generations of x86.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "exp.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), optimize("O3")))
#else
#define CLONES
#endif
