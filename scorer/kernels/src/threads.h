// Work that is divided among threads; the caller's own is one of them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

namespace {

// Does the work of each number below `count`, so many at once, in so many threads; false where memory was short.
template <class Work>
bool in_threads(int64_t count, int64_t at_once, int32_t threads, const Work &work) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> short_of_memory{false};
    const auto run = [&] {
        try {
            auto one = work();
            for (int64_t from; (from = next.fetch_add(at_once)) < count;) one(from, std::min(from + at_once, count));
        } catch (const std::bad_alloc &) {
            short_of_memory = true;
        }
    };
    std::vector<std::thread> others;
    for (int64_t number = 1; number < std::min<int64_t>(threads, (count + at_once - 1) / at_once); number++)
        others.emplace_back(run);
    run();
    for (std::thread &other : others) other.join();
    return !short_of_memory;
}

}  // namespace
