#include "thread_pool.h"

namespace edgeseg {

ThreadPool::~ThreadPool() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
}

void ThreadPool::reserve(int threads) {
    while (static_cast<int>(threads_.size()) + 1 < threads) {
        threads_.reserve(threads_.size() + 1);
        const int worker = static_cast<int>(threads_.size()) + 1;
        threads_.emplace_back([this, worker] { work(worker); });
    }
}

void ThreadPool::run(int tasks, int threads, const std::function<void(int, int)>& task) {
    if (threads <= 1 || tasks <= 1) {
        for (int index = 0; index < tasks; ++index) task(index, 0);
        return;
    }
    {
        std::lock_guard<std::mutex> lock(mutex_);
        task_ = &task;
        tasks_ = tasks;
        wanted_ = threads - 1;
        next_.store(0, std::memory_order_relaxed);
        ++generation_;
    }
    wake_.notify_all();
    drain(0);
    // Every index is taken. Helpers that have not woken by now are no longer called for; those
    // inside drain must leave before `task` goes out of scope.
    std::unique_lock<std::mutex> lock(mutex_);
    wanted_ = 0;
    done_.wait(lock, [this] { return running_ == 0; });
    task_ = nullptr;
}

void ThreadPool::work(int worker) {
    unsigned long seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        wake_.wait(lock, [&] { return stopping_ || (generation_ != seen && worker <= wanted_); });
        if (stopping_) return;
        seen = generation_;
        ++running_;
        lock.unlock();
        drain(worker);
        lock.lock();
        if (--running_ == 0) done_.notify_one();
    }
}

void ThreadPool::drain(int worker) {
    for (;;) {
        const int index = next_.fetch_add(1, std::memory_order_relaxed);
        if (index >= tasks_) return;
        (*task_)(index, worker);
    }
}

}  // namespace edgeseg
