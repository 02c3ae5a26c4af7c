// Tokens from events: what scorer/features.py defines, each event looked at once.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <new>
#include <vector>

#include "kernels.h"

namespace {

// Items, and a number for each. All are forgotten at once, as when the next visit begins.
class Items {
  public:
    explicit Items(int64_t most)
        : slots_(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(most, 8)) * 2)),
          shift_(64 - std::countr_zero(slots_.size())) {}

    void forget() { visit_++; }

    // The number of an item, to be set where `fresh` says that it has none yet.
    int64_t &number(uint64_t item, bool &fresh) {
        Slot &slot = slot_of(item);
        fresh = slot.visit != visit_;
        if (fresh) slot = {item, visit_, 0};
        return slot.number;
    }

    // The number of an item; null where it has none.
    const int64_t *find(uint64_t item) {
        const Slot &slot = slot_of(item);
        return slot.visit == visit_ ? &slot.number : nullptr;
    }

  private:
    struct Slot {
        uint64_t item;
        int64_t visit;
        int64_t number;
    };

    Slot &slot_of(uint64_t item) {
        const uint64_t mask = slots_.size() - 1;
        uint64_t place = item * 0x9E3779B97F4A7C15u >> shift_;
        while (slots_[place].visit == visit_ && slots_[place].item != item) place = (place + 1) & mask;
        return slots_[place];
    }

    std::vector<Slot> slots_;
    int shift_;
    int64_t visit_ = 1;
};

void merge(const lifeline_events &events, int64_t gap_ms, lifeline_merged &merged) {
    Items visit(events.count);
    int64_t at = events.count;
    // From the newest on: the first event that is met of an item is its newest. Filled from the back, tokens ascend.
    for (int64_t event = events.count; event-- > 0;) {
        if (event + 1 < events.count && events.ms[event + 1] - events.ms[event] > gap_ms) visit.forget();
        bool fresh;
        int64_t &token = visit.number(events.items[event], fresh);
        if (fresh) {
            token = --at;
            merged.newest[at] = event;
            merged.types[at] = 0;
        }
        merged.types[token] |= uint64_t{1} << ((events.types[event] - 1) & 63);
    }
    merged.count = events.count - at;
    std::copy(merged.newest + at, merged.newest + events.count, merged.newest);
    std::copy(merged.types + at, merged.types + events.count, merged.types);
}

void engaged(const lifeline_events &shown, const lifeline_events &acted, int64_t gap_ms, uint8_t *found) {
    Items visit(acted.count);
    int64_t next_shown = 0, next_acted = 0;
    while (next_shown < shown.count) {
        // A visit: its events of either kind, in the order of their times.
        const int64_t first_shown = next_shown, first_acted = next_acted;
        int64_t end_ms = 0;
        for (bool begun = false;; begun = true) {
            const bool more_shown = next_shown < shown.count, more_acted = next_acted < acted.count;
            if (!more_shown && !more_acted) break;
            const bool of_shown = more_shown && (!more_acted || shown.ms[next_shown] <= acted.ms[next_acted]);
            const int64_t ms = of_shown ? shown.ms[next_shown] : acted.ms[next_acted];
            if (begun && ms - end_ms > gap_ms) break;
            end_ms = ms;
            ++(of_shown ? next_shown : next_acted);
        }
        bool fresh;
        for (int64_t event = first_acted; event < next_acted; event++) visit.number(acted.items[event], fresh);
        for (int64_t event = first_shown; event < next_shown; event++) found[event] = visit.find(shown.items[event]) != nullptr;
        visit.forget();
    }
}

void last_touch(const uint64_t *tokens, int64_t count, const uint64_t *items, int64_t item_count, int64_t *newest) {
    Items wanted(item_count);
    std::vector<int64_t> found;
    bool fresh;
    for (int64_t item = 0; item < item_count; item++) {
        int64_t &number = wanted.number(items[item], fresh);
        if (!fresh) continue;
        number = static_cast<int64_t>(found.size());
        found.push_back(-1);
    }
    for (int64_t token = count, missing = static_cast<int64_t>(found.size()); token-- > 0 && missing;) {
        const int64_t *number = wanted.find(tokens[token]);
        if (number == nullptr || found[*number] >= 0) continue;
        found[*number] = token;
        missing--;
    }
    for (int64_t item = 0; item < item_count; item++) newest[item] = found[wanted.number(items[item], fresh)];
}

}  // namespace

int32_t lifeline_merge(const lifeline_events *events, int64_t gap_ms, lifeline_merged *merged) {
    try {
        merge(*events, gap_ms, *merged);
    } catch (const std::bad_alloc &) {
        return 2;
    }
    return 0;
}

int32_t lifeline_last_touch(const uint64_t *tokens, int64_t count, const uint64_t *items, int64_t item_count,
                            int64_t *newest) {
    try {
        last_touch(tokens, count, items, item_count, newest);
    } catch (const std::bad_alloc &) {
        return 2;
    }
    return 0;
}

int32_t lifeline_engaged(const lifeline_events *shown, const lifeline_events *acted, int64_t gap_ms,
                         uint8_t *found) {
    try {
        engaged(*shown, *acted, gap_ms, found);
    } catch (const std::bad_alloc &) {
        return 2;
    }
    return 0;
}
