// Tokens from events, as scorer/features.py defines them, in one pass over the events.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <new>
#include <vector>

#include "kernels.h"

namespace {

// The hash of an item id; its upper bits are a slot of the hash table. One 128-bit product mixes as well as the two
// 64-bit products of store/id_hash.py.
class Hash {
  public:
    explicit Hash(const lifeline_seed &seed) : seed_(seed) {}

    uint64_t operator()(uint64_t item) const {
        const unsigned __int128 product = static_cast<unsigned __int128>(item ^ seed_.mask) * seed_.first;
        return (static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64)) * seed_.second;
    }

  private:
    const lifeline_seed seed_;
};

// A hash table of the items of a visit, with a number for each item.
class VisitItems {
  public:
    explicit VisitItems(const Hash &hash) : hash_(hash) {}

    // Removes all items, and makes room for a visit of at most `count` items.
    void begin(int64_t count) {
        visit_++;
        const uint64_t size = std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(count, 8)) * 2);
        // The table grows with the largest visit only, so that it stays in the cache.
        if (size <= slots_.size()) return;
        slots_.assign(size, {});
        shift_ = 64 - std::countr_zero(size);
    }

    // The number of an item. `is_new` is set if the item was not in the table: the caller then assigns the number.
    int64_t &number(uint64_t item, bool &is_new) {
        Slot &slot = slot_of(item);
        is_new = slot.visit != visit_;
        if (is_new) slot = {item, visit_, 0};
        return slot.number;
    }

    // The number of an item; null if it is not in the table.
    const int64_t *find(uint64_t item) {
        const Slot &slot = slot_of(item);
        return slot.visit == visit_ ? &slot.number : nullptr;
    }

    // Slots that were probed after an item's first one.
    int64_t probes() const { return probes_; }

  private:
    struct Slot {
        uint64_t item;
        int64_t visit;
        int64_t number;
    };

    Slot &slot_of(uint64_t item) {
        const uint64_t mask = slots_.size() - 1;
        uint64_t place = hash_(item) >> shift_;
        while (slots_[place].visit == visit_ && slots_[place].item != item) {
            place = (place + 1) & mask;
            probes_++;
        }
        return slots_[place];
    }

    const Hash hash_;
    std::vector<Slot> slots_;
    int shift_ = 0;
    int64_t visit_ = 0, probes_ = 0;
};

// A Bloom filter with one hash: about 256 bits for each item, so that most other items are rejected at once.
class BloomFilter {
  public:
    BloomFilter(const Hash &hash, int64_t count)
        : hash_(hash), words_(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(count, 1)) * 4)),
          shift_(64 - 6 - std::countr_zero(words_.size())) {}

    void add(uint64_t item) { words_[place(item) / 64] |= bit(item); }
    bool may_contain(uint64_t item) const { return words_[place(item) / 64] & bit(item); }

  private:
    uint64_t place(uint64_t item) const { return hash_(item) >> shift_; }
    uint64_t bit(uint64_t item) const { return uint64_t{1} << place(item) % 64; }

    const Hash hash_;
    std::vector<uint64_t> words_;
    int shift_;
};

void merge(const lifeline_events &events, int64_t gap_ms, const Hash &hash, lifeline_merged &merged) {
    VisitItems visit(hash);
    int64_t at = events.count;
    // From the newest event to the oldest: the first event of an item that is met is its newest. The output is filled from
    // its end, so that tokens ascend.
    for (int64_t end = events.count; end > 0;) {
        int64_t first = end - 1;
        while (first > 0 && events.ms[first] - events.ms[first - 1] <= gap_ms) first--;
        visit.begin(end - first);
        for (int64_t event = end; event-- > first;) {
            bool is_new;
            int64_t &token = visit.number(events.items[event], is_new);
            if (is_new) {
                token = --at;
                merged.newest[at] = event;
                merged.types[at] = 0;
            }
            merged.types[token] |= uint64_t{1} << ((events.types[event] - 1) & 63);
        }
        end = first;
    }
    merged.count = events.count - at;
    merged.probes = visit.probes();
    std::copy(merged.newest + at, merged.newest + events.count, merged.newest);
    std::copy(merged.types + at, merged.types + events.count, merged.types);
}

void engaged(const lifeline_events &shown, const lifeline_events &acted, int64_t gap_ms, const Hash &hash,
             uint8_t *found) {
    if (shown.count == 0) return;
    // Skips the actions before the first visit that has an impression.
    int64_t next_shown = 0, next_acted = std::lower_bound(acted.ms, acted.ms + acted.count, shown.ms[0]) - acted.ms;
    for (int64_t ms = shown.ms[0]; next_acted > 0 && ms - acted.ms[next_acted - 1] <= gap_ms;) ms = acted.ms[--next_acted];
    VisitItems visit(hash);
    while (next_shown < shown.count) {
        // One visit: its events of both kinds, by time.
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
        bool is_new;
        visit.begin(next_acted - first_acted);
        for (int64_t event = first_acted; event < next_acted; event++) visit.number(acted.items[event], is_new);
        for (int64_t event = first_shown; event < next_shown; event++) found[event] = visit.find(shown.items[event]) != nullptr;
    }
}

void last_touch(const uint64_t *tokens, int64_t count, const uint64_t *items, int64_t item_count, const Hash &hash,
                int64_t *newest) {
    VisitItems numbers(hash);
    BloomFilter filter(hash, item_count);
    numbers.begin(item_count);
    std::vector<int64_t> found;
    bool is_new;
    for (int64_t item = 0; item < item_count; item++) {
        int64_t &number = numbers.number(items[item], is_new);
        if (!is_new) continue;
        number = static_cast<int64_t>(found.size());
        found.push_back(-1);
        filter.add(items[item]);
    }
    for (int64_t token = count, missing = static_cast<int64_t>(found.size()); token-- > 0 && missing;) {
        if (!filter.may_contain(tokens[token])) continue;
        const int64_t *number = numbers.find(tokens[token]);
        if (number == nullptr || found[*number] >= 0) continue;
        found[*number] = token;
        missing--;
    }
    for (int64_t item = 0; item < item_count; item++) newest[item] = found[numbers.number(items[item], is_new)];
}

}  // namespace

int32_t lifeline_merge(const lifeline_events *events, int64_t gap_ms, const lifeline_seed *seed,
                       lifeline_merged *merged) {
    try {
        merge(*events, gap_ms, Hash(*seed), *merged);
    } catch (const std::bad_alloc &) {
        return LIFELINE_OUT_OF_MEMORY;
    }
    return LIFELINE_OK;
}

int32_t lifeline_last_touch(const uint64_t *tokens, int64_t count, const uint64_t *items, int64_t item_count,
                            const lifeline_seed *seed, int64_t *newest) {
    try {
        last_touch(tokens, count, items, item_count, Hash(*seed), newest);
    } catch (const std::bad_alloc &) {
        return LIFELINE_OUT_OF_MEMORY;
    }
    return LIFELINE_OK;
}

int32_t lifeline_engaged(const lifeline_events *shown, const lifeline_events *acted, int64_t gap_ms,
                         const lifeline_seed *seed, uint8_t *found) {
    try {
        engaged(*shown, *acted, gap_ms, Hash(*seed), found);
    } catch (const std::bad_alloc &) {
        return LIFELINE_OUT_OF_MEMORY;
    }
    return LIFELINE_OK;
}
