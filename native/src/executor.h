// Who runs the parts of one convolution. Parts are independent, each runs on one thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

namespace flax_resnet {

// Schedules work on other threads, now or later.
using Schedule = std::function<void(std::function<void()>)>;

// A pool borrowed from the caller.
//
// The calling thread takes parts too, and at the end waits only for parts that another thread has
// begun: a pool whose threads are all busy, or all here, cannot make it wait for ever.
class Executor {
 public:
  Executor(std::int64_t threads, Schedule schedule)
      : threads_(std::max<std::int64_t>(1, threads)), schedule_(std::move(schedule)) {}

  std::int64_t threads() const { return threads_; }

  // Calls part(0) ... part(count - 1); throws what one of them threw.
  void run(std::int64_t count, const std::function<void(std::int64_t)>& part) const {
    if (count <= 1 || threads_ == 1) {
      for (std::int64_t i = 0; i < count; ++i) part(i);
      return;
    }
    auto state = std::make_shared<State>();
    state->count = count;
    state->part = &part;
    for (std::int64_t i = 1; i < std::min(count, threads_); ++i) {
      schedule_([state] { state->work(); });
    }
    state->work();
    // Parts take about as long as each other, and to sleep and be woken takes as long as some do.
    for (int i = 0; i < spins && state->done.load(std::memory_order_acquire) < count; ++i) pause();
    std::unique_lock<std::mutex> lock(state->mutex);
    state->all_done.wait(lock, [&] { return state->done == count; });
    if (state->error) std::rethrow_exception(state->error);
  }

 private:
  static constexpr int spins = 4000;  // about 100 microseconds

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  struct State {
    std::int64_t count = 0;
    const std::function<void(std::int64_t)>* part = nullptr;  // alive until the last part is done
    std::atomic<std::int64_t> next{0};
    std::atomic<std::int64_t> done{0};
    std::exception_ptr error;  // guarded by mutex
    std::mutex mutex;
    std::condition_variable all_done;

    void work() {
      for (std::int64_t i; (i = next.fetch_add(1)) < count;) {
        std::exception_ptr thrown;
        try {
          (*part)(i);
        } catch (...) {
          thrown = std::current_exception();
        }
        std::lock_guard<std::mutex> lock(mutex);
        if (thrown && !error) error = thrown;
        if (++done == count) all_done.notify_all();
      }
    }
  };

  std::int64_t threads_;
  Schedule schedule_;
};

}  // namespace flax_resnet
