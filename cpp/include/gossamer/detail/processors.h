#pragma once

#include <string>

namespace gossamer::detail {

/// The processors that this process may use at once: those that its affinity mask names, or fewer
/// where a control group limits their time (a container that was given two of sixty-four). At
/// least 1.
int processors();

/// The processors whose time the control group of this process, and those above it, may use: the
/// quota divided by the period, rounded down, at least 1; 0 without a limit. `root` stands before
/// /proc and /sys, for tests.
int processors_of_quota(const std::string& root = "");

}  // namespace gossamer::detail
