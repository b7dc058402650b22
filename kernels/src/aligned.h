// Scratch memory that begins at the start of a cache line.
#ifndef EDGESEG_ALIGNED_H
#define EDGESEG_ALIGNED_H

#include <cstddef>
#include <cstdint>
#include <vector>

namespace edgeseg {

constexpr size_t kCacheLine = 64;

// The values are zero at first. `Value` is smaller than a cache line.
template <typename Value>
class AlignedBuffer {
  public:
    // Keeps what it has if that is enough; else the contents are lost. Throws std::bad_alloc.
    void grow(size_t size) {
        if (size <= size_) return;
        values_.assign(size + kCacheLine / sizeof(Value), Value());
        const auto address = reinterpret_cast<uintptr_t>(values_.data());
        start_ = values_.data() + (kCacheLine - address % kCacheLine) % kCacheLine / sizeof(Value);
        size_ = size;
    }

    Value* data() { return start_; }

  private:
    std::vector<Value> values_;
    Value* start_ = nullptr;
    size_t size_ = 0;
};

}  // namespace edgeseg

#endif  // EDGESEG_ALIGNED_H
