#pragma once

#include <cstdio>
#include <cstdlib>

/// Ends the program unless `ok`; assert would vanish from a release build.
inline void check(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::exit(1);
}
