// Divides work among threads. The calling thread does its share.
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

// The attributes of helper threads: they may run on every allowed processor but the caller's. Without this, Linux often
// starts a helper on the caller's processor, and takes milliseconds to migrate it.
class HelperAttributes {
  public:
    HelperAttributes() : ready_(pthread_attr_init(&attributes_) == 0) {
#ifdef __GLIBC__
        cpu_set_t allowed;
        const int own = sched_getcpu();
        if (!ready_ || own < 0 || own >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
        CPU_CLR(own, &allowed);
        if (CPU_COUNT(&allowed) > 0) pthread_attr_setaffinity_np(&attributes_, sizeof allowed, &allowed);
#endif
    }
    HelperAttributes(const HelperAttributes &) = delete;
    ~HelperAttributes() {
        if (ready_) pthread_attr_destroy(&attributes_);
    }
    const pthread_attr_t *get() const { return ready_ ? &attributes_ : nullptr; }

  private:
    pthread_attr_t attributes_;
    bool ready_;
};

// A thread that is joined by its destructor. If the system cannot start it, the other threads do its work.
template <class Run>
class Helper {
  public:
    Helper(const Run &run, const HelperAttributes &attributes)
        : started_(pthread_create(&thread_, attributes.get(), &Helper::call,
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

// Work on the numbers below `count`, in chunks that threads take one after the other. `work()` is called once in each
// thread; it returns the function that processes a chunk.
template <class Work>
class Phase {
  public:
    Phase(int64_t count, int64_t chunk, Work work) : count_(count), chunk_(chunk), work_(std::move(work)) {}

    int64_t chunks() const { return (count_ + chunk_ - 1) / chunk_; }

    // Processes chunks until none is left.
    void run() {
        try {
            auto process = work_();
            for (int64_t from; (from = next_.fetch_add(chunk_)) < count_;) {
                const int64_t to = std::min(from + chunk_, count_);
                const Done done{done_, to - from};
                process(from, to);
            }
        } catch (const std::bad_alloc &) {
            // Stops the threads that wait: nobody will process this thread's chunk.
            short_of_memory_ = true;
        }
    }

    // Waits until all chunks are done, which takes at most the time of one chunk; false if memory ran out.
    bool wait() const {
        for (int spins = 0; done_ < count_ && !short_of_memory_;)
            if (spins < MAX_SPINS)
                spins++;
            else
                sched_yield();
        return !short_of_memory_;
    }

    bool succeeded() const { return !short_of_memory_; }

  private:
    static constexpr int MAX_SPINS = 2'000;

    struct Done {
        std::atomic<int64_t> &counter;
        int64_t count;
        ~Done() { counter += count; }
    };

    const int64_t count_, chunk_;
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

// Runs phases one after the other in at most `threads` threads; false if memory ran out.
template <class... Phases>
bool in_threads(int32_t threads, Phases &...phases) {
    const auto run = [&] { run_all(phases...); };
    const int64_t helpers = std::min<int64_t>(threads, std::max({phases.chunks()...})) - 1;
    if (helpers > 0) {
        const HelperAttributes attributes;
        std::deque<Helper<decltype(run)>> others;
        for (int64_t number = 0; number < helpers; number++) others.emplace_back(run, attributes);
        run();
    } else {
        run();
    }
    return (phases.succeeded() && ...);
}

}  // namespace
