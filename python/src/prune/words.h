#pragma once

// Choices that callers name by words.

#include <cstddef>
#include <string>
#include <utility>

#include "gossamer/error.h"
#include "gossamer/prune/patterns.h"

namespace gossamer::python {

/// One of several words for a value.
template <class Value, std::size_t N>
Value read_word(const char* op, const char* argument, const std::string& word,
                const std::pair<const char*, Value> (&values)[N]) {
  std::string names;
  for (std::size_t i = 0; i < N; ++i) {
    if (word == values[i].first) return values[i].second;
    names += std::string(i == 0 ? "'" : i + 1 == N ? " or '" : ", '") + values[i].first + "'";
  }
  throw ValueError(std::string(op) + ": " + argument + " is '" + word + "', expected " + names);
}

inline prune::MaskMethod read_method(const char* op, const std::string& method) {
  return read_word<prune::MaskMethod>(
      op, "method", method,
      {{"exact", prune::MaskMethod::exact}, {"greedy", prune::MaskMethod::greedy}});
}

}  // namespace gossamer::python
