// Runs the independent tasks of one call on a thread pool, each task on one thread.
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

// Schedules a function on another thread, now or later.
using Schedule = std::function<void(std::function<void()>)>;

// Runs tasks on a thread pool that belongs to the caller.
//
// The calling thread runs tasks too. At the end it waits only for tasks that another thread has
// begun, so it cannot deadlock when all threads of the pool are busy or are themselves in this
// call.
class Executor {
 public:
  Executor(std::int64_t threads, Schedule schedule)
      : threads_(std::max<std::int64_t>(1, threads)), schedule_(std::move(schedule)) {}

  std::int64_t threads() const { return threads_; }

  // Calls task(0) ... task(count - 1). Rethrows the first exception that a task threw.
  void run(std::int64_t count, const std::function<void(std::int64_t)>& task) const {
    if (count <= 1 || threads_ == 1) {
      for (std::int64_t i = 0; i < count; ++i) task(i);
      return;
    }
    auto state = std::make_shared<State>();
    state->count = count;
    state->task = &task;
    for (std::int64_t i = 1; i < std::min(count, threads_); ++i) {
      schedule_([state] { state->run_tasks(); });
    }
    state->run_tasks();
    // All tasks take about equally long, and sleeping and waking up takes as long as a short task.
    // So spin for a while before sleeping.
    for (int i = 0; i < spins && state->done.load(std::memory_order_acquire) < count; ++i) pause();
    std::unique_lock<std::mutex> lock(state->mutex);
    state->all_done.wait(lock, [&] { return state->done == count; });
    if (state->error) std::rethrow_exception(state->error);
  }

 private:
  static constexpr int spins = 4000;  // About 100 microseconds.

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  struct State {
    std::int64_t count = 0;
    const std::function<void(std::int64_t)>* task = nullptr;  // Lives until all tasks are done.
    std::atomic<std::int64_t> next{0};
    std::atomic<std::int64_t> done{0};
    std::exception_ptr error;  // Guarded by the mutex.
    std::mutex mutex;
    std::condition_variable all_done;

    void run_tasks() {
      for (std::int64_t i; (i = next.fetch_add(1)) < count;) {
        std::exception_ptr thrown;
        try {
          (*task)(i);
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
