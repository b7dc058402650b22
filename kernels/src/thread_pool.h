// Threads that stay alive between calls.
#ifndef EDGESEG_THREAD_POOL_H
#define EDGESEG_THREAD_POOL_H

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace edgeseg {

class ThreadPool {
  public:
    ThreadPool() = default;
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;
    ~ThreadPool();

    // Makes sure that `threads` can work at once, the caller being one of them.
    // Throws std::system_error when the operating system refuses.
    void reserve(int threads);

    // Calls task(index, worker) for every index below `tasks`; `worker` is below `threads` and no
    // two calls at the same time have the same one. The caller is worker 0 and takes part, so work
    // is done even while the others still wake up. Tasks must not throw.
    void run(int tasks, int threads, const std::function<void(int, int)>& task);

  private:
    void work(int worker);
    void drain(int worker);

    std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable done_;
    std::vector<std::thread> threads_;
    const std::function<void(int, int)>* task_ = nullptr;
    int tasks_ = 0;
    int wanted_ = 0;   // helpers called for by the run in progress
    int running_ = 0;  // helpers inside drain
    unsigned long generation_ = 0;
    bool stopping_ = false;
    std::atomic<int> next_{0};
};

}  // namespace edgeseg

#endif  // EDGESEG_THREAD_POOL_H
