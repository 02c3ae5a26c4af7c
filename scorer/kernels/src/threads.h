// Work that is divided among threads; the caller's own is one of them.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <new>
#include <utility>

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
        : started_(pthread_create(&thread_, beside.attributes(), &Helper::call,
                                  const_cast<void *>(static_cast<const void *>(&run))) == 0) {}
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

// The work of each number below `count`, so many at once; `work()` gives each thread what does it.
template <class Work>
class Phase {
  public:
    Phase(int64_t count, int64_t at_once, Work work) : count_(count), at_once_(at_once), work_(std::move(work)) {}

    int64_t shares() const { return (count_ + at_once_ - 1) / at_once_; }

    // Does what no other thread has taken.
    void run() {
        try {
            auto one = work_();
            for (int64_t from; (from = next_.fetch_add(at_once_)) < count_;) {
                const int64_t to = std::min(from + at_once_, count_);
                const Done done{done_, to - from};
                one(from, to);
            }
        } catch (const std::bad_alloc &) {
            // Whoever waits is not to wait for what nobody does.
            short_of_memory_ = true;
        }
    }

    // Returns once the others have done what they took, which is not long; false where memory was short.
    bool wait() const {
        for (int turn = 0; done_ < count_ && !short_of_memory_;)
            if (turn < PATIENCE)
                turn++;
            else
                sched_yield();
        return !short_of_memory_;
    }

    bool was_done() const { return !short_of_memory_; }

  private:
    static constexpr int PATIENCE = 2'000;

    struct Done {
        std::atomic<int64_t> &counter;
        int64_t count;
        ~Done() { counter += count; }
    };

    const int64_t count_, at_once_;
    const Work work_;
    std::atomic<int64_t> next_{0}, done_{0};
    std::atomic<bool> short_of_memory_{false};
};

template <class Last>
void run_all(Last &last) {
    last.run();
}

template <class First, class... Rest>
void run_all(First &first, Rest &...rest) {
    first.run();
    if (first.wait()) run_all(rest...);
}

// Does phases one after the other in so many threads; false where memory was short.
template <class... Phases>
bool in_threads(int32_t threads, Phases &...phases) {
    const auto run = [&] { run_all(phases...); };
    const int64_t helpers = std::min<int64_t>(threads, std::max({phases.shares()...})) - 1;
    if (helpers > 0) {
        const Beside beside;
        std::deque<Helper<decltype(run)>> others;
        for (int64_t number = 0; number < helpers; number++) others.emplace_back(run, beside);
        run();
    } else {
        run();
    }
    return (phases.was_done() && ...);
}

}  // namespace
