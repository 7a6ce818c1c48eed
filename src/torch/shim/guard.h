// How every function of this folder ends: 0, or -1 with the message in `gen_last_error`. No exception crosses into Rust.
#pragma once

#include <exception>
#include <utility>

// Keeps the message for `gen_last_error`; gives -1.
int gen_fail(const char* what);

template <typename F>
int guarded(F&& body) {
  try {
    std::forward<F>(body)();
    return 0;
  } catch (const std::exception& e) {
    return gen_fail(e.what());
  } catch (...) {
    return gen_fail("unknown C++ exception");
  }
}
