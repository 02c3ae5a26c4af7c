// Work that is divided among threads; the caller's own is one of them.
#pragma once

#include <pthread.h>
#ifdef __GLIBC__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <new>

namespace {

// How threads begin that are to work beside their maker: on another processor than its own. Left to itself the system
// often lets both begin on one, as soon as anybody else was awake on the other, and takes milliseconds to part them.
class Beside {
  public:
    Beside() : ready_(pthread_attr_init(&attributes_) == 0) {
#ifdef __GLIBC__
        cpu_set_t allowed;
        const int own = sched_getcpu();
        if (!ready_ || own < 0 || own >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
        CPU_CLR(own, &allowed);
        if (CPU_COUNT(&allowed) > 0) pthread_attr_setaffinity_np(&attributes_, sizeof allowed, &allowed);
#endif
    }
    Beside(const Beside &) = delete;
    ~Beside() {
        if (ready_) pthread_attr_destroy(&attributes_);
    }
    const pthread_attr_t *attributes() const { return ready_ ? &attributes_ : nullptr; }

  private:
    pthread_attr_t attributes_;
    bool ready_;
};

// A thread that is joined where it goes out of scope. Where the system gives none, others do its work.
template <class Run>
class Helper {
  public:
    Helper(const Run &run, const Beside &beside)
        : started_(pthread_create(&thread_, beside.attributes(), &Helper::call, const_cast<void *>(static_cast<const void *>(&run))) == 0) {}
    Helper(const Helper &) = delete;
    ~Helper() {
        if (started_) pthread_join(thread_, nullptr);
    }

  private:
    static void *call(void *run) {
        (*static_cast<const Run *>(run))();
        return nullptr;
    }
    pthread_t thread_;
    bool started_;
};

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
    const int64_t helpers = std::min<int64_t>(threads, (count + at_once - 1) / at_once) - 1;
    if (helpers > 0) {
        const Beside beside;
        std::deque<Helper<decltype(run)>> others;
        for (int64_t number = 0; number < helpers; number++) others.emplace_back(run, beside);
        run();
    } else {
        run();
    }
    return !short_of_memory;
}

}  // namespace
